package layering

import "slices"

const (
	// maxGroups bounds the work: joins begin with at most so many groups.
	maxGroups = 2048
	// lineNeighbours are considered before and as many after a group: equal
	// heights make equal unions likely.
	lineNeighbours = 4
	// edgeNeighbours are considered of those that a group needs, nearest to the
	// root first, and as many of those that need it, farthest from the root
	// first: such unions contain each other nearly.
	edgeNeighbours = 3
)

// group is a future layer: some paths, and all that has to stay the same for the
// layer to stay the same.
type group struct {
	paths []int  // ranks
	size  uint64 // sum of the rounded sizes
	union bitset // of the closures of its paths; nil for a path alone
	width int    // number of members of union
	key   int    // the least rank; decides ties

	neighbours []int // numbers of groups worth joining with, living or joined since
}

// alone makes a group of one path that will join no other.
func (l *line) alone(rank int) *group {
	return &group{paths: []int{rank}, size: l.size[rank], width: l.height[rank], key: rank}
}

// groups makes the groups of the paths in rest, which are ranks in ascending order.
func (l *line) groups(rest []int) []*group {
	runs := l.cutRuns(rest)
	groups := make([]*group, len(runs))
	unions := newBitsets(len(runs), len(l.paths))
	for k, run := range runs {
		groups[k] = &group{paths: run, union: unions[k], key: run[0]}
		for _, rank := range run {
			groups[k].size += l.size[rank]
		}
	}
	groupOf := ownerOf(groups, len(l.paths))
	l.refs.sweep(func(first int, rows []band) {
		for _, rank := range rest {
			if rank >= first {
				union := unions[groupOf[rank]][first/64:]
				(*band)(union).add(&rows[rank-first])
			}
		}
	})
	words := (len(l.paths) + 63) / 64
	for _, g := range groups {
		g.union = g.union[:words] // bands may go beyond the last path
		g.width = g.union.len()
	}
	l.findNeighbours(groups, rest, groupOf)
	return groups
}

// cutRuns cuts rest into at most maxGroups runs of paths that follow each other:
// each path by itself if there are few, otherwise runs of at most as many bytes as
// are necessary.
func (l *line) cutRuns(rest []int) [][]int {
	if len(rest) <= maxGroups {
		return slices.Collect(slices.Chunk(rest, 1))
	}
	for most := uint64(1024); ; most *= 2 {
		if ends := l.runsUpTo(rest, most); len(ends) <= maxGroups {
			runs, begin := make([][]int, len(ends)), 0
			for i, end := range ends {
				runs[i], begin = rest[begin:end:end], end
			}
			return runs
		}
	}
}

// runsUpTo gives where in rest the runs end that are of at most as many bytes, or
// of one path that is larger. It gives up when there are more than maxGroups.
func (l *line) runsUpTo(rest []int, most uint64) []int {
	ends := make([]int, 0, maxGroups+1)
	size := uint64(0)
	for i, rank := range rest {
		if i > 0 && size+l.size[rank] > most {
			ends, size = append(ends, i), 0
		}
		if len(ends) > maxGroups {
			break
		}
		size += l.size[rank]
	}
	return append(ends, len(rest))
}

// nobody owns a path that is alone.
const nobody = -1

// ownerOf gives for each rank the number of its group, or nobody.
func ownerOf(groups []*group, n int) []int {
	owner := slices.Repeat([]int{nobody}, n)
	for k, g := range groups {
		for _, rank := range g.paths {
			owner[rank] = k
		}
	}
	return owner
}

// findNeighbours notes for each group those that it may be worth joining with.
// Being a neighbour is mutual.
func (l *line) findNeighbours(groups []*group, rest, groupOf []int) {
	link := func(a, b int) {
		groups[a].neighbours = append(groups[a].neighbours, b)
		groups[b].neighbours = append(groups[b].neighbours, a)
	}
	for k := range groups {
		for other := k + 1; other <= k+lineNeighbours && other < len(groups); other++ {
			link(k, other)
		}
	}
	needs, users := l.edges(rest, groupOf, len(groups))
	for k := range groups {
		slices.Sort(needs[k])
		slices.Reverse(needs[k])
		for _, other := range firstOwners(needs[k], groupOf, k) {
			link(k, other)
		}
		for _, other := range firstOwners(users[k], groupOf, k) {
			link(k, other)
		}
	}
}

// edges gives for each group the ranks of the paths that it refers to, and of
// those that refer to it, as far as they are in rest. The latter are in ascending
// order, as rest is.
func (l *line) edges(rest, groupOf []int, n int) (needs, users [][]int) {
	needs, users = make([][]int, n), make([][]int, n)
	for _, rank := range rest {
		for _, r := range l.refs[rank] {
			if groupOf[r] != nobody {
				needs[groupOf[rank]] = append(needs[groupOf[rank]], r)
				users[groupOf[r]] = append(users[groupOf[r]], rank)
			}
		}
	}
	return needs, users
}

// firstOwners gives the first edgeNeighbours groups, other than self, that are
// met at the given ranks.
func firstOwners(ranks, groupOf []int, self int) []int {
	var met []int
	for _, rank := range ranks {
		owner := groupOf[rank]
		if owner != self && !slices.Contains(met, owner) {
			met = append(met, owner)
		}
		if len(met) == edgeNeighbours {
			break
		}
	}
	return met
}
