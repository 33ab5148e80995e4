//go:build privileged

package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
)

// nixAgent makes the part of an agent that stands on Nix, offline but for other
// nodes, and runs it until the test ends.
func nixAgent(t *testing.T, name, key string, steps func(*agent) []func(context.Context) error) *agent {
	t.Helper()
	return agentWith(t, name, []string{
		"--state-dir", nixtest.StateDir(t), "--nix-option=substituters=", "--nix-option=connect-timeout=5", "--cache-key-file", key,
	}, steps)
}

// agentWith does the same with flags.
func agentWith(t *testing.T, name string, flags []string, steps func(*agent) []func(context.Context) error) *agent {
	t.Helper()
	flags = append(flags, "--kubelet-dir=", "--cache-address=127.0.0.1:0", "--cache-peers=closured-system/a=b")
	cfg, err := parseFlags(flags, name, io.Discard)
	check(t, err)
	a := &agent{cfg: cfg, log: slog.New(slog.DiscardHandler), metrics: prometheus.NewRegistry()}
	t.Cleanup(a.close)
	for _, step := range steps(a) {
		check(t, step(t.Context()))
	}
	ctx, cancel := context.WithCancel(context.Background())
	parts := append(a.neighbours.parts(), a.store.Run)
	ended := make(chan error, len(parts))
	for _, part := range parts {
		go func() { ended <- part(ctx) }()
	}
	t.Cleanup(func() {
		cancel()
		for range parts {
			check(t, <-ended)
		}
	})
	for end := time.Now().Add(time.Minute); a.store.Healthy(t.Context()) != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the daemon does not answer")
		}
	}
	return a
}

func TestANodeFetchesAnImageFromTheNodeThatBuiltIt(t *testing.T) {
	nixtest.Require(t)
	key := filepath.Join(t.TempDir(), "key")
	check(t, os.WriteFile(key, []byte(cacheKey(t).Secret()), 0o600))
	a := nixAgent(t, "node-a", key, func(a *agent) []func(context.Context) error {
		return []func(context.Context) error{a.readCacheKeys, a.openStore, a.openCache}
	})
	root := nixstore.MustParseStorePath(nixtest.SyntheticClosure(t, a.cfg.stateDir, 5, "image"))
	_, port, err := net.SplitHostPort(a.neighbours.server.Addr().String())
	check(t, err)

	object := built(root, "sha256:")
	object.Status.Images[0].Node = "node-a"
	object.Status.History = []v1alpha1.Version{{Tag: "v1", Images: object.Status.Images}}
	there := pods{}
	b := nixAgent(t, "node-b", key, func(b *agent) []func(context.Context) error {
		b.cluster.images = follow(t, object)
		return []func(context.Context) error{b.readCacheKeys, b.openStore, b.openPeers, func(ctx context.Context) error {
			b.neighbours.peers.pods, b.neighbours.peers.port = there, port
			return b.openProvider(ctx)
		}}
	})
	request := nixstore.Request{
		Source: nixstore.Source{Kind: nixstore.SourceImage, Image: "tools/tool"}, Holder: nixstore.Holder{Kind: nixstore.HolderVolume, Name: "v"},
	}
	// Nobody knows where node-a is, and no other cache has it.
	if _, err := b.provider.Provide(t.Context(), request); !errors.Is(err, nixstore.ErrNotFound) {
		t.Fatalf("without the other node: %v", err)
	}
	there["node-a"] = []string{"127.0.0.1"}
	var got nixstore.Realised
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) { // the failure is remembered for a moment
		if got, err = b.provider.Provide(t.Context(), request); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil || got.Root != root {
		t.Fatalf("from the other node: %+v, %v", got, err)
	}
	closure, err := b.store.Closure(t.Context(), root)
	check(t, err)
	nixtest.Run(t, b.cfg.stateDir, "nix-store", "--verify", "--check-contents")
	t.Logf("%d paths came", len(closure.Paths))
}
