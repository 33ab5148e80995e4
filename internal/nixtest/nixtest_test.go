package nixtest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/closured/closured/internal/nixtest"
)

func TestFixtureIsFoundFromAnotherFolder(t *testing.T) {
	t.Chdir(t.TempDir())
	path := nixtest.Fixture(t, "text-closure.nix")
	if !filepath.IsAbs(path) {
		t.Errorf("Fixture gave %q, want an absolute path", path)
	}
}

func TestFixtureIsFoundByTheEnvironment(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "nix"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(dir, "nix", "a.nix")
	if err := os.WriteFile(want, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CLOSURED_TESTDATA", dir)
	if got := nixtest.Fixture(t, "a.nix"); got != want {
		t.Errorf("Fixture gave %q, want %q", got, want)
	}
}

func TestBusyboxRunsItsApplets(t *testing.T) {
	t.Parallel()
	tree := nixtest.Busybox(t)
	out, err := exec.Command(filepath.Join(tree, "bin", "echo"), "hello").Output()
	if err != nil || strings.TrimSpace(string(out)) != "hello" {
		t.Errorf("the applet echo gave %q, %v", out, err)
	}
	if again := nixtest.Busybox(t); again != tree {
		t.Errorf("the second tree is %s, want the first, %s", again, tree)
	}
}

func TestStateDirGoesAwayWithItsReadOnlyStore(t *testing.T) {
	t.Parallel()
	var dir string
	t.Cleanup(func() { // after that of StateDir
		if _, err := os.Lstat(dir); !os.IsNotExist(err) {
			t.Errorf("after the test: %v, want that it does not exist", err)
		}
	})
	dir = nixtest.StateDir(t)
	if len(dir) > 30 {
		t.Errorf("the path %s is longer than 30 bytes", dir)
	}
	store := filepath.Join(dir, "nix", "store")
	if err := os.MkdirAll(store, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(store, "f"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(store, 0o555); err != nil {
		t.Fatal(err)
	}
}

func TestClosuresOfTheFixtures(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	text := nixtest.TextClosure(t, dir, 20, "x")
	if paths := nixtest.Run(t, dir, "nix-store", "-qR", text); len(paths) != 20 {
		t.Errorf("the text closure has %d paths, want 20", len(paths))
	}
	built := nixtest.SyntheticClosure(t, dir, 4, "x", "--arg", "files", "3")
	if paths := nixtest.Run(t, dir, "nix-store", "-qR", built); len(paths) != 5 {
		t.Errorf("the synthetic closure has %d paths, want 4 and busybox", len(paths))
	}
}
