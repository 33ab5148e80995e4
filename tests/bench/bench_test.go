//go:build privileged

package main

import (
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/nixtest"
)

func TestMadeClosuresAreWhatNixExpects(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	s := shape{"test", 60, 12, 5000}
	root, err := s.make(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if paths := nixtest.Run(t, dir, "nix-store", "-qR", root); len(paths) != s.paths {
		t.Errorf("the closure has %d paths, want %d", len(paths), s.paths)
	}
	nixtest.Run(t, dir, "nix-store", "--verify", "--check-contents") // fails when a hash is wrong
	nar, err := nixtest.Command(t, dir, "nix-store", "--dump", dir+root).Output()
	if err != nil {
		t.Fatal(err)
	}
	if size := nixtest.Run(t, dir, "nix-store", "-q", "--size", root); size[0] != strconv.Itoa(len(nar)) {
		t.Errorf("registered with %s bytes, want %d", size[0], len(nar))
	}
}

func TestAlternativesShowTheSameFiles(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	s := shape{"test", 5, 12, 0}
	if _, err := s.make(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(dir, "nix", "store")
	paths := make([]string, s.paths)
	for i := range paths {
		paths[i] = s.path(i)
	}
	for name, show := range map[string]func(target string) error{
		"hard links": func(target string) error { return linkTree(store, target, paths) },
		"bind mounts": func(target string) error {
			t.Cleanup(func() { _ = unbindEach(target, paths) })
			return bindEach(store, target, paths)
		},
	} {
		target := filepath.Join(dir, name)
		if err := unix.Mkdir(target, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := show(target); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		files, err := filepath.Glob(filepath.Join(target, "*", "dir*", "file*"))
		if err != nil || len(files) != s.paths*s.files {
			t.Errorf("%s show %d files (%v), want %d", name, len(files), err, s.paths*s.files)
		}
	}
}
