//go:build privileged

package nixcli_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixcli"
)

// offline keeps a store from asking the network.
func offline(dir string) nixcli.Config {
	return nixcli.Config{
		StateDir: dir, OperatorConf: "/nonexistent",
		Options: map[string]string{"substituters": ""},
	}
}

// open gives a store with a running daemon that ends with the test.
func open(tb testing.TB, cfg nixcli.Config) *nixcli.Store {
	tb.Helper()
	nixtest.Require(tb)
	store, err := nixcli.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- store.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("running the store: %v", err)
		}
		if err := store.Close(); err != nil {
			tb.Errorf("closing the store: %v", err)
		}
	})
	eventually(tb, "the daemon answers", func() bool { return store.Healthy(tb.Context()) == nil })
	return store
}

// eventually waits up to a minute for a thing to become true.
func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not within a minute: %s", what)
		}
	}
}

func path(s string) nixstore.StorePath { return nixstore.MustParseStorePath(s) }

// output is a derivation's output "out".
func output(drv, out string) nixstore.Output {
	return nixstore.Output{Path: path(out), Derivation: path(drv), Name: "out"}
}

var build = nixstore.RealiseOptions{Build: true}

func wantKind(tb testing.TB, err, kind error) *nixstore.Failure {
	tb.Helper()
	var failure *nixstore.Failure
	if !errors.Is(err, kind) || !errors.As(err, &failure) {
		tb.Fatalf("the error is %v, want a failure of kind %q", err, kind)
	}
	return failure
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}
