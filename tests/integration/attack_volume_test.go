//go:build privileged

package integration_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/tests/agent"
)

const layerBytes = 8 << 20

// writableVolume is a private writable volume of pod number i.
func writableVolume(i int, root string) agent.Volume {
	v := volume(i, map[string]string{"storePath": root, "writable": "true", "sizeLimit": "8Mi"})
	v.Writable = true
	return v
}

// TestFault45WritableVolumeIsPrivate: what a pod writes, it alone sees, up to
// its limit, and until it goes.
func TestFault45WritableVolumeIsPrivate(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{Args: offline()})
	root := nixtest.SyntheticClosure(t, n.StateDir(), 3, "writable")
	n.logged("nix works") // the self-test, which puts something into the store, is over
	before := describeTree(t, filepath.Join(n.StateDir(), "nix", "store"))
	one, two, plain := writableVolume(1, root), writableVolume(2, root), agent.StorePath(3, root)
	for _, v := range []agent.Volume{one, two, plain} {
		n.publish(v)
	}
	base := filepath.Base(root)
	in := func(v agent.Volume, name string) string { return filepath.Join(n.Target(v), name) }
	for _, err := range []error{
		os.WriteFile(in(one, "store/new"), []byte("new"), 0o644),
		os.WriteFile(in(one, "file"), []byte("x"), 0o644),
		unix.Chmod(in(one, "store/"+base), 0o755),
		os.WriteFile(in(one, "store/"+base+"/share/new"), []byte("new"), 0o644),
		unix.Chmod(in(one, "store/"+base+"/share/f0"), 0o644),
		os.WriteFile(in(one, "store/"+base+"/share/f0"), []byte("changed"), 0o644),
		os.Remove(in(one, "store/"+base+"/share/f1")),
		os.RemoveAll(in(one, "store/"+base+"/bin")),
		os.Remove(in(one, "var/result")),
	} {
		if err != nil {
			t.Errorf("the pod cannot write: %v", err)
		}
	}
	n.requireClosure(plain, root)
	for _, name := range []string{"share/f0", "share/f1", "bin/run"} {
		want, _ := os.ReadFile(n.StateDir() + root + "/" + name)
		got, err := os.ReadFile(in(two, "store/"+base+"/"+name))
		if err != nil || string(got) != string(want) || len(want) == 0 {
			t.Errorf("the other pod's %s has %d bytes, want %d (%v)", name, len(got), len(want), err)
		}
	}
	if err := writeAsNobody(t, in(two, "store/mine")); err != nil {
		t.Errorf("an ordinary user cannot write: %v", err)
	}
	n.publish(one) // again: nothing is lost
	if text, err := os.ReadFile(in(one, "store/"+base+"/share/f0")); err != nil || string(text) != "changed" {
		t.Errorf("after the second publish the file is %q, %v", text, err)
	}
	n.requireNoDevices(in(one, "store"))
	n.requireBounded(one, two)
	for _, v := range []agent.Volume{one, two, plain} {
		n.unpublish(v)
	}
	n.requireNothing()
	requireSame(t, before, describeTree(t, filepath.Join(n.StateDir(), "nix", "store")))
	if left, err := os.ReadDir(filepath.Join(n.StateDir(), "writable")); err != nil || len(left) > 0 {
		t.Errorf("layers are left: %v, %v", left, err)
	}
	n.requireNoLoops()
	n.publish(one) // afresh
	if _, err := os.Lstat(in(one, "store/new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the pod after it sees what the first wrote: %v", err)
	}
	n.unpublish(one)
}

// requireNoLoops checks that no loop device shows a file of the node any more.
func (n node) requireNoLoops() {
	n.t.Helper()
	eventually(n.t, 10*time.Second, "the end of the loop devices", func() error {
		files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
		for _, file := range files {
			if name, readErr := os.ReadFile(file); readErr == nil && strings.HasPrefix(string(name), n.Dir()) {
				return fmt.Errorf("%s shows %s", file, name)
			}
		}
		return err
	})
}

func requireSame(t *testing.T, before, after map[string]string) {
	t.Helper()
	for name, text := range before {
		if after[name] != text {
			t.Errorf("%s was %s and is %s", name, text, after[name])
		}
	}
	if len(before) != len(after) {
		t.Errorf("there were %d names, and are %d", len(before), len(after))
	}
}

