package layering_test

import (
	"cmp"
	"math/big"
	"slices"

	"github.com/closured/closured/registry/closureimage/layering"
)

// The other ways of cutting that are in use, for BenchmarkUpdate: written from
// descriptions of what they do, not from their source. Where they leave ties open,
// names decide here, which is to their advantage.

// known is a closure as the alternatives look at it. Paths are sorted by name.
type known struct {
	paths []layering.Path
	root  int
	refs  [][]int
	users [][]int
	// topDown lists the paths such that each comes after all its users.
	topDown []int
}

func know(paths []layering.Path, root string) *known {
	k := &known{paths: slices.SortedFunc(slices.Values(paths), func(a, b layering.Path) int {
		return cmp.Compare(a.Name, b.Name)
	})}
	index := indexOf(k.paths)
	k.root = index[root]
	k.refs = make([][]int, len(paths))
	for i, p := range k.paths {
		for _, r := range p.References {
			k.refs[i] = append(k.refs[i], index[r])
		}
	}
	k.users = usersOf(k.paths)
	waits := make([]int, len(paths))
	for i, users := range k.users {
		waits[i] = len(users)
	}
	k.topDown = []int{k.root}
	for next := 0; next < len(k.topDown); next++ {
		for _, r := range k.refs[k.topDown[next]] {
			if waits[r]--; waits[r] == 0 {
				k.topDown = append(k.topDown, r)
			}
		}
	}
	return k
}

// layer makes a layer of the paths with the given indexes.
func (k *known) layer(members []int) layering.Layer {
	var l layering.Layer
	slices.Sort(members)
	for _, i := range members {
		l.Paths = append(l.Paths, k.paths[i].Name)
		l.Size += k.paths[i].NarSize
	}
	return l
}

// sorted gives the indexes of all paths in the order of before; at ties by name.
func (k *known) sorted(before func(a, b int) int) []int {
	all := make([]int, len(k.paths))
	for i := range all {
		all[i] = i
	}
	slices.SortStableFunc(all, before)
	return all
}

// popularity is Graham Christensen's way: count how often a path occurs when the
// references are written out as a tree; the most frequent ones get a layer
// each, and all others the last one.
func popularity(paths []layering.Path, root string, maxLayers int) ([]layering.Layer, error) {
	k := know(paths, root)
	occurs := make([]*big.Int, len(paths)) // has hundreds of digits in deep closures
	for i := range occurs {
		occurs[i] = new(big.Int)
	}
	occurs[k.root].SetInt64(1)
	for _, i := range k.topDown {
		for _, r := range k.refs[i] {
			occurs[r].Add(occurs[r], occurs[i])
		}
	}
	order := k.sorted(func(a, b int) int { return occurs[b].Cmp(occurs[a]) })
	var layers []layering.Layer
	for len(order) > 1 && len(layers) < maxLayers-1 {
		layers = append(layers, k.layer(order[:1:1]))
		order = order[1:]
	}
	return append(layers, k.layer(order)), nil
}

// dominators is Nixery's way. The root gets edges to what it refers to, and to each
// path that is popular or has a large closure; each child of the root in the tree of
// dominators makes a layer with all below it. Layers are rated by the popularity of
// their topmost path times the sum of all their paths' closures; the two of least rating are
// merged, and the result merged again, until few enough are left.
//
// Nixery takes popularity from a list made of all of nixpkgs; here it is the
// number of references within the closure. The root has a layer of its own, as
// Nixery's folder of links.
func dominators(paths []layering.Path, root string, maxLayers int) ([]layering.Layer, error) {
	const largeClosure, popular = 100_000_000, 100
	k := know(paths, root)
	closure := k.closureSizes()
	dominator, depth := make([]int, len(paths)), make([]int, len(paths))
	dominator[k.root] = k.root
	for _, i := range k.topDown[1:] {
		d := k.users[i][0]
		for _, user := range k.users[i][1:] {
			for d != user { // meet at the nearest that dominates both
				if depth[d] < depth[user] {
					user = dominator[user]
				} else {
					d = dominator[d]
				}
			}
		}
		if closure[i] > largeClosure || len(k.users[i]) >= popular {
			d = k.root
		}
		dominator[i], depth[i] = d, depth[d]+1
	}
	return k.mergeRated(k.subtrees(dominator), closure, maxLayers), nil
}

func (k *known) closureSizes() []int64 {
	sizes := make([]int64, len(k.paths))
	for i := range k.paths {
		for _, r := range reachedFrom(k.refs, i) {
			sizes[i] += k.paths[r].NarSize
		}
	}
	return sizes
}

// subtrees gives for each child of the root in the tree of dominators all nodes
// below it, itself first.
func (k *known) subtrees(dominator []int) [][]int {
	top := make([]int, len(k.paths)) // the place in trees
	var trees [][]int
	for _, i := range k.topDown[1:] {
		if dominator[i] == k.root {
			top[i] = len(trees)
			trees = append(trees, nil)
		} else {
			top[i] = top[dominator[i]]
		}
		trees[top[i]] = append(trees[top[i]], i)
	}
	return trees
}

func (k *known) mergeRated(trees [][]int, closure []int64, maxLayers int) []layering.Layer {
	rating := make(map[int]float64, len(trees)) // by the topmost path
	for _, tree := range trees {
		for _, i := range tree {
			rating[tree[0]] += float64(closure[i]) * float64(len(k.users[tree[0]]))
		}
	}
	slices.SortFunc(trees, func(a, b []int) int {
		return cmp.Or(cmp.Compare(rating[a[0]], rating[b[0]]), cmp.Compare(a[0], b[0]))
	})
	for len(trees) > max(maxLayers-1, 1) {
		trees[1] = slices.Concat(trees[0], trees[1])
		trees = trees[1:]
	}
	layers := []layering.Layer{k.layer([]int{k.root})}
	for _, tree := range trees {
		layers = append(layers, k.layer(tree))
	}
	return layers
}

// largestFirst is the way of dockerTools' automatic layers: one large path after the other,
// largest first, splits the closure into what it needs and what not. So a
// layer holds all paths that the same large ones need. It ends with the split before
// the first that gives too many layers.
func largestFirst(paths []layering.Path, root string, maxLayers int) ([]layering.Layer, error) {
	k := know(paths, root)
	class, classes := make([]int, len(paths)), 1
	order := k.sorted(func(a, b int) int { return cmp.Compare(k.paths[b].NarSize, k.paths[a].NarSize) })
	for _, large := range order {
		needed := make([]bool, len(paths))
		for _, i := range reachedFrom(k.refs, large) {
			needed[i] = true
		}
		type part struct {
			class  int
			needed bool
		}
		parts := map[part]int{}
		split := make([]int, len(paths))
		for i := range split {
			p := part{class[i], needed[i]}
			if _, ok := parts[p]; !ok {
				parts[p] = len(parts)
			}
			split[i] = parts[p]
		}
		if len(parts) > maxLayers {
			break
		}
		class, classes = split, len(parts)
	}
	members := make([][]int, classes)
	for i, c := range class {
		members[c] = append(members[c], i)
	}
	var layers []layering.Layer
	for _, m := range members {
		layers = append(layers, k.layer(m))
	}
	return layers, nil
}
