package storetest

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/closured/closured/nixstore"
)

// absent is a path that no store has.
func absent() nixstore.StorePath {
	return nixstore.MustParseStorePath(nixstore.Dir + "/00000000000000000000000000000000-absent")
}

func testClosure(t *testing.T, h Harness) {
	leaf := h.AddText(t, "leaf", "leaf")
	left, right := h.AddText(t, "left", "left", leaf), h.AddText(t, "right", "right", leaf)
	root := h.AddText(t, "root", "root", left, right)
	h.AddText(t, "other", "not in it", leaf)

	c, err := h.Store().Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if c.Root != root {
		t.Errorf("the closure's root is %s, want %s", c.Root, root)
	}
	wantPaths(t, c, leaf, left, right, root)
	for _, info := range c.Paths {
		checkInfo(t, info)
	}
	for p, refs := range map[nixstore.StorePath][]nixstore.StorePath{leaf: nil, left: {leaf}, root: {left, right}} {
		if !c.Has(p) {
			t.Errorf("the closure does not have %s", p)
		}
		at := slices.IndexFunc(c.Paths, func(i nixstore.PathInfo) bool { return i.Path == p })
		slices.SortFunc(refs, nixstore.StorePath.Compare)
		if !slices.Equal(c.Paths[at].References, refs) {
			t.Errorf("%s refers to %v, want %v", p, c.Paths[at].References, refs)
		}
	}
	if reg := mustRegistration(t, h, root); reg != c.Registration {
		t.Errorf("the closure says registration %d, the store %d", c.Registration, reg)
	}
}

func checkInfo(t *testing.T, info nixstore.PathInfo) {
	t.Helper()
	// The base-64 form of 256 bits has 44 characters.
	if b64, ok := strings.CutPrefix(info.NarHash, "sha256-"); !ok || len(b64) != 44 {
		t.Errorf("%s has the hash %q, which is not in SRI form", info.Path, info.NarHash)
	}
	if info.NarSize <= 0 {
		t.Errorf("%s has the size %d", info.Path, info.NarSize)
	}
	if !slices.IsSortedFunc(info.References, nixstore.StorePath.Compare) {
		t.Errorf("the references of %s are not sorted: %v", info.Path, info.References)
	}
}

func wantPaths(t *testing.T, c nixstore.Closure, want ...nixstore.StorePath) {
	t.Helper()
	var got []nixstore.StorePath
	for _, info := range c.Paths {
		got = append(got, info.Path)
	}
	slices.SortFunc(want, nixstore.StorePath.Compare)
	if !slices.Equal(got, want) {
		t.Errorf("the closure of %s holds\n %v, want\n %v", c.Root, got, want)
	}
}

func mustRegistration(t *testing.T, h Harness, p nixstore.StorePath) int64 {
	t.Helper()
	reg, err := h.Store().Registration(t.Context(), p)
	if err != nil {
		t.Fatalf("%s has no registration: %v", p, err)
	}
	return reg
}

func isValid(t *testing.T, h Harness, p nixstore.StorePath) bool {
	t.Helper()
	_, err := h.Store().Registration(t.Context(), p)
	if err != nil && !errors.Is(err, nixstore.ErrNotFound) {
		t.Fatalf("asking for %s: %v", p, err)
	}
	return err == nil
}

func wantError(t *testing.T, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("the error is %v, want the kind %q", err, kind)
	}
}

func testNotFound(t *testing.T, h Harness) {
	_, err := h.Store().Closure(t.Context(), absent())
	wantError(t, err, nixstore.ErrNotFound)
	_, err = h.Store().Registration(t.Context(), absent())
	wantError(t, err, nixstore.ErrNotFound)
	for _, build := range []bool{false, true} {
		err = h.Store().Realise(t.Context(), []nixstore.Output{{Path: absent()}}, nixstore.RealiseOptions{Build: build})
		wantError(t, err, nixstore.ErrNotFound)
		if err != nil && !strings.Contains(err.Error(), absent().BaseName()) {
			t.Errorf("the error does not name the path: %v", err)
		}
	}
}

func testRegistration(t *testing.T, h Harness) {
	out := h.AddBuild(t, Build{Name: "again"})
	realise(t, h, out)
	first := mustRegistration(t, h, out.Path)
	realise(t, h, out)
	if second := mustRegistration(t, h, out.Path); second != first {
		t.Errorf("realising what is valid changed the registration from %d to %d", first, second)
	}
	h.Collect(t)
	if isValid(t, h, out.Path) {
		t.Fatal("the path outlived a collection without a root")
	}
	realise(t, h, h.AddBuild(t, Build{Name: "again"}))
	if third := mustRegistration(t, h, out.Path); third == first {
		t.Errorf("the path was collected and built again, and has the registration %d of before", third)
	}
}

func testCollect(t *testing.T, h Harness) {
	leaf := h.AddText(t, "leaf", "leaf")
	kept := h.AddText(t, "kept", "kept", leaf)
	lost := h.AddText(t, "lost", "lost", leaf)
	remove := h.Root(t, kept)
	h.Collect(t)
	for p, want := range map[nixstore.StorePath]bool{leaf: true, kept: true, lost: false} {
		if got := isValid(t, h, p); got != want {
			t.Errorf("after the collection %s is valid: %t, want %t", p, got, want)
		}
	}
	remove()
	h.Collect(t)
	if isValid(t, h, kept) || isValid(t, h, leaf) {
		t.Error("a path outlived its last root")
	}
}
