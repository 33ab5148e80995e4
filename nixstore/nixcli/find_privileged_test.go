//go:build privileged

package nixcli_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixcli"
)

func TestAPathIsFoundByItsHash(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	store, err := nixcli.Open(t.Context(), offline(dir)) // needs no daemon
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	_, err = store.FindByHash(t.Context(), strings.Repeat("0", 32)) // there is no database yet
	wantKind(t, err, nixstore.ErrNotFound)

	root := path(nixtest.TextClosure(t, dir, 50, "find"))
	closure, err := store.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range closure.Paths {
		if got, err := store.FindByHash(t.Context(), p.Path.Hash()); err != nil || got != p.Path {
			t.Errorf("the hash of %s finds %s, %v", p.Path, got, err)
		}
	}
	hash := root.Hash()
	for _, wrong := range []string{"", hash[1:], hash + "0", hash + "-", hash[:31] + "%", hash[:31] + "E", hash + "-x", "../" + hash[3:]} {
		got, err := store.FindByHash(t.Context(), wrong)
		if !errors.Is(err, nixstore.ErrInvalid) || !got.IsZero() {
			t.Errorf("%q found %q, %v", wrong, got, err)
		}
	}
	failure := wantKind(t, second(store.FindByHash(t.Context(), strings.Repeat("0", 32))), nixstore.ErrNotFound)
	if !strings.Contains(failure.Error(), "no path of this node's store has the hash 000") {
		t.Errorf("the text is %q", failure)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := store.FindByHash(ended, hash); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was ended got %v", err)
	}
}

func second(_ nixstore.StorePath, err error) error { return err }
