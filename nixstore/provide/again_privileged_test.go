//go:build privileged

package provide_test

import (
	"errors"
	"testing"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
)

// TestRealNixMakesACollectedPathAgain builds and merges two packages, collects
// them, and asks for the path alone, and then with what it was made of.
func TestRealNixMakesACollectedPathAgain(t *testing.T) {
	r := newNixRig(t)
	for _, name := range []string{"one", "two", "three"} {
		r.define(t, name)
	}
	first, err := r.Provide(t.Context(), build(1, packages("one", "two")))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Release(t.Context(), volume(1)); err != nil {
		t.Fatal(err)
	}
	if out, err := nixtest.Command(t, r.dir, "nix-store", "--gc").CombinedOutput(); err != nil {
		t.Fatalf("collecting: %v\n%s", err, out)
	}
	if _, err := r.store.Registration(t.Context(), first.Root); !errors.Is(err, nixstore.ErrNotFound) {
		t.Fatalf("it was not collected: %v", err)
	}
	src := storePaths(first.Root)
	_, err = r.Provide(t.Context(), build(2, src))
	wantKind(t, err, nixstore.ErrNotFound)

	src.Origin = &nixstore.Origin{Source: packages("one", "three"), Build: true}
	_, err = r.Provide(t.Context(), build(2, src))
	wantKind(t, err, nixstore.ErrNotFound)

	src.Origin = &nixstore.Origin{Source: packages("one", "two"), Build: true}
	second, err := r.Provide(t.Context(), build(2, src))
	if err != nil || second.Root != first.Root || second.Registration == first.Registration {
		t.Fatalf("it became %+v after %+v: %v", second, first, err)
	}
	if closure, err := r.store.Closure(t.Context(), second.Root); err != nil || len(closure.Paths) < 3 {
		t.Errorf("its closure is %+v, %v", closure, err)
	}
}
