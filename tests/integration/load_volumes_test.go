//go:build privileged

package integration_test

import (
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/closured/closured/tests/agent"
)

// TestFiveHundredVolumesOfOneClosure publishes one closure for many pods. The
// agent may have 64 MiB then, and the mount table one line for each volume.
func TestFiveHundredVolumesOfOneClosure(t *testing.T) {
	t.Parallel()
	const (
		volumes     = 500
		callers     = 8
		residentMax = 64 << 20
	)
	n := start(t, agent.Config{})
	root := n.textClosure(300, "many")
	n.publish(agent.StorePath(volumes, root))
	linesBefore := mountLines(t, n.Dir())

	each(callers, volumes, func(i int) {
		if err := n.Publish(t.Context(), agent.StorePath(i, root)); err != nil {
			t.Errorf("publishing volume %d: %v", i, err)
		}
	})
	if added := mountLines(t, n.Dir()) - linesBefore; added != volumes {
		t.Errorf("%d volumes have %d lines in mountinfo, want one each", volumes, added)
	}
	n.requireVolumes(volumes + 1)
	if views := n.metric("closured_views"); views != 1 {
		t.Errorf("there are %v views, want 1", views)
	}
	resident, err := n.Resident()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d volumes: %.1f MiB resident", volumes, float64(resident)/(1<<20))
	if resident >= residentMax {
		t.Errorf("with %d volumes the agent has %d bytes resident, want less than %d", volumes, resident, residentMax)
	}
	each(callers, volumes+1, func(i int) {
		if err := n.Unpublish(t.Context(), agent.StorePath(i, root)); err != nil {
			t.Errorf("unpublishing volume %d: %v", i, err)
		}
	})
	n.requireNothing()
}

// each calls do for 0 to count-1, by some callers at a time.
func each(callers, count int, do func(int)) {
	next := make(chan int)
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	all.Wait()
}

// mountLines counts the lines of mountinfo that name dir anywhere.
func mountLines(t *testing.T, dir string) int {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, dir+"/") {
			count++
		}
	}
	return count
}