// requireBounded fills one volume and checks that only that one is full.
func (n node) requireBounded(one, two agent.Volume) {
	n.t.Helper()
	written, err := writeUntilItFails(filepath.Join(n.Target(one), "store", "big"))
	if !errors.Is(err, unix.ENOSPC) || written > layerBytes {
		n.t.Errorf("after %d bytes writing gives %v", written, err)
	}
	if err := os.WriteFile(filepath.Join(n.Target(two), "store", "small"), make([]byte, 1<<20), 0o644); err != nil {
		n.t.Errorf("the other pod is full, too: %v", err)
	}
	var used int64
	err = filepath.WalkDir(filepath.Join(n.StateDir(), "writable"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		var stat unix.Stat_t
		err = unix.Lstat(path, &stat)
		used += stat.Blocks * 512 // stat(2): blocks are 512 bytes
		return err
	})
	if err != nil || used > 2*layerBytes {
		n.t.Errorf("two volumes of %d bytes take %d on the node (%v)", layerBytes, used, err)
	}
}

func writeUntilItFails(path string) (written int, err error) {
	file, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	for block := make([]byte, 1<<16); written < 64<<20; {
		n, err := file.Write(block)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// writeAsNobody makes a file as an ordinary user of the pod would. The folder is
// handed over open, as that user may not go through kubelet's own.
func writeAsNobody(t *testing.T, path string) error {
	t.Helper()
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	cmd := exec.CommandContext(t.Context(), "touch", filepath.Join("/proc/self/fd/3", filepath.Base(path)))
	cmd.ExtraFiles = []*os.File{dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// requireNoDevices makes a device in a writable volume: it cannot be opened. Nor do
// set-uid programs have an effect there.
func (n node) requireNoDevices(dir string) {
	n.t.Helper()
	device := filepath.Join(dir, "null")
	if err := unix.Mknod(device, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		n.t.Error(err)
	}
	if f, err := os.Open(device); !errors.Is(err, unix.EACCES) {
		_ = f.Close()
		n.t.Errorf("opening a device in the writable volume gives %v", err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil || stat.Flags&unix.ST_NOSUID == 0 || stat.Flags&unix.ST_NODEV == 0 {
		n.t.Errorf("the flags of the writable volume are %#x, %v", stat.Flags, err)
	}
}

// TestHostUsersFalseCanBeMapped does to the volume of a pod with a user namespace
// what a container runtime does: it maps the ids of the mount.
func TestHostUsersFalseCanBeMapped(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{Args: offline()})
	root := nixtest.SyntheticClosure(t, n.StateDir(), 3, "mapped")
	v := volume(1, map[string]string{"storePath": root, "hostUsers": "false"})
	n.publish(v)
	n.requireClosure(v, root)
	at := filepath.Join(n.Dir(), "mapped")
	makeDir(t, at)
	if err := mountMapped(t, n.Target(v), at); err != nil {
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
			t.Skipf("needs a kernel and a file system that map ids: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	plain, mapped := describeTree(t, n.Target(v)), describeTree(t, at)
	for name, text := range plain {
		if want := strings.Replace(text, " 0:0 ", " 200000:200000 ", 1); mapped[name] != want {
			t.Errorf("%s is %s when it is mapped, want %s", name, mapped[name], want)
		}
	}
	if err := os.WriteFile(filepath.Join(at, "store", "x"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing gives %v", err)
	}
	if err := unix.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	n.unpublish(v)
	n.requireNothing()
}

// mountMapped mounts a clone of from at at, with the ids of a pod.
func mountMapped(t *testing.T, from, at string) error {
	t.Helper()
	holder := exec.CommandContext(t.Context(), "sleep", "60")
	holder.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: rangeOf(200_000), GidMappings: rangeOf(200_000), Pdeathsig: syscall.SIGKILL,
	}
	if err := holder.Start(); err != nil {
		return err
	}
	defer func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	}()
	users, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", holder.Process.Pid))
	if err != nil {
		return err
	}
	defer func() { _ = users.Close() }()
	tree, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(tree) }()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("mapping ids: %w", err)
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
}
