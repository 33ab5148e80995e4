//go:build privileged

package nixcli_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
)

func TestClosureEqualsWhatNixSays(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	root := nixtest.TextClosure(t, dir, 1000, "a")
	store := open(t, offline(dir))
	closure, err := store.Closure(t.Context(), path(root))
	if err != nil {
		t.Fatal(err)
	}
	var paths, hashes, sizes []string
	for _, p := range closure.Paths {
		paths = append(paths, p.Path.String())
		hashes = append(hashes, p.NarHash)
		sizes = append(sizes, itoa(p.NarSize))
	}
	if diff := cmp.Diff(sorted(nixtest.Run(t, dir, "nix-store", "-qR", root)), paths); diff != "" {
		t.Errorf("paths (-nix-store +ours):\n%s", diff)
	}
	if diff := cmp.Diff(nixtest.Run(t, dir, "nix-store", append([]string{"-q", "--size"}, paths...)...), sizes); diff != "" {
		t.Errorf("sizes (-nix-store +ours):\n%s", diff)
	}
	said := nixtest.Run(t, dir, "nix-store", append([]string{"-q", "--hash"}, paths...)...)
	for i := range said {
		said[i] = strings.TrimPrefix(said[i], "sha256:")
	}
	converted := nixtest.Run(t, dir, "nix", append([]string{"hash", "to-sri", "--type", "sha256"}, said...)...)
	if diff := cmp.Diff(converted, hashes); diff != "" {
		t.Errorf("hashes (-nix +ours):\n%s", diff)
	}
	for _, i := range []int{0, 500, 999} {
		var got []string
		for _, r := range closure.Paths[i].References {
			got = append(got, r.String())
		}
		want := sorted(nixtest.Run(t, dir, "nix-store", "-q", "--references", paths[i]))
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("references of %s are %q, want %q", paths[i], got, want)
		}
	}
}

