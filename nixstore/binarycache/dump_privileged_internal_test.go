//go:build privileged

package binarycache

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixcli"
)

func TestNARsAreThoseOfNix(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	for name, odd := range oddThings() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := storeWith(t, odd)
			want, err := nixtest.Command(t, dir, "nix-store", "--dump", filepath.Join(dir, examplePath.BaseName())).Output()
			if err != nil {
				t.Fatal(err)
			}
			got, err := dump(t.Context(), t, dir, want, 4096)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, those of nix-store --dump are %d (%v)", len(got), len(want), err)
			}
		})
	}
}

func TestModesOfNARs(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := t.TempDir()
	tree := filepath.Join(dir, examplePath.BaseName())
	folder(map[string]thing{}).put(t, tree)
	for name, mode := range map[string]uint32{
		"a": 0o444, "b": 0o644, "c": 0o555, "d": 0o100, "e": 0o011, "f": 0o000, "g": 0o4755, "h": 0o666, "i": 0o711,
	} {
		file(name).put(t, tree+"/"+name)
		if err := unix.Chmod(tree+"/"+name, mode); err != nil {
			t.Fatal(err)
		}
	}
	want, err := nixtest.Command(t, dir, "nix-store", "--dump", tree).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := dump(t.Context(), t, dir, want, 4096); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, those of nix-store --dump are %d (%v)", len(got), len(want), err)
	}
}

func TestDevicesAreNotOpened(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := t.TempDir()
	tree := filepath.Join(dir, examplePath.BaseName())
	folder(nil).put(t, tree)
	if err := unix.Mknod(tree+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Skipf("needs the right to make a device: %v", err)
	}
	if _, err := dump(t.Context(), t, dir, make([]byte, 4096), 64); !errors.Is(err, nixstore.ErrCorrupt) {
		t.Errorf("the error is %v", err)
	}
}

// TestHashesAreThoseOfTheDatabase writes each path of a closure: that ends well
// only when Nix had registered the same hash and size.
func TestHashesAreThoseOfTheDatabase(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	root := nixtest.SyntheticClosure(t, dir, 30, "hash", "--arg", "files", "5", "--arg", "sizeKiB", "300")
	store, err := nixcli.Open(t.Context(), nixcli.Config{StateDir: dir, OperatorConf: "/nonexistent"})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	closure, err := store.Closure(t.Context(), nixstore.MustParseStorePath(root))
	if err != nil || len(closure.Paths) != 31 {
		t.Fatalf("%d paths, %v", len(closure.Paths), err)
	}
	for _, p := range closure.Paths {
		info, err := store.Info(t.Context(), p.Path)
		if err != nil {
			t.Fatal(err)
		}
		d, err := describe(info)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err = writeNAR(t.Context(), newChecked(&out, d, make([]byte, 8192)), filepath.Join(dir, "nix", "store"), p.Path)
		if err != nil || int64(out.Len()) != p.NarSize {
			t.Errorf("%s: %d bytes, %v", p.Path, out.Len(), err)
		}
		said := nixtest.Run(t, dir, "nix-hash", "--type", "sha256", "--to-base32", hex.EncodeToString(d.sum[:]))
		if len(said) != 1 || said[0] != d.base32 {
			t.Errorf("the hash %x is %s, and Nix says %q", d.sum, d.base32, said)
		}
	}
}

func TestKeysAreThoseOfNix(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	nixtest.Run(t, dir, "nix-store", "--generate-binary-cache-key", "theirs-1", dir+"/secret", dir+"/public")
	secret, err := os.ReadFile(dir + "/secret")
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(dir + "/public")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseSecretKey(string(secret))
	if err != nil || key.Public() != strings.TrimSpace(string(public)) || key.Secret() != strings.TrimSpace(string(secret)) {
		t.Errorf("%v is %q, want %q (%v)", key, key.Public(), public, err)
	}
	root := nixtest.TextClosure(t, dir, 1, "k")
	ours, err := GenerateKey("ours-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/ours", []byte(ours.Secret()), 0o600); err != nil {
		t.Fatal(err)
	}
	nixtest.Run(t, dir, "nix", "store", "sign", "--key-file", dir+"/ours", root)
	said := strings.Join(nixtest.Run(t, dir, "nix", "path-info", "--sigs", root), " ")
	store, err := nixcli.Open(t.Context(), nixcli.Config{StateDir: dir, OperatorConf: "/nonexistent"})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	info, err := store.Info(t.Context(), nixstore.MustParseStorePath(root))
	if err != nil {
		t.Fatal(err)
	}
	d, err := describe(info)
	if err != nil {
		t.Fatal(err)
	}
	if sig := ours.sign(d.fingerprint()); !strings.Contains(said, sig) { // ed25519 signs the same alike
		t.Errorf("we sign with %q, and Nix with %q", sig, said)
	}
}
