//go:build privileged

package integration_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/tests/agent"
)

// attackerUser makes the process in the pod give up all power first.
const attackerUser = "CLOSURED_TEST_POD_USER"

// TestFault45PodsCannotWriteToTheStore lets pods of all kinds attack their
// volume. The shared store, and what another pod sees of it, stays as it was,
// and no name of another closure can be found.
func TestFault45PodsCannotWriteToTheStore(t *testing.T) {
	if isInPod(t) {
		if os.Getenv(attackerUser) != "" {
			giveUpPower(t)
		}
		attackVolume("/nix")
		tell("done")
		return
	}
	t.Parallel()
	n := start(t, agent.Config{Args: offline()})
	root := nixtest.SyntheticClosure(t, n.StateDir(), 3, "victim")
	hidden := agent.StorePath(50, nixtest.SyntheticClosure(t, n.StateDir(), 3, "hidden"))
	n.publish(hidden)
	n.logged("nix works") // the self-test, which puts something into the store, is over
	before := describeTree(t, filepath.Join(n.StateDir(), "nix", "store"))
	for i, p := range pods() {
		for _, view := range []string{"the redirect overlay", "the hard link view"} {
			userNamespace := p.attr.Cloneflags&syscall.CLONE_NEWUSER != 0
			if view == "the hard link view" && !userNamespace {
				continue // only pods with a user namespace get it
			}
			t.Run(p.name+" at "+view, func(t *testing.T) {
				n, v := n.as(t), agent.StorePath(i, root)
				if view == "the hard link view" {
					v.Attributes["hostUsers"] = "false"
				}
				n.publish(v)
				var env []string
				if !userNamespace && p.name != "root with all capabilities" {
					env = append(env, attackerUser+"=1")
				}
				for _, line := range runInPod(t, p, n.Target(v), env...) {
					t.Errorf("the pod %s", line)
				}
				n.requireClosure(v, root)
				n.unpublish(v)
			})
		}
	}
	if diff := cmp.Diff(before, describeTree(t, filepath.Join(n.StateDir(), "nix", "store"))); diff != "" {
		t.Errorf("the store has changed (-before +after):\n%s", diff)
	}
	n.requireClosure(hidden, hidden.Attributes["storePath"])
	n.unpublish(hidden)
	n.requireNothing()
}

// TestFault45AttacksWorkElsewhere shows that the attacks are real: on a bind mount
// of the store itself, root succeeds with nearly all of them.
func TestFault45AttacksWorkElsewhere(t *testing.T) {
	if isInPod(t) {
		attackVolume("/nix")
		tell("done")
		return
	}
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	nixtest.SyntheticClosure(t, dir, 3, "victim")
	nixtest.SyntheticClosure(t, dir, 3, "hidden")
	at := filepath.Join(dir, "nix")
	makeDir(t, filepath.Join(at, "var"))
	writeFile(t, filepath.Join(at, "var", "closure.json"), "{}")
	lines := strings.Join(runInPod(t, pods()[0], at), "\n")
	for _, want := range []string{"opened", "chmod", "chown", "setxattr", "unlinked", "renamed", "mknod", "made a file", "truncated", "linked", "finds"} {
		if !strings.Contains(lines, want) {
			t.Errorf("%q does not work even on the bare store:\n%.2000s", want, lines)
		}
	}
}

// giveUpPower becomes nobody, without capabilities or a way to get some.
func giveUpPower(t *testing.T) {
	t.Helper()
	const nobody = 65534
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
}

// attackVolume does all that a pod may try on the volume at, and tells what
// works. First it tries to make it writable; whether or not that works, to write.
func attackVolume(at string) {
	remounts := map[string]func() error{
		"at once":              func() error { return nil },
		"after a remount":      func() error { return unix.Mount("", at, "", unix.MS_REMOUNT, "") },
		"after a bind remount": func() error { return unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND, "") },
		"after mount_setattr": func() error {
			flags := unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
			return unix.MountSetattr(unix.AT_FDCWD, at, 0, &unix.MountAttr{Attr_clr: uint64(flags)})
		},
		"after a bind mount of its own": func() error {
			return errors.Join(unix.Mount(at, at, "", unix.MS_BIND, ""), unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND, ""))
		},
	}
	findHidden(at)
	for when, remount := range remounts {
		_ = remount()
		write(when, at)
	}
	for unix.Unmount(at, unix.MNT_DETACH) == nil { // the pod's own copies of the mount, one by one
	}
	if unix.Access(at+"/store", unix.F_OK) != nil { // what was below is the pod's own folder
		lookBelow(at)
	}
}

