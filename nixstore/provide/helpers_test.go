package provide_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/pins"
	"github.com/closured/closured/nixstore/provide"
	"github.com/closured/closured/nixstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a provider over a store in memory and real pins.
type rig struct {
	store *storetest.Memory
	eval  *storetest.Evaluator
	pins  *pins.Pins
	*provide.Provider
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigWith(t, provide.Config{})
}

func newRigWith(t *testing.T, cfg provide.Config) *rig {
	t.Helper()
	r := &rig{store: storetest.NewMemory(), eval: &storetest.Evaluator{}}
	var err error
	if r.pins, err = pins.Open(filepath.Join(t.TempDir(), "closured")); err != nil {
		t.Fatal(err)
	}
	r.store.SetRoots(r.roots)
	cfg.Store, cfg.Pins, cfg.Evaluator = r.store, r.pins, r.eval
	if r.Provider, err = provide.New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// roots gives all pins, as Nix's collector finds them.
func (r *rig) roots() []nixstore.StorePath {
	var roots []nixstore.StorePath
	for _, kind := range []nixstore.HolderKind{nixstore.HolderVolume, nixstore.HolderImage, nixstore.HolderFlight} {
		for _, pin := range r.pins.List(kind) {
			roots = append(roots, pin.Root)
		}
	}
	return roots
}

// define makes a package of one recipe; its derivation is written at each evaluation.
func (r *rig) define(name string, recipe storetest.Recipe) nixstore.Output {
	if recipe.Name == "" {
		recipe.Name = name
	}
	r.eval.Define(name, func() []nixstore.Output { return []nixstore.Output{r.store.AddRecipe(recipe)} })
	return r.store.AddRecipe(recipe)
}

func (r *rig) collect(t *testing.T) {
	t.Helper()
	if err := r.store.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) mustProvide(t *testing.T, req nixstore.Request) nixstore.Realised {
	t.Helper()
	got, err := r.Provide(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// provideFor gives up after d.
func (r *rig) provideFor(t *testing.T, d time.Duration, req nixstore.Request) (nixstore.Realised, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return r.Provide(ctx, req)
}

func (r *rig) wantPin(t *testing.T, h nixstore.Holder, want nixstore.StorePath) {
	t.Helper()
	if got, _ := r.pins.Get(h); got != want {
		t.Errorf("the pin of %s is %q, want %q", h.Name, got, want)
	}
}

func (r *rig) wantPins(t *testing.T, want int) {
	t.Helper()
	if got := r.pins.Count(); got != want {
		t.Errorf("there are %d pins, want %d: %v", got, want, r.roots())
	}
}

func volume(n int) nixstore.Holder {
	return nixstore.Holder{Kind: nixstore.HolderVolume, Name: fmt.Sprintf("csi-%d", n)}
}

func packages(names ...string) nixstore.Source {
	return nixstore.Source{Kind: nixstore.SourcePackages, Packages: names}
}

func storePaths(paths ...nixstore.StorePath) nixstore.Source {
	return nixstore.Source{Kind: nixstore.SourceStorePath, Paths: paths}
}

func build(n int, src nixstore.Source) nixstore.Request {
	return nixstore.Request{Source: src, Build: true, Holder: volume(n)}
}

func wantKind(t *testing.T, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("the error is %v, want the kind %q", err, kind)
	}
}
