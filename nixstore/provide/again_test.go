package provide_test

import (
	"context"
	"strings"
	"testing"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/provide"
	"github.com/closured/closured/nixstore/storetest"
)

// lost gives a node that has nothing, where the image ns/name stands for a path
// that was made of the packages curl and jq somewhere else.
func lost(t *testing.T, origin *nixstore.Origin) (r *rig, root nixstore.StorePath) {
	t.Helper()
	builder := newRig(t)
	builder.define("curl", storetest.Recipe{})
	builder.define("jq", storetest.Recipe{})
	root = builder.mustProvide(t, build(1, packages("curl", "jq"))).Root
	r = newRigWith(t, provide.Config{Images: func(context.Context, string) (nixstore.Source, error) {
		src := storePaths(root)
		src.Origin = origin
		return src, nil
	}})
	r.define("curl", storetest.Recipe{})
	r.define("jq", storetest.Recipe{})
	return r, root
}

func ofImage(n int) nixstore.Request {
	return build(n, nixstore.Source{Kind: nixstore.SourceImage, Image: "ns/name"})
}

func TestAPathThatNobodyHasIsMadeOfItsOrigin(t *testing.T) {
	t.Parallel()
	r, root := lost(t, &nixstore.Origin{Source: packages("curl", "jq"), Build: true})
	if got := r.mustProvide(t, ofImage(1)); got.Root != root {
		t.Errorf("it became %s, want %s", got.Root, root)
	}
	r.wantPin(t, volume(1), root)
	r.wantPins(t, 1)
	r.mustProvide(t, ofImage(2))
	if n := r.eval.Count(); n != 1 {
		t.Errorf("there were %d evaluations: the second volume finds the path", n)
	}
}

func TestAPathThatNobodyHasAndThatMayNotBeMade(t *testing.T) {
	t.Parallel()
	moved := packages("jq") // the package set leads elsewhere
	for name, test := range map[string]struct {
		origin *nixstore.Origin
		build  bool
		kind   error
		says   string
	}{
		"its origin is unknown":                    {nil, true, nixstore.ErrNotFound, ""},
		"its origin leads elsewhere by now":        {&nixstore.Origin{Source: moved, Build: true}, true, nixstore.ErrNotFound, "leads to another path now; next: apply the image anew"},
		"the policy forbids to build the origin":   {&nixstore.Origin{Source: packages("curl", "jq")}, true, nixstore.ErrNotFound, ""},
		"the policy forbids the holder to build":   {&nixstore.Origin{Source: packages("curl", "jq"), Build: true}, false, nixstore.ErrNotFound, ""},
		"its origin is no source":                  {&nixstore.Origin{Source: packages(), Build: true}, true, nixstore.ErrInvalid, "empty"},
		"its origin is another image":              {&nixstore.Origin{Source: ofImage(1).Source, Build: true}, true, nixstore.ErrInvalid, "no kind of source"},
		"a package of its origin is no longer one": {&nixstore.Origin{Source: packages("gone"), Build: true}, true, nixstore.ErrNotFound, "gone"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := lost(t, test.origin)
			req := ofImage(1)
			req.Build = test.build
			_, err := r.Provide(t.Context(), req)
			wantKind(t, err, test.kind)
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("the error is %v", err)
			}
			if at := strings.Index(err.Error(), test.says); at+len(test.says) > 200 {
				t.Errorf("the next step stands at %d of %q", at, err)
			}
			r.wantPins(t, 0)
		})
	}
}

// TestAMergeIsMadeAgainWithoutBuilding has the packages in a cache, and the merge,
// which is never in one, gone.
func TestAMergeIsMadeAgainWithoutBuilding(t *testing.T) {
	t.Parallel()
	r, _ := lost(t, nil)
	curl, jq := r.store.Offer("curl-8"), r.store.Offer("jq-1")
	for name, path := range map[string]nixstore.StorePath{"curl": curl, "jq": jq} {
		r.eval.Define(name, func() []nixstore.Output { return []nixstore.Output{{Path: path}} })
	}
	req := build(1, packages("curl", "jq"))
	req.Build = false
	root := r.mustProvide(t, req).Root
	if err := r.Release(t.Context(), volume(1)); err != nil {
		t.Fatal(err)
	}
	r.collect(t)
	src := storePaths(root)
	src.Origin = &nixstore.Origin{Source: packages("curl", "jq")}
	if got := r.mustProvide(t, nixstore.Request{Source: src, Holder: volume(2)}); got.Root != root {
		t.Errorf("it became %s, want %s", got.Root, root)
	}
}
