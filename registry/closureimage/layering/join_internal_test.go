package layering

import (
	"math/bits"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestGroupsWithoutNeighboursAreForced gives groups that know of nobody: the
// smallest are joined until the layers suffice, and no more.
func TestGroupsWithoutNeighboursAreForced(t *testing.T) {
	t.Parallel()
	var groups []*group
	unions := newBitsets(5, 5)
	for rank, size := range []uint64{50, 7, 40, 7, 7} {
		unions[rank][0] = 1 << rank
		groups = append(groups, &group{paths: []int{rank}, size: size, union: unions[rank], width: 1, key: rank})
	}
	var got [][]int
	for _, g := range join(groups, 3, 1<<40) {
		slices.Sort(g.paths)
		got = append(got, g.paths)
		if g.width != len(g.paths) {
			t.Errorf("the union of %v has %d members", g.paths, g.width)
		}
	}
	// 7 and 7 with the least ranks join first, then 7 and 14.
	if diff := cmp.Diff([][]int{{0}, {2}, {1, 3, 4}}, got); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
}

func TestRunsAreAsSmallAsTheirNumberAllows(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		paths    int
		size     uint64
		wantRuns int
		longest  int
	}{
		"few enough paths are a run each":         {2048, 16, 2048, 1},
		"one path too many makes runs of 1024":    {2049, 512, 1025, 2},
		"the limit of a run doubles":              {4096, 1024, 2048, 2},
		"it doubles until the runs are few":       {4097, 1024, 1025, 4},
		"it doubles beyond the size of a path":    {6144, 3000, 1229, 5},
		"it gets as large as the paths are":       {2049, 1 << 40, 1025, 2},
		"without any bytes all paths are one run": {2049, 0, 1, 2049},
		"no path is no run":                       {0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &line{size: slices.Repeat([]uint64{c.size}, c.paths)}
			rest := make([]int, c.paths)
			for i := range rest {
				rest[i] = i
			}
			runs := l.cutRuns(rest)
			longest := 0
			for _, run := range runs {
				longest = max(longest, len(run))
			}
			if len(runs) != c.wantRuns || longest != c.longest {
				t.Errorf("%d runs, the longest of %d paths, want %d and %d", len(runs), longest, c.wantRuns, c.longest)
			}
			if !slices.Equal(slices.Concat(runs...), rest) {
				t.Error("the runs are not the whole, in order")
			}
		})
	}
}

// TestSweepAcrossBands compares with the plain way, for a graph of several bands
// with references of all lengths.
func TestSweepAcrossBands(t *testing.T) {
	t.Parallel()
	const n = 2*bandBits + 100
	g := make(graph, n)
	for i := 1; i < n; i++ {
		g[i] = []int{i / 2, i * 7 % i, max(0, i-bandBits)}
	}
	want := make([][]bool, n)
	for i := range g {
		want[i] = make([]bool, n)
		want[i][i] = true
		for _, r := range g[i] {
			for k, reached := range want[r] {
				want[i][k] = want[i][k] || reached
			}
		}
	}
	members := make([]int, n)
	g.sweep(func(first int, rows []band) {
		for i, row := range rows {
			for b := range min(bandBits, n-first) {
				has := row[b/64]>>(b%64)&1 == 1
				if has != want[first+i][first+b] {
					t.Fatalf("path %d reaches %d: %t", first+i, first+b, has)
				}
			}
			for _, word := range row {
				members[first+i] += bits.OnesCount64(word)
			}
		}
	})
	if diff := cmp.Diff(members, g.heights()); diff != "" {
		t.Errorf("heights (-want +got):\n%s", diff)
	}
}

func TestRoundDown(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]uint64{
		0: 0, 1: 1, 7: 7, 8: 8, 9: 8, 15: 14, 1023: 896, 1024: 1024, 1279: 1024, 1280: 1280, 1<<63 + 5: 1 << 63,
	} {
		if got := roundDown(n); got != want {
			t.Errorf("%d is rounded down to %d, want %d", n, got, want)
		}
	}
}

// TestRatiosAreExact compares ratios that differ in the last of more than 64 bits.
func TestRatiosAreExact(t *testing.T) {
	t.Parallel()
	const large = 1 << 62
	for _, c := range []struct {
		widthA, widthB int
		sizeA, sizeB   uint64
		want           int
	}{
		{1, 1, 10, 10, 0},
		{1, 2, 10, 10, -1},
		{3, 6, 10, 20, 0},
		{1 << 20, 1 << 20, large, large + 1, 1},
		{1<<20 + 1, 1 << 20, large, large, 1},
		{5, 1, 0, 1, 1}, // something for no bytes at all is worst
		{5, 7, 0, 0, 0},
	} {
		if got := compareRatios(c.widthA, c.sizeA, c.widthB, c.sizeB); got != c.want {
			t.Errorf("%d/%d against %d/%d gives %d, want %d", c.widthA, c.sizeA, c.widthB, c.sizeB, got, c.want)
		}
	}
}
