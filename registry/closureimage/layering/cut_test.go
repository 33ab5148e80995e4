package layering_test

import (
	gocmp "cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/registry/closureimage/layering"
)

// refusals change a closure of three paths into none.
func refusals() map[string]refusal {
	type paths = []layering.Path
	return map[string]refusal{
		"no layer is allowed":         {maxLayers: -9, mentions: "at most 0 layers"},
		"a negative number of layers": {maxLayers: -10, mentions: "at most -1 layers"},
		"the root is missing":         {root: "ddd-other", mentions: `"ddd-other"`},
		"no path at all":              {change: func(paths) paths { return nil }, mentions: `"aaa-root"`},
		"a path twice": {
			change:   func(p paths) paths { return append(p, p[1]) },
			mentions: `"bbb-lib" is there twice`,
		},
		"an unknown reference": {
			change:   func(p paths) paths { return p[:2] },
			mentions: `"bbb-lib" refers to "ccc-libc"`,
		},
		"a path that the root does not need": {
			change:   func(p paths) paths { return append(p, layering.Path{Name: "ddd-other"}) },
			mentions: "only 3 of the 4",
		},
		"two paths that need each other": {
			change:   func(p paths) paths { p[2].References = []string{"bbb-lib"}; return p },
			mentions: "needs itself through other paths",
		},
		"a cycle through the root": {
			change:   func(p paths) paths { p[2].References = []string{"aaa-root"}; return p },
			mentions: "needs itself through other paths",
		},
		"a negative size": {
			change:   func(p paths) paths { p[1].NarSize = -1; return p },
			mentions: `"bbb-lib" has -1 bytes`,
		},
		"more bytes than can be added up": {
			change:   func(p paths) paths { p[0].NarSize, p[1].NarSize = math.MaxInt64, math.MaxInt64; return p },
			mentions: "too many",
		},
		"a name without a hash": {
			change:   func(p paths) paths { return append(p, layering.Path{Name: "glibc"}) },
			mentions: `"glibc" is not <hash>-<name>`,
		},
		"an empty name": {
			change:   func(p paths) paths { return append(p, layering.Path{}) },
			mentions: `"" is not <hash>-<name>`,
		},
	}
}

type refusal struct {
	change    func(p []layering.Path) []layering.Path
	root      string // "" is the right one
	maxLayers int    // added to 9
	mentions  string
}

func TestCutRefusesWhatIsNoClosure(t *testing.T) {
	t.Parallel()
	for name, c := range refusals() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			paths := []layering.Path{
				{Name: "aaa-root", NarSize: 10, References: []string{"bbb-lib", "aaa-root"}},
				{Name: "bbb-lib", NarSize: 20, References: []string{"ccc-libc"}},
				{Name: "ccc-libc", NarSize: 30},
			}
			if c.change != nil {
				paths = c.change(paths)
			}
			layers, err := layering.Cut(paths, gocmp.Or(c.root, "aaa-root"), 9+c.maxLayers)
			if !errors.Is(err, layering.ErrInput) || layers != nil {
				t.Fatalf("Cut gives %v, %v, want no layers and ErrInput", layers, err)
			}
			if !strings.Contains(err.Error(), c.mentions) {
				t.Errorf("the error is %q, and does not mention %q", err, c.mentions)
			}
		})
	}
}

func TestTheCycleIsNamedNotWhatLeadsToIt(t *testing.T) {
	t.Parallel()
	_, err := layering.Cut([]layering.Path{
		{Name: "a-root", References: []string{"b-app"}},
		{Name: "b-app", References: []string{"c-one"}},
		{Name: "c-one", References: []string{"d-two"}},
		{Name: "d-two", References: []string{"c-one"}},
	}, "a-root", 5)
	if err == nil || strings.Contains(err.Error(), "root") || strings.Contains(err.Error(), "app") {
		t.Errorf("Cut says %v, want c-one or d-two named", err)
	}
}

