package layering

import (
	"math/bits"
	"slices"
)

// bandWords is the width of a band in words of 64 bits. Ten thousand rows of a
// band are 1.3 MB, which stays in a core's own cache.
const bandWords = 16

// bandBits is the number of paths that a band tells about.
const bandBits = 64 * bandWords

// band is a row of the matrix "path x reaches path y", cut to bandBits
// neighbouring y.
type band [bandWords]uint64

// graph holds the references of paths that are numbered such that a path comes
// after all that it needs: all numbers in graph[p] are below p.
type graph [][]int

// order numbers the nodes of refs such that each comes after all that it
// needs: order[i] is the node with number i. When there is a cycle there is no
// such order; then order has fewer nodes than refs, and inCycle is one of the
// nodes of a cycle.
func order(refs [][]int) (order []int, inCycle int) {
	waits := make([]int, len(refs)) // for how many references
	users := make([][]int, len(refs))
	order = make([]int, 0, len(refs))
	for node, needed := range refs {
		waits[node] = len(needed)
		if len(needed) == 0 {
			order = append(order, node)
		}
		for _, n := range needed {
			users[n] = append(users[n], node)
		}
	}
	for next := 0; next < len(order); next++ {
		for _, user := range users[order[next]] {
			if waits[user]--; waits[user] == 0 {
				order = append(order, user)
			}
		}
	}
	if len(order) < len(refs) {
		return order, findCycle(refs, waits)
	}
	return order, 0
}

// findCycle follows references that still wait. Each such node waits for
// another, so that after as many steps as there are nodes the walk is in a cycle.
func findCycle(refs [][]int, waits []int) int {
	at := slices.IndexFunc(waits, func(n int) bool { return n > 0 })
	for range refs {
		next := slices.IndexFunc(refs[at], func(r int) bool { return waits[r] > 0 })
		at = refs[at][next]
	}
	return at
}

// renumber gives the graph of refs in the given order, and of each node its
// place in it.
func renumber(refs [][]int, order []int) (graph, []int) {
	place := make([]int, len(order))
	for i, node := range order {
		place[node] = i
	}
	g := make(graph, len(order))
	for i, node := range order {
		g[i] = make([]int, len(refs[node]))
		for k, r := range refs[node] {
			g[i][k] = place[r]
		}
	}
	return g, place
}

// sweep computes which paths each path reaches, itself included, and shows that
// a band after the other to visit: bit b of rows[p-first] says that p reaches
// the path first+b. Rows of paths before first would be empty and are left out.
//
// The whole matrix would need n²/8 bytes: 12 MB for 10,000 paths, but more than
// 1 GB for the 100,000 that somebody may make on purpose. A band needs 128 n
// bytes, and is as fast or faster because it fits into the cache.
func (g graph) sweep(visit func(first int, rows []band)) {
	whole := make([]band, len(g))
	for first := 0; first < len(g); first += bandBits {
		rows := whole[first:]
		for i := range rows {
			row := &rows[i]
			*row = band{}
			if i < bandBits {
				row[i/64] = 1 << (i % 64)
			}
			for _, r := range g[first+i] {
				if r >= first {
					row.add(&rows[r-first])
				}
			}
		}
		visit(first, rows)
	}
}

func (b *band) add(other *band) {
	for i := range b {
		b[i] |= other[i]
	}
}

// heights gives of each path how many paths it reaches, itself included.
func (g graph) heights() []int {
	heights := make([]int, len(g))
	g.sweep(func(first int, rows []band) {
		for i := range rows {
			for _, word := range rows[i] {
				heights[first+i] += bits.OnesCount64(word)
			}
		}
	})
	return heights
}

// bitset is a set of ranks. All sets of one layout have the same length.
type bitset []uint64

// newBitsets makes count empty sets that have room for n ranks, and for whole bands.
func newBitsets(count, n int) []bitset {
	words := (n + bandBits - 1) / bandBits * bandWords
	all := make([]uint64, count*words)
	sets := make([]bitset, count)
	for i := range sets {
		sets[i] = all[i*words : (i+1)*words : (i+1)*words]
	}
	return sets
}

// add makes s the union of both.
func (s bitset) add(other bitset) {
	other = other[:len(s)]
	for i := range s {
		s[i] |= other[i]
	}
}

// len counts the members.
func (s bitset) len() int { return unionLen(s, s) }

// unionLen counts the members of the union of a and b without making it. Most
// of the time of a layout is spent here.
func unionLen(a, b bitset) int {
	b = b[:len(a)]
	n := 0
	for i, word := range a {
		n += bits.OnesCount64(word | b[i])
	}
	return n
}