func TestReaderSeesWhatOthersRegister(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	store := open(t, offline(dir))
	if _, err := store.Registration(t.Context(), path("/nix/store/00000000000000000000000000000000-x")); !errors.Is(err, nixstore.ErrNotFound) {
		t.Fatalf("a path that nobody has: %v", err)
	}
	root := path(nixtest.TextClosure(t, dir, 3, "w"))
	first, err := store.Registration(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	again, err := store.Registration(t.Context(), root)
	if err != nil || again != first {
		t.Errorf("the registration changed from %d to %d (%v)", first, again, err)
	}
	nixtest.Run(t, dir, "nix-store", "--delete", root.String())
	if _, err := store.Closure(t.Context(), root); !errors.Is(err, nixstore.ErrNotFound) {
		t.Errorf("after its deletion: %v", err)
	}
	nixtest.TextClosure(t, dir, 3, "w")
	closure, err := store.Closure(t.Context(), root)
	if err != nil || closure.Registration == first || len(closure.Paths) != 3 {
		t.Errorf("after it came back: registration %d (first %d), %d paths, %v", closure.Registration, first, len(closure.Paths), err)
	}
}

func TestReaderFollowsADatabaseThatWasReplaced(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	root := path(nixtest.TextClosure(t, dir, 3, "r"))
	store := open(t, offline(dir))
	first, err := store.Registration(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(dir, "nix", "var", "nix", "db")
	eventually(t, "the self-test has ended", func() bool { return store.Version() != "" }) // it writes
	if err := os.RemoveAll(db); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Registration(t.Context(), root); !errors.Is(err, nixstore.ErrNotFound) {
		t.Errorf("without a database: %v", err)
	}
	nixtest.TextClosure(t, dir, 3, "r")
	if _, err := store.Registration(t.Context(), root); err != nil {
		t.Errorf("with a new database (first registration %d): %v", first, err)
	}
}

func TestRealiseBuilds(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	drv, out := nixtest.SyntheticDerivation(t, dir, 10, "b")
	drv2, out2 := nixtest.SyntheticDerivation(t, dir, 3, "b2")
	store := open(t, offline(dir))
	outputs := []nixstore.Output{output(drv, out), output(drv2, out2)}
	if err := store.Realise(t.Context(), outputs, nixstore.RealiseOptions{}); !errors.Is(err, nixstore.ErrNotFound) {
		t.Fatalf("substituting only gave %v, want ErrNotFound", err)
	}
	var last nixstore.Progress
	watched := nixstore.RealiseOptions{Build: true, Progress: func(p nixstore.Progress) { last = p }}
	if err := store.Realise(t.Context(), outputs, watched); err != nil {
		t.Fatal(err)
	}
	if last.Phase != "building" || last.Done != 13 || last.Total < 13 || last.Started.IsZero() {
		t.Errorf("the last progress is %+v, want 13 built", last)
	}
	for _, o := range outputs {
		if _, err := store.Closure(t.Context(), o.Path); err != nil {
			t.Error(err)
		}
	}
	last = nixstore.Progress{}
	if err := store.Realise(t.Context(), outputs, watched); err != nil || last.Phase != "" {
		t.Errorf("realising valid paths gave %v and %+v", err, last)
	}
}

func TestRealiseTellsWhatABuilderSaidLast(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	drv, out := script(t, dir, "fails", `i=0; while [ $i -lt 3000 ]; do echo "line $i"; i=$((i + 1)); done; exit 3`)
	err := open(t, offline(dir)).Realise(t.Context(), []nixstore.Output{output(drv, out)}, build)
	failure := wantKind(t, err, nixstore.ErrBuild)
	if len(failure.Log) != 20 || failure.Log[19] != "line 2999" || !strings.Contains(failure.Cause, drv) {
		t.Errorf("the failure is %q with the log %q", failure.Cause, failure.Log)
	}
	if len(failure.Cause)+len(failure.Next) > 200 {
		t.Errorf("cause and next step have %d characters: %q, %q", len(failure.Cause)+len(failure.Next), failure.Cause, failure.Next)
	}
}

func TestMergeIsTheSameForTheSameSet(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	a := path(nixtest.SyntheticClosure(t, dir, 1, "m1"))
	b := path(nixtest.SyntheticClosure(t, dir, 2, "m2")) // the same file names: they collide
	single := path(nixtest.TextClosure(t, dir, 1, "m"))
	store := open(t, offline(dir))
	one, err := store.Merge(t.Context(), []nixstore.StorePath{a, b})
	if err != nil {
		t.Fatal(err)
	}
	two, err := store.Merge(t.Context(), []nixstore.StorePath{b, a, b})
	if err != nil || one != two {
		t.Errorf("another order gave %v, %v, want %v", two, err, one)
	}
	if err := store.Realise(t.Context(), []nixstore.Output{one}, build); err != nil {
		t.Fatal(err)
	}
	first := a
	if b.Compare(a) < 0 {
		first = b
	}
	if to, err := os.Readlink(dir + one.Path.String() + "/bin/run"); err != nil || to != first.String()+"/bin/run" {
		t.Errorf("bin/run links to %s (%v), want the root that sorts first, %s", to, err, first)
	}
	closure, err := store.Closure(t.Context(), one.Path)
	if err != nil || !closure.Has(a) || !closure.Has(b) {
		t.Errorf("the closure of both lacks one of them: %v", err)
	}
	if _, err := store.Merge(t.Context(), []nixstore.StorePath{a, single}); !errors.Is(err, nixstore.ErrInvalid) {
		t.Errorf("a single file among the roots: %v, want ErrInvalid", err)
	}
	if _, err := store.Merge(t.Context(), []nixstore.StorePath{a, path("/nix/store/00000000000000000000000000000000-x")}); !errors.Is(err, nixstore.ErrNotFound) {
		t.Errorf("a root that is not valid: %v, want ErrNotFound", err)
	}
	if _, err := store.Merge(t.Context(), nil); !errors.Is(err, nixstore.ErrInvalid) {
		t.Errorf("no roots: %v, want ErrInvalid", err)
	}
}

func BenchmarkClosure(b *testing.B) {
	nixtest.Require(b)
	dir := nixtest.StateDir(b)
	root := nixtest.TextClosure(b, dir, 1000, "bench")
	store := open(b, offline(dir))
	b.Run("database", func(b *testing.B) {
		for b.Loop() {
			if _, err := store.Closure(b.Context(), path(root)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("registration", func(b *testing.B) {
		for b.Loop() {
			if _, err := store.Registration(b.Context(), path(root)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("nix-store", func(b *testing.B) {
		for b.Loop() {
			nixtest.Run(b, dir, "nix-store", "-qR", root)
		}
	})
}
