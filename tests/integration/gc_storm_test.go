//go:build privileged

package integration_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/tests/agent"
)

// TestFault17And18CollectingWhilePublishing runs Nix's own collector in a loop
// while pods come and go. Closures that no pod has are collected and realised
// again; no volume may ever miss a file between its publish and its unpublish.
func TestFault17And18CollectingWhilePublishing(t *testing.T) {
	t.Parallel()
	const (
		publishes = 200
		pods      = 4  // at a time
		run       = 10 // so often the same closure, which goes and comes meanwhile
		closures  = 12
		patience  = 2 * time.Minute
	)
	var set strings.Builder
	set.WriteString(`one = run "one" "mkdir $out; echo one > $out/f"; two = run "two" "mkdir $out; echo two > $out/f";` + "\n")
	for i := range closures {
		fmt.Fprintf(&set, "c%d = let c = run \"common\" \"mkdir $out; echo common > $out/f\"; in run \"c%d\" "+
			"\"mkdir $out; echo ${c} > $out/ref; echo c%d > $out/f\";\n", i, i, i)
	}
	n := start(t, agent.Config{PackageSet: packageSet(t, set.String()), Binary: raceBinary(t)})
	always := agent.Packages(publishes, "one two") // merged
	n.publish(always)
	stopReading := readAllTheTime(n, always)
	collections := n.collectInALoop()

	each(pods, publishes, func(i int) {
		name := "c" + strconv.Itoa(i/run%closures)
		v := agent.Packages(i, name)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := n.PublishPatiently(ctx, v); err != nil {
			t.Errorf("publishing %s: %v", name, err)
			return
		}
		for range 3 {
			requireWholeVolume(t, n.Target(v), name)
			time.Sleep(time.Millisecond)
		}
		if err := n.Unpublish(ctx, v); err != nil {
			t.Errorf("unpublishing %s: %v", name, err)
		}
	})
	collected, deleted := collections()
	again := n.metric("closured_realisations_total") - closures - 2
	t.Logf("%d collections deleted %d paths beside %d publishes; %.0f closures were realised again", collected, deleted, publishes, again)
	if collected < 10 || deleted < 20 || again < 10 {
		t.Error("that is too little to show anything")
	}
	stopReading()
	n.unpublish(always)
	n.requireNothing()
}

// requireWholeVolume checks that a volume of closure name shows it wholly.
func requireWholeVolume(t *testing.T, target, name string) {
	t.Helper()
	requireFile(t, filepath.Join(target, "var/result"), name+"\n")
	entries, err := os.ReadDir(filepath.Join(target, "store"))
	if err != nil || len(entries) != 2 {
		t.Errorf("the volume of %s shows %v (%v), want it and common", name, entries, err)
		return
	}
	for _, e := range entries {
		want := name + "\n"
		if strings.HasSuffix(e.Name(), "-common") {
			want = "common\n"
		}
		got, err := os.ReadFile(filepath.Join(target, "store", e.Name(), "f"))
		if err != nil || string(got) != want {
			t.Errorf("%s of the volume of %s holds %q (%v), want %q", e.Name(), name, got, err, want)
		}
	}
}

// collectInALoop runs nix-store --gc on the store itself, without the daemon,
// until stop, which gives how often it ran and how many paths it deleted.
func (n node) collectInALoop() (stop func() (collected, deleted int)) {
	n.t.Helper()
	const pauseMax = 100 * time.Millisecond
	var over atomic.Bool
	done := make(chan struct{})
	collected, deleted := 0, 0
	go func() {
		defer close(done)
		for !over.Load() {
			cmd := nixtest.Command(n.t, n.StateDir(), "nix-store", "--gc")
			out, err := cmd.CombinedOutput()
			if err != nil {
				n.t.Errorf("collecting: %v\n%s", err, out)
				return
			}
			collected++
			deleted += strings.Count(string(out), "deleting '/nix/store/")
			time.Sleep(rand.N(pauseMax))
		}
	}()
	stop = func() (int, int) { over.Store(true); <-done; return collected, deleted }
	n.t.Cleanup(func() { stop() })
	return stop
}
