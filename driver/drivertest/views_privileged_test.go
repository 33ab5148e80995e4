//go:build privileged

package drivertest_test

import (
	"path/filepath"
	"testing"

	"github.com/closured/closured/driver/drivertest"
	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixcli"
)

func TestRealViews(t *testing.T) {
	nixtest.Require(t)
	stateDir := nixtest.StateDir(t)
	roots := [2]nixstore.StorePath{
		nixstore.MustParseStorePath(nixtest.TextClosure(t, stateDir, 5, "one")),
		nixstore.MustParseStorePath(nixtest.TextClosure(t, stateDir, 5, "two")),
	}
	drivertest.RunViews(t, func(t *testing.T) drivertest.ViewsUnderTest {
		t.Helper()
		store, err := nixcli.Open(t.Context(), nixcli.Config{StateDir: stateDir})
		if err != nil {
			t.Fatal(err)
		}
		views, err := view.New(t.Context(), view.Config{StateDir: stateDir, StoreDir: filepath.Join(stateDir, "nix/store"), Closures: store})
		if err != nil {
			t.Fatal(err)
		}
		registration, err := store.Registration(t.Context(), roots[0])
		if err != nil {
			t.Fatal(err)
		}
		base := nixtest.StateDir(t)
		t.Cleanup(func() {
			if err := views.Close(); err != nil {
				t.Error(err)
			}
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		})
		return drivertest.ViewsUnderTest{Views: views, Base: base, Roots: roots, Registration: registration}
	})
}