// TestEveryPathIsInOneLayer looks at closures of all sizes and at all sorts of limits.
func TestEveryPathIsInOneLayer(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 3, 10, 99, 100, 101, 500, 2500} {
		for _, maxLayers := range []int{1, 2, 3, 8, 64, 99, 125, math.MaxInt} {
			paths, root := generate(n, 3)
			layers, err := layering.Cut(paths, root, maxLayers)
			if err != nil {
				t.Fatal(err)
			}
			if problem := check(paths, root, maxLayers, layers); problem != "" {
				t.Errorf("%d paths in at most %d layers: %s", n, maxLayers, problem)
			}
		}
	}
}

// check tells what is wrong with the layers of a closure, whichever way it was cut.
func check(paths []layering.Path, root string, maxLayers int, layers []layering.Layer) string {
	if len(layers) == 0 || len(layers) > maxLayers {
		return fmt.Sprintf("%d layers", len(layers))
	}
	left := map[string]int64{}
	for _, p := range paths {
		left[p.Name] = p.NarSize
	}
	for i, l := range layers {
		if len(l.Paths) == 0 || !slices.IsSorted(l.Paths) {
			return fmt.Sprintf("layer %d is empty or not sorted: %v", i, l.Paths)
		}
		if maxLayers > 1 && len(l.Paths) > 1 && slices.Contains(l.Paths, root) {
			return "the root is not alone"
		}
		size := int64(0)
		for _, name := range l.Paths {
			if _, ok := left[name]; !ok {
				return fmt.Sprintf("%s is in two layers, or in none of the input", name)
			}
			size += left[name]
			delete(left, name)
		}
		if size != l.Size {
			return fmt.Sprintf("layer %d says that it has %d bytes, and has %d", i, l.Size, size)
		}
	}
	if len(left) > 0 {
		return fmt.Sprintf("%d paths are in no layer", len(left))
	}
	return ""
}

// TestWhatDoesNotMatter changes closures in ways that must not change the layers.
func TestWhatDoesNotMatter(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(paths []layering.Path, random *rand.Rand){
		"the order of paths and references": shuffle,
		"references of paths to themselves": func(paths []layering.Path, _ *rand.Rand) {
			for i := range paths {
				paths[i].References = append(paths[i].References, paths[i].Name)
			}
		},
		"references that are listed twice": func(paths []layering.Path, _ *rand.Rand) {
			for i := range paths {
				paths[i].References = slices.Repeat(paths[i].References, 2)
			}
		},
		"small changes of size": func(paths []layering.Path, random *rand.Rand) {
			for i := range paths {
				for bit := int64(1); bit <= paths[i].NarSize/8; bit *= 2 {
					paths[i].NarSize ^= bit * random.Int64N(2)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			paths, root := generate(700, 5)
			want, err := layering.Cut(paths, root, 90)
			if err != nil {
				t.Fatal(err)
			}
			change(paths, rand.New(rand.NewPCG(3, 4)))
			got, err := layering.Cut(paths, root, 90)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(names(want), names(got)); diff != "" {
				t.Errorf("other layers (-before +after):\n%s", diff)
			}
		})
	}
}

func names(layers []layering.Layer) [][]string {
	all := make([][]string, len(layers))
	for i, l := range layers {
		all[i] = l.Paths
	}
	return all
}

func TestCutLeavesItsArgumentsAlone(t *testing.T) {
	t.Parallel()
	paths, root := generate(300, 6)
	before := make([]layering.Path, len(paths))
	for i, p := range paths {
		before[i] = p
		before[i].References = slices.Clone(p.References)
	}
	if _, err := layering.Cut(paths, root, 50); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, paths); diff != "" {
		t.Errorf("Cut changed its input (-before +after):\n%s", diff)
	}
}

// TestAlternativesCutWholeClosures keeps BenchmarkUpdate honest.
func TestAlternativesCutWholeClosures(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]cutter{"popularity": popularity, "dominators": dominators, "largest-first": largestFirst} {
		for _, n := range []int{2, 90, 400} {
			paths, root := generate(n, 8)
			layers, err := cut(paths, root, 100)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range layers {
				if len(l.Paths) > 1 && slices.Contains(l.Paths, root) {
					root = "" // they need not keep it alone
				}
			}
			if problem := check(paths, root, 100, layers); problem != "" {
				t.Errorf("%s of %d paths: %s", name, n, problem)
			}
		}
	}
}
