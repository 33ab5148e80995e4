// Package nixtest helps tests that use real Nix: it finds the fixtures, makes
// state directories that go away again, and fills stores with closures.
//
// It is imported by tests only and is no part of the agent. Nothing here fakes
// Nix: a test that cannot have it is skipped and says why. Its functions may be
// called concurrently; what a killed test leaves are folders named cl-* and
// closured-busybox-* in the folder for temporary files.
package nixtest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/closured/closured/internal/mountpoints"
)

// Require skips the test unless it runs as root on a machine with Nix.
func Require(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root: a Nix daemon over a chroot store builds sandboxed")
	}
	for _, program := range []string{"nix-store", "nix-daemon"} {
		if _, err := exec.LookPath(program); err != nil {
			tb.Skipf("needs %s in PATH (Debian package nix-bin)", program)
		}
	}
}

// Fixture gives the absolute path of a file of tests/testdata/nix. A test
// binary that runs away from its source tree finds it by CLOSURED_TESTDATA, a
// copy of tests/testdata.
func Fixture(tb testing.TB, name string) string {
	tb.Helper()
	path := filepath.Join(testdata(tb), "nix", name)
	if _, err := os.Stat(path); err != nil {
		tb.Fatalf("finding the fixture (set CLOSURED_TESTDATA away from the source tree): %v", err)
	}
	return path
}

func testdata(tb testing.TB) string {
	tb.Helper()
	if dir := os.Getenv("CLOSURED_TESTDATA"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			tb.Fatal(err)
		}
		return abs
	}
	// The path the compiler saw; with -trimpath it is not absolute, and the
	// working folder of `go test` is inside the module.
	_, file, _, ok := runtime.Caller(0)
	if ok && filepath.IsAbs(file) {
		return filepath.Join(filepath.Dir(file), "..", "..", "tests", "testdata")
	}
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for dir != filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	return filepath.Join(dir, "tests", "testdata")
}

// Busybox gives a tree with bin/busybox and its applets, for the argument
// busybox of the fixtures. It is made once for each version of the machine's
// busybox and kept for later tests. Without a static busybox the test is skipped.
func Busybox(tb testing.TB) string {
	tb.Helper()
	program, err := exec.LookPath("busybox")
	if err != nil {
		tb.Skip("needs a static busybox in PATH (Debian package busybox-static)")
	}
	data, err := os.ReadFile(program)
	if err != nil {
		tb.Fatal(err)
	}
	sum := sha256.Sum256(data)
	tree := filepath.Join(os.TempDir(), fmt.Sprintf("closured-busybox-%d-%s", os.Geteuid(), hex.EncodeToString(sum[:6])))
	if ours(tree) {
		return tree
	}
	made, err := os.MkdirTemp(os.TempDir(), "closured-busybox-new-")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(made) }()
	script := Fixture(tb, "mk-busybox.sh")
	if out, err := exec.CommandContext(tb.Context(), script, made, program).CombinedOutput(); err != nil {
		tb.Fatalf("making the busybox tree: %v\n%s", err, out)
	}
	if err := os.Chmod(made, 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(made, tree); err != nil && !ours(tree) { // another test may have been quicker
		tb.Fatal(err)
	}
	return tree
}

// ours tells whether path is a folder of this user, and not one that somebody
// else put at its well-known name.
func ours(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// StateDir gives a new state directory with mode 0755 and a path of about 20
// bytes, since the path of a unix socket ends at 107. It is removed when the
// test ends; mounts that the test left below it are detached first, so that
// nothing is removed through them.
func StateDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/tmp", "cl-")
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := RemoveTree(dir); err != nil {
			tb.Errorf("removing the state directory: %v", err)
		}
	})
	return dir
}

// RemoveTree removes dir with its read-only store. Mounts below dir are
// detached first; when one cannot be, nothing is removed.
func RemoveTree(dir string) error {
	if err := mountpoints.Detach(dir); err != nil {
		return err
	}
	if os.Geteuid() != 0 { // root needs no permission
		if err := openUp(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// openUp lets the owner change dir and all folders below it.
func openUp(dir string) error {
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			err = root.Chmod(path, 0o700)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}
