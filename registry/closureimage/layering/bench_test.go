package layering_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/closured/closured/registry/closureimage/layering"
)

// BenchmarkCut tells how long a layout takes. Less than 25 ms for 1,000 paths and
// less than 100 ms for 10,000, on one core, are the aim: run it with -cpu 1. On a
// busy machine cpu-ms/op is the figure that can be repeated; it includes what the
// collector of memory needs.
func BenchmarkCut(b *testing.B) {
	for _, n := range []int{100, 1000, 2400, 10_000, 30_000} {
		b.Run(fmt.Sprintf("paths=%d", n), func(b *testing.B) {
			paths, root := generate(n, 1)
			benchmarkCut(b, paths, root)
		})
	}
	for _, name := range []string{"large-1", "large-2"} {
		b.Run(name, func(b *testing.B) {
			v := readVector(b, name)
			benchmarkCut(b, v.paths, v.root)
		})
	}
}

func benchmarkCut(b *testing.B, paths []layering.Path, root string) {
	b.Helper()
	b.ReportAllocs()
	start := cpuTime(b)
	for b.Loop() {
		if _, err := layering.Cut(paths, root, 100); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpuTime(b)-start).Microseconds())/1000/float64(b.N), "cpu-ms/op")
}

// cpuTime is what the process has used of all cores.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
