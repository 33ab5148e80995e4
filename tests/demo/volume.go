package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/tests/agent"
)

// warmPods is how many pods get the volume when everything is there already.
const warmPods = 50

// publish shows the first publish, and those of further pods.
func publish(ctx context.Context, a *agent.Agent, volume agent.Volume, packages string) error {
	heading(fmt.Sprintf("A pod asks for packages: %q", packages))
	begin := time.Now()
	if err := a.PublishPatiently(ctx, volume); err != nil {
		return fmt.Errorf("publishing: %w\nthe agent's log:\n%s", err, a.Log())
	}
	line("cold", "%s: evaluated, built in the sandbox, mounted", since(begin))

	var took []time.Duration
	for n := range warmPods {
		pod := agent.Packages(2+n, packages)
		begin := time.Now()
		if err := a.Publish(ctx, pod); err != nil {
			return fmt.Errorf("publishing for another pod: %w", err)
		}
		took = append(took, time.Since(begin))
		if err := a.Unpublish(ctx, pod); err != nil {
			return fmt.Errorf("unpublishing: %w", err)
		}
	}
	slices.Sort(took)
	line("warm", "%s for another pod with the same packages (median of %d, slowest %s)",
		took[len(took)/2].Round(time.Microsecond), len(took), took[len(took)-1].Round(time.Microsecond))
	return nil
}

// describe shows what the volume is, as its pod sees it.
func describe(a *agent.Agent, volume agent.Volume) error {
	target := a.Target(volume)
	data, err := os.ReadFile(filepath.Join(target, "var", "closure.json"))
	if err != nil {
		return err
	}
	var manifest struct {
		Root  nixstore.StorePath  `json:"root"`
		Paths []nixstore.PathInfo `json:"paths"`
	}
	if err := json.Unmarshal(data, &manifest); err != nil {
		return fmt.Errorf("reading closure.json: %w", err)
	}
	var bytes int64
	for _, p := range manifest.Paths {
		bytes += p.NarSize
	}
	shown, err := names(filepath.Join(target, "store"))
	if err != nil {
		return err
	}
	stored, err := names(filepath.Join(a.StateDir(), "nix", "store"))
	if err != nil {
		return err
	}
	mounts, err := agent.MountsBelow(target)
	if err != nil {
		return err
	}
	heading("Its volume")
	line("root", "%s", manifest.Root)
	line("closure", "%d paths, %.1f MiB", len(manifest.Paths), float64(bytes)/(1<<20))
	line("shows", "%d of the %d names in the node's store", len(shown), len(stored))
	line("mounts", "%d, for everything above", len(mounts))
	return nil
}

// names gives the store paths in a folder; Nix keeps files of its own beside them.
func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		if _, err := nixstore.ParseBaseName(e.Name()); err == nil && !strings.HasSuffix(e.Name(), ".lock") {
			found = append(found, e.Name())
		}
	}
	return found, nil
}
