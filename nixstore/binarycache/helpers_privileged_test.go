//go:build privileged

package binarycache_test

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/binarycache"
	"github.com/closured/closured/nixstore/nixcli"
)

// node is a node with a store.
type node struct {
	dir   string
	store *nixcli.Store
	key   binarycache.SecretKey
}

func newKey(tb testing.TB, name string) binarycache.SecretKey {
	tb.Helper()
	key, err := binarycache.GenerateKey(name)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// newNode makes a node whose daemon believes in key, and knows the passwords of
// netrc's file. It is offline but for other nodes.
func newNode(tb testing.TB, key binarycache.SecretKey) *node {
	tb.Helper()
	nixtest.Require(tb)
	n := &node{dir: nixtest.StateDir(tb), key: key}
	options := binarycache.NixOptions([]binarycache.SecretKey{key}, n.netrc())
	maps.Copy(options, map[string]string{
		"substituters": "", "stalled-download-timeout": "10", "connect-timeout": "2", "download-attempts": "1",
	})
	store, err := nixcli.Open(tb.Context(), nixcli.Config{StateDir: n.dir, OperatorConf: "/nonexistent", Options: options})
	if err != nil {
		tb.Fatal(err)
	}
	n.store = store
	tb.Cleanup(func() {
		if err := store.Close(); err != nil {
			tb.Errorf("closing the store: %v", err)
		}
	})
	return n
}

func (n *node) netrc() string    { return filepath.Join(n.dir, "netrc") }
func (n *node) storeDir() string { return filepath.Join(n.dir, "nix", "store") }

// run starts the node's daemon.
func (n *node) run(tb testing.TB) *node {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.store.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("running the store: %v", err)
		}
	})
	eventually(tb, "the daemon answers", func() bool { return n.store.Healthy(tb.Context()) == nil })
	return n
}

// serve serves the node's store; spoil, when it is not nil, stands in front. It
// gives the address.
func (n *node) serve(tb testing.TB, spoil func(http.Handler) http.Handler) string {
	tb.Helper()
	handler, err := binarycache.New(binarycache.Config{
		Store: n.store, StoreDir: n.storeDir(), Keys: []binarycache.SecretKey{n.key}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		tb.Fatal(err)
	}
	var front http.Handler = handler
	if spoil != nil {
		front = spoil(handler)
	}
	server := httptest.NewServer(front)
	tb.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// knows tells the node the passwords of others.
func (n *node) knows(tb testing.TB, addresses ...string) {
	tb.Helper()
	if err := (binarycache.Netrc{Path: n.netrc(), Key: n.key}).Write(addresses); err != nil {
		tb.Fatal(err)
	}
}

// fetch realises a path without building, from the given others.
func (n *node) fetch(tb testing.TB, root string, addresses ...string) error {
	tb.Helper()
	from, err := binarycache.Substituters(addresses)
	if err != nil {
		tb.Fatal(err)
	}
	output := nixstore.Output{Path: nixstore.MustParseStorePath(root)}
	return n.store.Realise(tb.Context(), []nixstore.Output{output}, nixstore.RealiseOptions{Substituters: from})
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
