//go:build privileged

package view_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

func TestFault45PodsCannotWriteToTheStore(t *testing.T) {
	userNamespace := &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1 << 16}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1 << 16}},
	}
	tests := []struct {
		name, kind string
		attr       *syscall.SysProcAttr
	}{
		{"a privileged pod at a redirect overlay", "redirect overlay", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}},
		{"a privileged pod in a user namespace at a redirect overlay", "redirect overlay", userNamespace},
		{"a privileged pod in a user namespace at a hard link view", "hard link view", userNamespace},
		{"a pod at a redirect overlay", "redirect overlay", asNobody()},
		{"a pod at a hard link view", "hard link view", asNobody()},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := newEnv(t)
			e.start(kinds[test.kind]...)
			before := describe(t, e.store.dir)
			at := e.mount(e.volume("vol", e.small))
			openWay(t, filepath.Dir(at))
			cmd := roleCommand(t, roleAttacker, at)
			cmd.SysProcAttr = test.attr
			out, err := cmd.Output()
			if err != nil || len(out) != 0 {
				t.Errorf("%v\n%s", err, out)
			}
			e.sameStore(before)
			e.sameAsStore(at, e.small)
		})
	}
}

// The attacks are real: on a plain writable bind mount they work.
func TestAttacksWorkElsewhere(t *testing.T) {
	e := newEnv(t)
	at := tempDir(t)
	must(t, os.MkdirAll(filepath.Join(at, "var"), 0o755))
	must(t, os.WriteFile(filepath.Join(at, "var", "closure.json"), nil, 0o644))
	must(t, os.Mkdir(filepath.Join(at, "store"), 0o755))
	must(t, unix.Mount(e.store.dir, filepath.Join(at, "store"), "", unix.MS_BIND, ""))
	must(t, unix.Mount(at, at, "", unix.MS_BIND|unix.MS_REC, ""))
	out, err := roleCommand(t, roleAttacker, at).Output()
	must(t, err)
	for _, want := range []string{"open", "chmod", "setxattr", "unlink", "rename", "mknod", "sees"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%s does not work", want)
		}
	}
}

func TestFault44SetuidAndDevices(t *testing.T) {
	for name, change := range kinds {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.start(change...)
			dir, file := storePath(20, "setuid"), storePath(21, "setuid-file")
			id, err := exec.LookPath("id")
			must(t, err)
			for p, rel := range map[nixstore.StorePath]string{dir: "bin/id", file: ""} {
				program, err := os.ReadFile(id)
				must(t, err)
				e.write(p, rel, string(program), 0o555)
				must(t, unix.Chmod(e.physical(p, rel), 0o4777))
			}
			at := e.mount(e.volume("vol", e.store.add(1, dir, file)))
			openWay(t, e.store.dir)
			openWay(t, filepath.Dir(at))
			inStore := e.physical(dir, "bin/id")
			if got := idOf(t, inStore); got != "0" {
				t.Fatalf("setuid does not even work in the store: uid %s", got)
			}
			for _, p := range []string{dir.BaseName() + "/bin/id", file.BaseName()} {
				if got := idOf(t, filepath.Join(at, "store", p)); got != "65534" {
					t.Errorf("%s runs as uid %s", p, got)
				}
			}
			if mode := unixMode(lstat(t, filepath.Join(at, "store", file.BaseName()))); mode != 0o555 {
				t.Errorf("a setuid file has mode %o", mode)
			}
			mode := unixMode(lstat(t, filepath.Join(at, "store", dir.BaseName(), "bin", "id")))
			if change != nil && mode != 0o555 {
				t.Errorf("a setuid file is linked with mode %o", mode)
			}
			e.checkFlags(at)
		})
	}
}

func (e *env) checkFlags(at string) {
	e.tb.Helper()
	var st unix.Statfs_t
	must(e.tb, unix.Statfs(at, &st))
	const want = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOATIME
	if st.Flags&want != want || st.Flags&unix.ST_NOEXEC != 0 {
		e.tb.Errorf("the volume has the flags %#x", st.Flags)
	}
}

// idOf runs a program like id as nobody.
func idOf(tb testing.TB, program string) string {
	tb.Helper()
	cmd := exec.Command(program, "-u")
	cmd.SysProcAttr = asNobody()
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestFault44DevicesCannotBeOpened(t *testing.T) {
	e := newEnv(t)
	m := e.start()
	dir, device := storePath(22, "devices"), storePath(23, "device")
	must(t, os.Mkdir(e.physical(dir, ""), 0o755))
	must(t, unix.Mknod(e.physical(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	c := e.store.add(1, dir)
	at := e.mount(e.volume("vol", c))
	if f, err := os.Open(filepath.Join(at, "store", dir.BaseName(), "null")); !errors.Is(err, unix.EACCES) {
		_, _ = io.Copy(io.Discard, f)
		t.Errorf("opening a device gives %v", err)
	}
	v := e.volume("linked", c)
	v.UserNamespace = true
	if err := m.Mount(t.Context(), v, e.target("linked")); !errors.Is(err, nixstore.ErrCorrupt) {
		t.Errorf("linking a device gives %v, want ErrCorrupt", err)
	}
	must(t, unix.Mknod(e.physical(device, ""), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	if err := m.Mount(t.Context(), e.volume("bare", e.store.add(1, device)), e.target("bare")); !errors.Is(err, nixstore.ErrCorrupt) {
		t.Errorf("showing a device gives %v, want ErrCorrupt", err)
	}
}
