//go:build privileged

package agent_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/tests/agent"
)

func TestMountsBelowKnowsStacksAndEscapes(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	odd := filepath.Join(dir, "a b\\c")
	mountTmpfs(t, odd)
	mountTmpfs(t, odd)
	t.Cleanup(func() { _ = os.Remove(dir + "-beside") })
	mountTmpfs(t, dir+"-beside")

	got, err := agent.MountsBelow(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{odd, odd}, got); diff != "" {
		t.Errorf("MountsBelow (-want +got):\n%s", diff)
	}
	all, err := agent.MountsBelow("/")
	if err != nil || !slices.Contains(all, odd) {
		t.Errorf("MountsBelow of the root gave %d mounts without %q (%v)", len(all), odd, err)
	}
}

func TestAgentPublishesSurvivesAndLeavesNothing(t *testing.T) {
	t.Parallel()
	a := agent.Run(t, agent.Config{})
	root := nixtest.TextClosure(t, a.StateDir(), 20, "agent")
	v := agent.StorePath(1, root)
	if err := a.PublishPatiently(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := a.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(a.Target(v), "store"))
	if err != nil || len(entries) != 20 {
		t.Errorf("after a restart the volume shows %d paths (%v), want 20", len(entries), err)
	}
	if rss, err := a.Resident(); err != nil || rss < 1<<20 {
		t.Errorf("Resident gave %d, %v", rss, err)
	}
	for _, want := range []int{1, 0} {
		volumes, err := a.Volumes()
		if err != nil || len(volumes) != want {
			t.Errorf("Volumes gave %q, %v, want %d", volumes, err, want)
		}
		pins, err := a.Pins()
		if err != nil || len(pins) != want {
			t.Errorf("Pins gave %q, %v, want %d", pins, err, want)
		}
		if err := a.Unpublish(t.Context(), v); err != nil { // the second time it is unknown
			t.Fatal(err)
		}
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(a.Dir()); !os.IsNotExist(err) {
		t.Errorf("after Close the folder is there: %v", err)
	}
}

func TestVolumeIDIsKubelets(t *testing.T) {
	t.Parallel()
	v := agent.Volume{PodUID: "a", Name: "bc"}
	// sha256 of "abc" (FIPS 180-2, appendix B.1)
	want := "csi-ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if got := v.ID(); got != want {
		t.Errorf("ID gave %s, want %s", got, want)
	}
}
