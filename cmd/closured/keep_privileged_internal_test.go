//go:build privileged

package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/internal/niximages"
	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
)

// packageSet makes a package set of one and two, which write a file.
func packageSet(t *testing.T) string {
	t.Helper()
	dir := nixtest.StateDir(t) // readable for evaluators, unlike t.TempDir
	out, err := exec.CommandContext(t.Context(), "cp", "-a", nixtest.Busybox(t), filepath.Join(dir, "busybox")).CombinedOutput()
	if err != nil {
		t.Fatalf("making the package set: %v\n%s", err, out)
	}
	const text = `let
  bb = builtins.path { path = ./busybox; name = "busybox-tree"; };
  run = name: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "${bb}/bin/sh";
    args = [ "-c" "mkdir $out && echo $name > $out/$name" ];
    PATH = "${bb}/bin";
  };
in { one = run "one"; two = run "two"; }
`
	check(t, os.WriteFile(filepath.Join(dir, "default.nix"), []byte(text), 0o644))
	return dir
}

// kept has the agent keep what the images name until stop is called.
func (a *agent) kept(t *testing.T, images *niximages.Images) (stop func()) {
	t.Helper()
	a.cluster.images = images
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	for _, keep := range a.keepers() {
		go func() { done <- keep(ctx) }()
	}
	return func() {
		cancel()
		check(t, <-done)
	}
}

// pinned waits until there are so many pins.
func (a *agent) pinned(t *testing.T, pins int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); a.pins.Count() != pins; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("there are %d pins, not %d", a.pins.Count(), pins)
		}
	}
}

func (a *agent) collect(t *testing.T) {
	t.Helper()
	nixtest.Run(t, a.cfg.stateDir, "nix-store", "--gc")
}

// TestAnImageOutlivesCollectionsAndItsNode builds two packages on one node, as a
// build pod does, collects there, and has another node make them when the first is gone.
func TestAnImageOutlivesCollectionsAndItsNode(t *testing.T) {
	nixtest.Require(t)
	key, set := filepath.Join(t.TempDir(), "key"), packageSet(t)
	check(t, os.WriteFile(key, []byte(cacheKey(t).Secret()), 0o600))
	start := func(name string, images *niximages.Images) *agent {
		return nixAgent(t, name, key, func(a *agent) []func(context.Context) error {
			a.cfg.packageSet, a.cluster.images = set, images
			return []func(context.Context) error{a.openPolicy, a.readCacheKeys, a.openStore, func(ctx context.Context) error {
				check(t, a.openPeers(ctx))
				if a.neighbours.peers != nil {
					a.neighbours.peers.pods = pods{} // no other node is there
				}
				return a.openProvider(ctx)
			}}
		})
	}
	a := start("node-a", nil)
	packages := nixstore.Source{Kind: nixstore.SourcePackages, Packages: []string{"one", "two"}}
	volume := func(src nixstore.Source) nixstore.Request {
		return nixstore.Request{Source: src, Build: true, Holder: nixstore.Holder{Kind: nixstore.HolderVolume, Name: "v"}}
	}
	got, err := a.provider.Provide(t.Context(), volume(packages))
	check(t, err)

	object := built(got.Root, "sha256:")
	object.Spec.Contents = []v1alpha1.PackageName{"one", "two"}
	object.Status.Images[0].Node = "node-a"
	images := follow(t, object)
	stop := a.kept(t, images)
	a.pinned(t, 2)
	check(t, a.provider.Release(t.Context(), volume(packages).Holder)) // the build pod goes
	a.pinned(t, 1)
	a.collect(t)
	if _, err := a.store.Closure(t.Context(), got.Root); err != nil {
		t.Errorf("it was collected while its object names it: %v", err)
	}
	stop()

	other := built(nixstore.MustParseStorePath("/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-other"), "sha256:")
	stop = a.kept(t, follow(t, other))
	a.pinned(t, 0)
	a.collect(t)
	if _, err := a.store.Closure(t.Context(), got.Root); !errors.Is(err, nixstore.ErrNotFound) {
		t.Errorf("it is there although no object names it: %v", err)
	}
	stop()
	a.close()

	b := start("node-b", images)
	begin := time.Now()
	again, err := b.provider.Provide(t.Context(), volume(nixstore.Source{Kind: nixstore.SourceImage, Image: "tools/tool"}))
	if err != nil || again.Root != got.Root {
		t.Fatalf("made again: %+v, %v", again, err)
	}
	t.Logf("%s was made again in %s", again.Root.BaseName(), time.Since(begin))
	b.close()
}
