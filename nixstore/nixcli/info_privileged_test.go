//go:build privileged

package nixcli_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
)

func TestInfoIsThatOfTheClosure(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	root := nixtest.TextClosure(t, dir, 50, "i")
	store := open(t, offline(dir))
	closure, err := store.Closure(t.Context(), path(root))
	if err != nil || len(closure.Paths) != 50 {
		t.Fatalf("%d paths, %v", len(closure.Paths), err)
	}
	for _, want := range closure.Paths {
		got, err := store.Info(t.Context(), want.Path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b nixstore.StorePath) bool { return a == b })); diff != "" {
			t.Errorf("%s (-closure +info):\n%s", want.Path, diff)
		}
	}
	if _, err := store.Info(t.Context(), path("/nix/store/00000000000000000000000000000000-x")); !errors.Is(err, nixstore.ErrNotFound) {
		t.Errorf("a path that nobody has: %v", err)
	}
}

func TestRealiseAsksFurtherSubstituters(t *testing.T) {
	t.Parallel()
	cache := newCache(t, 2, true, nil)
	cfg := offline(nixtest.StateDir(t))
	cfg.TrustedPublicKeys = []string{cache.key}
	store := open(t, cfg)
	err := store.Realise(t.Context(), cache.output(), nixstore.RealiseOptions{})
	wantKind(t, err, nixstore.ErrNotFound)
	opts := nixstore.RealiseOptions{Substituters: []string{cache.url}}
	if err := store.Realise(t.Context(), cache.output(), opts); err != nil {
		t.Errorf("from the further one: %v", err)
	}
}

func TestFurtherSubstitutersOfSomebodyElsesDaemon(t *testing.T) {
	t.Parallel()
	cache := newCache(t, 2, true, nil)
	dir := nixtest.StateDir(t)
	theirs := open(t, offline(dir))
	cfg := offline(nixtest.StateDir(t))
	cfg.StoreRoot, cfg.DaemonSocket, cfg.TrustedPublicKeys = dir, theirs.Client().Socket, []string{cache.key}
	store := open(t, cfg)
	opts := nixstore.RealiseOptions{Substituters: []string{cache.url}}
	if err := store.Realise(t.Context(), cache.output(), opts); err != nil {
		t.Error(err)
	}
}

func TestFurtherSubstitutersMustBeSignedToo(t *testing.T) {
	t.Parallel()
	cache := newCache(t, 2, false, nil)
	cfg := offline(nixtest.StateDir(t))
	cfg.TrustedPublicKeys = []string{cache.key}
	store := open(t, cfg)
	for address, want := range map[string]error{
		cache.url:                        nixstore.ErrUntrusted,
		cache.url + "?trusted=1":         nixstore.ErrInvalid,
		"http://me:canary@127.0.0.1":     nixstore.ErrInvalid,
		cache.url + "\nrequire-sigs = 0": nixstore.ErrInvalid,
		"":                               nixstore.ErrInvalid,
	} {
		opts := nixstore.RealiseOptions{Substituters: []string{address}}
		if err := store.Realise(t.Context(), cache.output(), opts); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", address, err, want)
		}
	}
}
