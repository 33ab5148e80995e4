//go:build e2e

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestAtRest measures the agent alone when nothing happens.
func TestAtRest(t *testing.T) {
	requireClean(t)
	pids := mustPIDs(t)
	if len(pids) != 1 {
		t.Fatalf("the node has the agents %v", pids)
	}
	const span = 20 * time.Second
	before := processor(t, pids[0])
	time.Sleep(span)
	used := processor(t, pids[0]) - before
	share := 100 * used.Seconds() / span.Seconds()
	memory := memoryOf(t, pids[0])
	beside := int64(0) // of the Nix daemon's container
	if _, ok := w.agent.(*daemonSet); ok {
		pod, err := agentPod(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range processesOf(t, pod, "nix-daemon") {
			beside += memoryOf(t, pid)
		}
	}
	const mib = 1 << 20
	figure("at rest", "agent %.1f MiB resident (bar: 64), %.2f %% of a core (bar: 1); container nix-daemon %.1f MiB resident",
		float64(memory)/mib, share, float64(beside)/mib)
	if memory >= 64*mib {
		t.Errorf("%d bytes are resident, want less than 64 MiB", memory)
	}
	if share >= 1 {
		t.Errorf("%.2f %% of a core, want less than 1", share)
	}
}

// processor gives the processor time of a process, by proc(5), stat.
func processor(t *testing.T, pid int) time.Duration {
	t.Helper()
	text := read(t, fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	var ticks int
	for _, field := range fields[11:13] { // utime and stime, the 14th and 15th of all
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100 // USER_HZ is 100 everywhere
}

func memoryOf(t *testing.T, pid int) int64 { return procStatus(t, pid, "VmRSS") }

// procStatus gives one of the amounts of memory of proc(5), status, in bytes.
func procStatus(t *testing.T, pid int, name string) int64 {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/status", pid))) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no " + name)
	return 0
}
