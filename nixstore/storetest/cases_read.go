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

func testClosure(t trial) {
	leaf := t.AddText(t, "leaf", "leaf")
	left, right := t.AddText(t, "left", "left", leaf), t.AddText(t, "right", "right", leaf)
	root := t.AddText(t, "root", "root", left, right)
	t.AddText(t, "other", "not in it", leaf)

	c, err := t.Store().Closure(t.Context(), root)
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
	if reg := mustRegistration(t, root); reg != c.Registration {
		t.Errorf("the closure says registration %d, the store %d", c.Registration, reg)
	}
}

func checkInfo(tb testing.TB, info nixstore.PathInfo) {
	tb.Helper()
	// The base-64 form of 256 bits has 44 characters.
	if b64, ok := strings.CutPrefix(info.NarHash, "sha256-"); !ok || len(b64) != 44 {
		tb.Errorf("%s has the hash %q, which is not in SRI form", info.Path, info.NarHash)
	}
	if info.NarSize <= 0 {
		tb.Errorf("%s has the size %d", info.Path, info.NarSize)
	}
	if !slices.IsSortedFunc(info.References, nixstore.StorePath.Compare) {
		tb.Errorf("the references of %s are not sorted: %v", info.Path, info.References)
	}
}

func wantPaths(tb testing.TB, c nixstore.Closure, want ...nixstore.StorePath) {
	tb.Helper()
	var got []nixstore.StorePath
	for _, info := range c.Paths {
		got = append(got, info.Path)
	}
	slices.SortFunc(want, nixstore.StorePath.Compare)
	if !slices.Equal(got, want) {
		tb.Errorf("the closure of %s holds\n %v, want\n %v", c.Root, got, want)
	}
}

func mustRegistration(t trial, p nixstore.StorePath) int64 {
	t.Helper()
	reg, err := t.Store().Registration(t.Context(), p)
	if err != nil {
		t.Fatalf("%s has no registration: %v", p, err)
	}
	return reg
}

func isValid(t trial, p nixstore.StorePath) bool {
	t.Helper()
	_, err := t.Store().Registration(t.Context(), p)
	if err != nil && !errors.Is(err, nixstore.ErrNotFound) {
		t.Fatalf("asking for %s: %v", p, err)
	}
	return err == nil
}

func wantError(tb testing.TB, err, kind error) {
	tb.Helper()
	if !errors.Is(err, kind) {
		tb.Errorf("the error is %v, want the kind %q", err, kind)
	}
}

func testNotFound(t trial) {
	_, err := t.Store().Closure(t.Context(), absent())
	wantError(t, err, nixstore.ErrNotFound)
	_, err = t.Store().Registration(t.Context(), absent())
	wantError(t, err, nixstore.ErrNotFound)
	for _, build := range []bool{false, true} {
		err = t.Store().Realise(t.Context(), []nixstore.Output{{Path: absent()}}, nixstore.RealiseOptions{Build: build})
		wantError(t, err, nixstore.ErrNotFound)
		if err != nil && !strings.Contains(err.Error(), absent().BaseName()) {
			t.Errorf("the error does not name the path: %v", err)
		}
	}
}

func testRegistration(t trial) {
	out := t.AddBuild(t, Build{Name: "again"})
	realise(t, out)
	first := mustRegistration(t, out.Path)
	realise(t, out)
	if second := mustRegistration(t, out.Path); second != first {
		t.Errorf("realising what is valid changed the registration from %d to %d", first, second)
	}
	t.Collect(t)
	if isValid(t, out.Path) {
		t.Fatal("the path outlived a collection without a root")
	}
	realise(t, t.AddBuild(t, Build{Name: "again"}))
	if third := mustRegistration(t, out.Path); third == first {
		t.Errorf("the path was collected and built again, and has the registration %d of before", third)
	}
}

func testCollect(t trial) {
	leaf := t.AddText(t, "leaf", "leaf")
	kept := t.AddText(t, "kept", "kept", leaf)
	lost := t.AddText(t, "lost", "lost", leaf)
	remove := t.Root(t, kept)
	t.Collect(t)
	for p, want := range map[nixstore.StorePath]bool{leaf: true, kept: true, lost: false} {
		if got := isValid(t, p); got != want {
			t.Errorf("after the collection %s is valid: %t, want %t", p, got, want)
		}
	}
	remove()
	t.Collect(t)
	if isValid(t, kept) || isValid(t, leaf) {
		t.Error("a path outlived its last root")
	}
}
