//go:build privileged

package view_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
)

// roleVariable makes this program play a part in a test, instead of being one.
const roleVariable = "CLOSURED_TEST_ROLE"

// Roles.
const (
	roleAttacker = "attacker" // argument: the path of a volume; prints what worked
	roleAgent    = "agent"    // arguments: state, kubelet, a line for each closure; mounts until killed
)

// play plays a role and gives the exit code.
func play(role string) int {
	switch role {
	case roleAttacker:
		attack(os.Args[1])
		return 0
	case roleAgent:
		if err := storm(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return 1
}

// roleCommand runs this program in a role.
func roleCommand(tb testing.TB, role string, args ...string) *exec.Cmd {
	tb.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// attack does all that a pod may try on its volume, and prints what works: to make
// it writable, and, whether or not that works, to write.
func attack(at string) {
	root := filepath.Join(at, "store", storePath(1, "root").BaseName())
	tool := filepath.Join(root, "bin", "tool")
	file := filepath.Join(at, "store", storePath(2, "file.conf").BaseName())
	remounts := map[string]uintptr{
		"remount":      unix.MS_REMOUNT,
		"bind remount": unix.MS_REMOUNT | unix.MS_BIND,
	}
	for name, flags := range remounts {
		try(name, unix.Mount("", at, "", flags, ""))
		for _, p := range []string{tool, file, filepath.Join(at, "var", "closure.json")} {
			try(name+", then open "+p, openToWrite(p))
		}
		for _, p := range []string{tool, root, file, filepath.Join(at, "store"), at} {
			try(name+", then chmod "+p, unix.Chmod(p, 0o777))
			try(name+", then chown "+p, unix.Lchown(p, 1, 1))
			try(name+", then setxattr "+p, unix.Lsetxattr(p, "user.x", []byte("x"), 0))
			try(name+", then redirect "+p, unix.Lsetxattr(p, "trusted.overlay.redirect", []byte("/"), 0))
			try(name+", then utimes "+p, setTimeNow(p))
		}
		try(name+", then unlink", unix.Unlink(tool))
		try(name+", then unlink of a file", unix.Unlink(file))
		try(name+", then truncate", unix.Truncate(tool, 0))
		try(name+", then link", unix.Link(tool, tool+"2"))
		try(name+", then mkdir", unix.Mkdir(filepath.Join(at, "store", "new"), 0o755))
		try(name+", then mknod", unix.Mknod(filepath.Join(root, "dev"), unix.S_IFBLK|0o666, int(unix.Mkdev(7, 0))))
		try(name+", then symlink", unix.Symlink("/", filepath.Join(at, "x")))
		try(name+", then rename", unix.Rename(root, root+"2"))
	}
	hidden := storePath(6, "hidden").BaseName()
	for _, p := range []string{"../" + hidden, "store/" + hidden, "store/../../" + hidden, "../store/" + hidden, "../../" + hidden} {
		if _, err := os.Lstat(at + "/" + p); err == nil {
			fmt.Println("sees", p)
		}
	}
}

func openToWrite(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err == nil {
		_, err = unix.Pwrite(fd, []byte("owned"), 0)
		_ = unix.Close(fd)
	}
	return err
}

func setTimeNow(path string) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, nil, unix.AT_SYMLINK_NOFOLLOW)
}

// try prints what worked. A bind remount alone may work: it changes a flag of the
// attacker's own copy of the mount.
func try(what string, err error) {
	if err == nil && !strings.HasSuffix(what, "remount") {
		fmt.Println("works:", what)
	}
}

// storm mounts and unmounts volumes until it is killed. It says "ready" when the
// volumes named fixed-* are mounted, which then stay.
func storm(state, kubelet string, roots []string) error {
	s, err := storeOf(state, roots)
	if err != nil {
		return err
	}
	ctx := context.Background()
	m, err := view.New(ctx, view.Config{StateDir: state, StoreDir: s.dir, Closures: s, IdleTime: 1})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		for n, root := range roots {
			v := view.Volume{ID: fmt.Sprintf("fixed-%d", n), Root: nixstore.MustParseStorePath(root), Registration: 1}
			if i > 0 {
				v.ID = fmt.Sprintf("moving-%d-%d", n, i%3)
			}
			v.Writable = i%3 == 1 || (i == 0 && n == 1)
			v.UserNamespace = i%3 == 2
			if err := cycle(ctx, m, kubelet, v, i == 0); err != nil {
				return err
			}
		}
		if i == 0 {
			fmt.Println("ready")
		}
	}
}

// cycle mounts a volume and, unless it stays, unmounts it again.
func cycle(ctx context.Context, m *view.Manager, kubelet string, v view.Volume, stays bool) error {
	path := filepath.Join(kubelet, v.ID, "mount")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	t, err := view.OpenTarget(kubelet, path)
	if err != nil {
		return err
	}
	defer t.Close()
	if err := m.Mount(ctx, v, t); err != nil && (!stays || !errors.Is(err, nixstore.ErrConflict)) {
		return err
	}
	if stays {
		return nil
	}
	return m.Unmount(ctx, v.ID, t)
}

// storeOf makes closures of one path each out of what is in a store folder.
func storeOf(state string, roots []string) (*fakeStore, error) {
	s := &fakeStore{dir: filepath.Join(state, "nix", "store"), closures: map[nixstore.StorePath]nixstore.Closure{}}
	for _, text := range roots {
		root, err := nixstore.ParseStorePath(text)
		if err != nil {
			return nil, err
		}
		s.add(1, root)
	}
	return s, nil
}

// waitFor reads the output of a role until a line comes.
func waitFor(tb testing.TB, lines *bufio.Scanner, line string) {
	tb.Helper()
	for lines.Scan() {
		if lines.Text() == line {
			return
		}
		tb.Errorf("the role says %s", lines.Text())
	}
	tb.Fatalf("the role ended before it said %q", line)
}
