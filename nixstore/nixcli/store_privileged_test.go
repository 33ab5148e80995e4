//go:build privileged

package nixcli_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
)

func TestClosureEqualsNixStoreQuery(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	root := nixtest.TextClosure(t, dir, 1000, "a")
	store := open(t, offline(dir))
	closure, err := store.Closure(t.Context(), path(root))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range closure.Paths {
		got = append(got, p.Path.String())
	}
	want := nixtest.Run(t, dir, "nix-store", "-qR", root)
	if diff := cmp.Diff(sorted(want), got); diff != "" {
		t.Errorf("closure (-nix-store +ours):\n%s", diff)
	}
}

func TestRealiseBuildsAndTheSelfTestPasses(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	drv, out := nixtest.SyntheticDerivation(t, dir, 10, "b")
	store := open(t, offline(dir))
	var phases []nixstore.Progress
	opts := nixstore.RealiseOptions{Build: true, Progress: func(p nixstore.Progress) { phases = append(phases, p) }}
	if err := store.Realise(t.Context(), []nixstore.Output{output(drv, out)}, opts); err != nil {
		t.Fatal(err)
	}
	t.Log(phases)
	if err := store.SelfTest(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Log(store.Version())
}

func TestMerge(t *testing.T) {
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	a := nixtest.SyntheticClosure(t, dir, 1, "m1")
	b := nixtest.SyntheticClosure(t, dir, 2, "m2")
	store := open(t, offline(dir))
	out, err := store.Merge(t.Context(), []nixstore.StorePath{path(a), path(b)})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Realise(t.Context(), []nixstore.Output{out}, build); err != nil {
		t.Fatal(err)
	}
	t.Log(nixtest.Run(t, "/", "find", dir+out.Path.String(), "-ls"))
}