// findHidden looks for the other closure, by its listed and by its guessed names.
func findHidden(at string) {
	_ = filepath.WalkDir("/", func(path string, _ fs.DirEntry, err error) error {
		if strings.Contains(path, "-hidden-") {
			tell("finds %s", path)
		}
		if err != nil {
			return fs.SkipDir
		}
		return nil
	})
	for _, dir := range []string{"..", "../..", "store/..", "store/../..", "var/../.."} {
		entries, err := os.ReadDir(at + "/" + dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if strings.Contains(e.Name(), "-hidden-") {
				tell("finds %s in %s", e.Name(), dir)
			}
		}
	}
}

// lookBelow is for a volume that could be unmounted: below must be the pod's own
// empty folder, not a part of the store.
func lookBelow(at string) {
	entries, err := os.ReadDir(at)
	if err == nil && len(entries) > 0 {
		tell("sees %v below its volume", entries)
	}
}

// write tries each way to change something.
func write(when, at string) {
	paths, _ := filepath.Glob(at + "/store/*-syn-victim-*")
	if len(paths) == 0 {
		return // unmounted before
	}
	for _, file := range append(globAll(paths, "bin/run"), append(globAll(paths, "share/f0"), at+"/var/closure.json")...) {
		try(when, "opened", file, openAndWrite(file))
		try(when, "truncated", file, unix.Truncate(file, 0))
		try(when, "chmod", file, unix.Chmod(file, 0o4777))
		try(when, "linked", file, unix.Link(file, file+"2"))
		try(when, "unlinked", file, unix.Unlink(file))
	}
	for _, dir := range append(paths, at+"/store", at+"/var", at) {
		try(when, "chmod", dir, unix.Chmod(dir, 0o777))
		try(when, "chown", dir, unix.Lchown(dir, 1, 1))
		try(when, "setxattr", dir, unix.Lsetxattr(dir, "user.x", []byte("x"), 0))
		try(when, "setxattr for a redirect", dir, unix.Lsetxattr(dir, "trusted.overlay.redirect", []byte("/"), 0))
		try(when, "setxattr for an opaque folder", dir, unix.Lsetxattr(dir, "trusted.overlay.opaque", []byte("y"), 0))
		try(when, "utimes", dir, unix.UtimesNanoAt(unix.AT_FDCWD, dir, nil, unix.AT_SYMLINK_NOFOLLOW))
		try(when, "made a file", dir, unix.Mknod(dir+"/new", unix.S_IFREG|0o644, 0))
		try(when, "made a folder", dir, unix.Mkdir(dir+"/newdir", 0o755))
		try(when, "mknod", dir, unix.Mknod(dir+"/disk", unix.S_IFBLK|0o666, int(unix.Mkdev(7, 0))))
		try(when, "made a symlink", dir, unix.Symlink("/", dir+"/link"))
		try(when, "renamed", dir, unix.Rename(dir, dir+"2"))
	}
}

func globAll(dirs []string, name string) []string {
	files := make([]string, 0, len(dirs))
	for _, dir := range dirs {
		files = append(files, filepath.Join(dir, name))
	}
	return files
}

func openAndWrite(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	_, err = unix.Pwrite(fd, []byte("owned"), 0)
	return err
}

func try(when, what, path string, err error) {
	if err == nil {
		tell("%s %s %s", what, path, when)
	}
}

// TestFault44SetuidAndDevicesInAClosure puts by hand what Nix would never put into
// a store: a set-uid program. It has no effect in a volume.
func TestFault44SetuidAndDevicesInAClosure(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{Args: offline()})
	root := nixtest.SyntheticClosure(t, n.StateDir(), 1, "setuid")
	id, err := exec.LookPath("id")
	if err != nil {
		t.Skip("needs id in PATH")
	}
	program, err := os.ReadFile(id)
	if err != nil {
		t.Fatal(err)
	}
	inStore := filepath.Join(n.StateDir()+root, "bin", "id")
	device := filepath.Join(n.StateDir()+root, "bin", "null")
	for _, err := range []error{
		os.WriteFile(inStore, program, 0o755), unix.Chmod(inStore, 0o4755),
		unix.Mknod(device, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), unix.Chmod(device, 0o666),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := userOf(t, inStore); got != "0" {
		t.Skipf("set-uid programs do not even work in the store here (uid %s): the file system is nosuid", got)
	}
	v := agent.StorePath(1, root)
	n.publish(v)
	inVolume := filepath.Join(n.Target(v), "store", filepath.Base(root), "bin")
	for dir := n.Target(v); dir != n.Dir(); dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755) // so that nobody gets there
	}
	if got := userOf(t, filepath.Join(inVolume, "id")); got != "65534" {
		t.Errorf("the set-uid program runs as uid %s", got)
	}
	if f, err := os.Open(filepath.Join(inVolume, "null")); !errors.Is(err, unix.EACCES) {
		_ = f.Close()
		t.Errorf("opening a device gives %v", err)
	}
	n.requireOneMount(n.Target(v))
	n.unpublish(v)
}

// userOf runs a program like id as nobody.
func userOf(t *testing.T, program string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, "-u")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("running %s: %v: %s", program, err, out)
	}
	return strings.TrimSpace(string(out))
}
