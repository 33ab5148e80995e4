//go:build privileged

package closureimage_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixcli"
	"github.com/closured/closured/registry/closureimage"
)

// realStore opens a store of real Nix below a state directory.
func realStore(t *testing.T, dir string) *nixcli.Store {
	t.Helper()
	store, err := nixcli.Open(t.Context(), nixcli.Config{StateDir: dir, OperatorConf: "/nonexistent"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// realBuilder makes images of its closures.
func realBuilder(t *testing.T, dir string, store nixstore.Reader) *closureimage.Builder {
	t.Helper()
	b, err := closureimage.New(closureimage.Config{
		StoreDir: filepath.Join(dir, "nix", "store"), CacheDir: filepath.Join(dir, "images"), Closures: store,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func closureOf(t *testing.T, store nixstore.Reader, root string) nixstore.Closure {
	t.Helper()
	c, err := store.Closure(t.Context(), nixstore.MustParseStorePath(root))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestImagesOfRealClosuresEqualTheVolume(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	busybox := nixtest.SyntheticClosure(t, dir, 12, "image", "--arg", "files", "5")
	text := nixtest.TextClosure(t, dir, 300, "image")
	store := realStore(t, dir)
	b := realBuilder(t, dir, store)
	for _, root := range []string{busybox, text} {
		checkEqual(t, b, filepath.Join(dir, "nix", "store"), closureOf(t, store, root))
	}
}

func TestTwoRealStoresGiveOneDigest(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	digests := map[string]bool{}
	for n := range 2 {
		dir := nixtest.StateDir(t)
		if n == 1 { // other paths first, so that inodes, times and numbers differ
			nixtest.TextClosure(t, dir, 50, "something-else")
		}
		root := nixtest.SyntheticClosure(t, dir, 8, "two-stores")
		if n == 1 {
			nixtest.Run(t, dir, "nix-store", "--optimise") // hard links
		}
		store := realStore(t, dir)
		c := closureOf(t, store, root)
		s := spec(c.Root, closureimage.Root)
		s.Registration = c.Registration
		digests[mustImage(t, realBuilder(t, dir, store), s).Digest().String()] = true
	}
	if len(digests) != 1 {
		t.Errorf("there are %v", digests)
	}
}

func TestAnUnpackedImageRuns(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	tree := nixtest.Busybox(t)
	dir, rootfs := nixtest.StateDir(t), t.TempDir()
	root := nixtest.Run(t, dir, "nix-store", "--add", tree)[0]
	store := realStore(t, dir)
	c := closureOf(t, store, root)
	s := spec(c.Root, closureimage.Root)
	s.Registration = c.Registration
	for _, blob := range layersOf(t, mustImage(t, realBuilder(t, dir, store), s)) {
		layer, err := readBlob(t, blob, 0)
		if err != nil {
			t.Fatal(err)
		}
		tar := exec.CommandContext(t.Context(), "tar", "-xpf", "-", "-C", rootfs)
		tar.Stdin = bytes.NewReader(layer)
		if out, err := tar.CombinedOutput(); err != nil {
			t.Fatalf("unpacking a layer: %v\n%s", err, out)
		}
	}
	sh := exec.CommandContext(t.Context(), "chroot", rootfs, "/bin/sh", "-c", "cat /etc/passwd && readlink /nix/var/result && ls -d /nix/store/*")
	sh.Env = []string{"PATH=/bin:/usr/bin:/usr/sbin:/sbin"}
	out, err := sh.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "root:x:0:0") || strings.Count(string(out), root) != 2 {
		t.Errorf("the image's shell says %v: %s", err, out)
	}
	if info, err := os.Stat(filepath.Join(rootfs, "tmp")); err != nil || info.Mode().Perm() != 0o777 || info.Mode()&os.ModeSticky == 0 {
		t.Errorf("/tmp is %v, %v", info, err)
	}
}
