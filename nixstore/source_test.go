package nixstore_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/nixstore"
)

func paths(names ...string) []nixstore.StorePath {
	var all []nixstore.StorePath
	for _, name := range names {
		all = append(all, nixstore.MustParseStorePath("/nix/store/"+goodHash+"-"+name))
	}
	return all
}

func TestKeysOfTheSameThingAreEqual(t *testing.T) {
	t.Parallel()
	same := [][]nixstore.Source{
		{
			{Kind: nixstore.SourceStorePath, Paths: paths("a", "b")},
			{Kind: nixstore.SourceStorePath, Paths: paths("b", "a", "b")},
		},
		{
			{Kind: nixstore.SourcePackages, Packages: []string{"curl", "jq"}},
			{Kind: nixstore.SourcePackages, Packages: []string{"jq", "curl", "jq"}},
		},
	}
	for _, group := range same {
		if a, b := group[0].Key(), group[1].Key(); a != b {
			t.Errorf("the keys differ:\n %s\n %s", a, b)
		}
	}
}

func TestKeysOfDifferentThingsDiffer(t *testing.T) {
	t.Parallel()
	sources := []nixstore.Source{
		{},
		{Kind: nixstore.SourceStorePath, Paths: paths("a")},
		{Kind: nixstore.SourceStorePath, Paths: paths("a", "b")},
		{Kind: nixstore.SourcePackages, Packages: []string{"a"}},
		{Kind: nixstore.SourcePackages, Packages: []string{"a", "b"}},
		{Kind: nixstore.SourcePackages, Packages: []string{"a b"}},
		{Kind: nixstore.SourcePackages, Packages: []string{`a" "b`}},
		{Kind: nixstore.SourceFlake, Flake: "a"},
		{Kind: nixstore.SourceExpr, Expr: "a"},
		{Kind: nixstore.SourceExpr, Expr: `a" "`},
		{Kind: nixstore.SourceExpr, Expr: "\xff"},
		{Kind: nixstore.SourceExpr, Expr: "\xfe"}, // JSON writes both as U+FFFD
		{Kind: nixstore.SourceExpr, Expr: "\ufffd"},
		{Kind: nixstore.SourceExpr, Expr: `\xff`},
		{Kind: nixstore.SourceImage, Image: "a"},
	}
	seen := map[string]nixstore.Source{}
	for _, s := range sources {
		if other, ok := seen[s.Key()]; ok {
			t.Errorf("%+v and %+v have the key %s", s, other, s.Key())
		}
		seen[s.Key()] = s
	}
}

func TestCanonicalLeavesItsSourceAlone(t *testing.T) {
	t.Parallel()
	s := nixstore.Source{Kind: nixstore.SourcePackages, Packages: []string{"b", "a", "b"}, Paths: paths("z", "y")}
	want := nixstore.Source{Kind: s.Kind, Packages: slices.Clone(s.Packages), Paths: slices.Clone(s.Paths)}
	c := s.Canonical()
	opt := cmp.Comparer(func(a, b nixstore.StorePath) bool { return a == b })
	if diff := cmp.Diff(want, s, opt); diff != "" {
		t.Errorf("it changed (-want +got):\n%s", diff)
	}
	canonical := nixstore.Source{Kind: s.Kind, Packages: []string{"a", "b"}, Paths: paths("y", "z")}
	if diff := cmp.Diff(canonical, c, opt); diff != "" {
		t.Errorf("canonical (-want +got):\n%s", diff)
	}
}

func FuzzSourceKey(f *testing.F) {
	f.Add("a", "b", "a", "b")
	f.Add("\xff", "", "\xfe", "")
	f.Add(`x" "y`, "", "x", "y")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		x := nixstore.Source{Kind: nixstore.SourcePackages, Packages: []string{a, b}}
		y := nixstore.Source{Kind: nixstore.SourcePackages, Packages: []string{c, d}}
		same := (a == c && b == d) || (a == d && b == c)
		if (x.Key() == y.Key()) != same {
			t.Errorf("%q and %q: same is %t, keys %s and %s", x.Packages, y.Packages, same, x.Key(), y.Key())
		}
		e := nixstore.Source{Kind: nixstore.SourceExpr, Expr: a, Image: b}
		g := nixstore.Source{Kind: nixstore.SourceExpr, Expr: c, Image: d}
		if (e.Key() == g.Key()) != (a == c && b == d) {
			t.Errorf("%+v and %+v: keys %s and %s", e, g, e.Key(), g.Key())
		}
	})
}
