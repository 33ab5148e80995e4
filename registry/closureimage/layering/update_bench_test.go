package layering_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/closured/closured/registry/closureimage/layering"
)

// BenchmarkUpdate compares what updates pull with other ways of cutting. For each
// closure about a hundred paths are updated, one at a time, and everything that needs them is
// renamed. Figures are pulled bytes over changed bytes; 1 is the least. Updates are
// told apart by the share of paths that they rename: leaf up to 1 %, base from
// 50 %, where most of the image is new anyway. Everything but the times is the
// same in every run.
//
//	go test -run '^$' -bench Update -benchtime 5x ./registry/closureimage/layering
func BenchmarkUpdate(b *testing.B) {
	ways := []struct {
		name string
		cut  cutter
	}{
		{"closured", layering.Cut},
		{"popularity", popularity},
		{"dominators", dominators},
		{"largest-first", largestFirst},
	}
	table := []string{fmt.Sprintf("%-16s %-14s %7s %7s %7s %7s %7s %8s", "closure", "way", "all", "leaf", "middle", "base", "layers", "ms")}
	for _, closure := range closures(b) {
		for _, way := range ways {
			b.Run(closure.name+"/"+way.name, func(b *testing.B) {
				row := measure(b, way.cut, closure.vector)
				table = append(table, fmt.Sprintf("%-16s %-14s %s", closure.name, way.name, row))
			})
		}
	}
	fmt.Println("bytes pulled for each byte changed\n" + strings.Join(table, "\n"))
}

type namedClosure struct {
	name   string
	vector vector
}

func closures(b *testing.B) []namedClosure {
	b.Helper()
	all := []namedClosure{
		{"large-1", readVector(b, "large-1")},
		{"large-2", readVector(b, "large-2")},
	}
	for _, n := range []int{150, 1000, 3000} {
		paths, root := generate(n, 7)
		all = append(all, namedClosure{fmt.Sprintf("generated-%d", n), vector{paths: paths, root: root, maxLayers: 100}})
	}
	return all
}

// measure reports what updates of a closure pull, and gives it as a row of the table.
func measure(b *testing.B, cut cutter, v vector) string {
	b.Helper()
	var leaf, middle, base traffic
	sum := updates(b, cut, v, max(len(v.paths)/100, 1), func(share float64, t traffic) {
		kind := &middle
		switch {
		case share <= 0.01:
			kind = &leaf
		case share >= 0.5:
			kind = &base
		}
		kind.pulled += t.pulled
		kind.changed += t.changed
	})
	layers := len(mustCut(b, cut, v))
	start := cpuTime(b)
	for b.Loop() {
		mustCut(b, cut, v)
	}
	milliseconds := (cpuTime(b) - start).Seconds() * 1000 / float64(b.N)
	b.ReportMetric(sum.ratio(), "pulled/changed")
	b.ReportMetric(float64(layers), "layers")
	return fmt.Sprintf("%7.3f %7.3f %7.3f %7.3f %7d %8.2f", sum.ratio(), leaf.ratio(), middle.ratio(), base.ratio(), layers, milliseconds)
}
