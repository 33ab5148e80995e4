package layering_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/closured/closured/registry/closureimage/layering"
)

// cutter is a way of cutting a closure into layers.
type cutter func(paths []layering.Path, root string, maxLayers int) ([]layering.Layer, error)

// traffic adds up updates: the bytes of layers that the old image did not have, and
// the bytes of the paths that were renamed, which is the least that can be pulled.
type traffic struct {
	pulled, changed int64
}

func (t traffic) ratio() float64 { return float64(t.pulled) / float64(t.changed) }

// updates lays a closure out, then once for the update of each step-th path in the order
// of paths. each, when there is one, gets the traffic of each update, with the share of
// all paths that it renames.
func updates(tb testing.TB, cut cutter, v vector, step int, each func(share float64, t traffic)) traffic {
	tb.Helper()
	old := map[string]bool{}
	for _, l := range mustCut(tb, cut, v) {
		old[strings.Join(l.Paths, " ")] = true
	}
	users := usersOf(v.paths)
	var sum traffic
	for i := 0; i < len(v.paths); i += step {
		renamed := reachedFrom(users, i)
		updated, changed := rename(v, renamed)
		t := traffic{changed: changed}
		for _, l := range mustCut(tb, cut, updated) {
			if !old[strings.Join(l.Paths, " ")] {
				t.pulled += l.Size
			}
		}
		sum.pulled += t.pulled
		sum.changed += t.changed
		if each != nil {
			each(float64(len(renamed))/float64(len(v.paths)), t)
		}
	}
	return sum
}

func mustCut(tb testing.TB, cut cutter, v vector) []layering.Layer {
	tb.Helper()
	layers, err := cut(v.paths, v.root, v.maxLayers)
	if err != nil {
		tb.Fatal(err)
	}
	return layers
}

// usersOf gives of each path the indexes of those that refer to it.
func usersOf(paths []layering.Path) [][]int {
	index := indexOf(paths)
	users := make([][]int, len(paths))
	for i, p := range paths {
		for _, r := range p.References {
			users[index[r]] = append(users[index[r]], i)
		}
	}
	return users
}

func indexOf(paths []layering.Path) map[string]int {
	index := make(map[string]int, len(paths))
	for i, p := range paths {
		index[p.Name] = i
	}
	return index
}

// reachedFrom gives all nodes that the edges lead to from a node, with itself.
func reachedFrom(edges [][]int, from int) []int {
	seen := make([]bool, len(edges))
	seen[from] = true
	reached := []int{from}
	for next := 0; next < len(reached); next++ {
		for _, to := range edges[reached[next]] {
			if !seen[to] {
				seen[to] = true
				reached = append(reached, to)
			}
		}
	}
	return reached
}

// rename gives the closure with other hashes for some paths: their own, backwards. changed
// is the number of bytes of these paths.
func rename(v vector, which []int) (updated vector, changed int64) {
	names := make(map[string]string, len(which))
	for _, i := range which {
		hash, name, _ := strings.Cut(v.paths[i].Name, "-")
		backwards := []byte(hash)
		slices.Reverse(backwards)
		names[v.paths[i].Name] = string(backwards) + "-" + name
		changed += v.paths[i].NarSize
	}
	now := func(name string) string {
		if other, ok := names[name]; ok {
			return other
		}
		return name
	}
	updated = vector{root: now(v.root), maxLayers: v.maxLayers}
	for _, p := range v.paths {
		renamed := layering.Path{Name: now(p.Name), NarSize: p.NarSize}
		for _, r := range p.References {
			renamed.References = append(renamed.References, now(r))
		}
		updated.paths = append(updated.paths, renamed)
	}
	return updated, changed
}

// TestUpdatesPullLittleMoreThanTheyChange holds the figures that the layout is known
// for: of all updates of large-1 and every tenth of large-2. Every hundredth of
// large-2 must do when the test has to be quick.
func TestUpdatesPullLittleMoreThanTheyChange(t *testing.T) {
	t.Parallel()
	type figure struct {
		name string
		step int
		want string
	}
	figures := []figure{{"large-1", 1, "1.025"}, {"large-2", 10, "1.355"}}
	if quick() {
		figures[1] = figure{"large-2", 100, "1.350"}
	}
	for _, c := range figures {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sum := updates(t, layering.Cut, readVector(t, c.name), c.step, nil)
			if got := fmt.Sprintf("%.3f", sum.ratio()); got != c.want {
				t.Errorf("updates pull %s times the bytes that they change (%d for %d), want %s", got, sum.pulled, sum.changed, c.want)
			}
		})
	}
}

// TestBytesTimesUnion holds what Cut makes small: the bytes of each layer times
// the paths in the union of its paths' closures, against one layer for each path.
func TestBytesTimesUnion(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"large-1": "1.025", "large-2": "1.353"} {
		v := readVector(t, name)
		single := make([]layering.Layer, len(v.paths))
		for i, p := range v.paths {
			single[i] = layering.Layer{Size: p.NarSize, Paths: []string{p.Name}}
		}
		got := float64(bytesTimesUnion(v, mustCut(t, layering.Cut, v))) / float64(bytesTimesUnion(v, single))
		if text := fmt.Sprintf("%.3f", got); text != want {
			t.Errorf("%s: bytes times union are %s times those of single paths, want %s", name, text, want)
		}
	}
}

func bytesTimesUnion(v vector, layers []layering.Layer) int64 {
	index := indexOf(v.paths)
	refs := make([][]int, len(v.paths), len(v.paths)+1)
	for i, p := range v.paths {
		for _, r := range p.References {
			refs[i] = append(refs[i], index[r])
		}
	}
	sum := int64(0)
	for _, l := range layers {
		members := make([]int, len(l.Paths))
		for i, name := range l.Paths {
			members[i] = index[name]
		}
		// One more node that refers to the layer's paths reaches their union and itself.
		sum += l.Size * int64(len(reachedFrom(append(refs, members), len(refs)))-1)
	}
	return sum
}
