package layering

import (
	"cmp"
	"container/heap"
	"slices"
)

const (
	// keptNeighbours bounds the work of a look: a group forgets all but the
	// cheapest neighbours.
	keptNeighbours = 8
	// floorBytes is what a layer has to be worth, for each path of the closure,
	// when there are layers left: a request and an entry in the manifest for less
	// would cost more than the bytes that it saves now and then.
	floorBytes = 4096
)

// entry is a wish to join a group with its cheapest neighbour, as it was when
// the group was looked at last.
type entry struct {
	cost     uint64
	low      int // the lesser of both keys
	high     int
	group    int // who wishes
	neighbor int // with whom
}

func (e entry) before(other entry) bool {
	if e.cost != other.cost {
		return e.cost < other.cost // nearly always
	}
	return cmp.Or(
		cmp.Compare(e.low, other.low),
		cmp.Compare(e.high, other.high),
		cmp.Compare(e.group, other.group),
		cmp.Compare(e.neighbor, other.neighbor),
	) < 0
}

// queue is a heap of entries: at most one for each group.
type queue []entry

func (q *queue) Len() int           { return len(*q) }
func (q *queue) Less(i, j int) bool { return (*q)[i].before((*q)[j]) }
func (q *queue) Swap(i, j int)      { (*q)[i], (*q)[j] = (*q)[j], (*q)[i] }

// Push is there for package heap.
func (q *queue) Push(e any) {
	if wish, ok := e.(entry); ok {
		*q = append(*q, wish)
	}
}

// Pop is there for package heap.
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// joiner joins groups, the cheapest pair first. Groups are known by their
// number; a joined one gets a number of its own.
type joiner struct {
	groups []*group
	holder []int // of a group that is gone: one that holds its paths; of a living one: itself
	living int
	wishes queue

	looks  int     // so far
	seen   []int   // the last look that met a group
	offers []offer // room for a look
}

// offer is what joining with a group would cost.
type offer struct {
	cost  uint64
	key   int // of the group
	group int
}

// join joins groups until at most budget are left, and no join costs less than
// worth, which is what a layer that the budget allows has to save.
func join(groups []*group, budget int, worth uint64) []*group {
	j := &joiner{
		groups: groups,
		living: len(groups),
		holder: make([]int, len(groups)),
		seen:   make([]int, len(groups)),
	}
	for k := range groups {
		j.holder[k] = k
	}
	for k := range groups {
		if wish, ok := j.look(k); ok {
			j.wishes = append(j.wishes, wish)
		}
	}
	heap.Init(&j.wishes)
	for j.living > 1 && len(j.wishes) > 0 {
		if !j.step(budget, worth) {
			break
		}
	}
	for j.living > max(budget, 1) {
		j.joinLeast()
	}
	return j.survivors()
}

// step answers the cheapest wish, and tells whether to go on.
func (j *joiner) step(budget int, worth uint64) bool {
	wish := j.wishes[0]
	switch {
	case !j.alive(wish.group):
		heap.Pop(&j.wishes)
	case !j.alive(wish.neighbor):
		j.replaceFirst(wish.group)
	case j.living <= budget && wish.cost > worth:
		return false
	default:
		k := j.merge(wish.group, wish.neighbor)
		j.replaceFirst(k)
		for _, n := range j.groups[k].neighbours {
			j.groups[n].neighbours = append(j.groups[n].neighbours, k)
		}
	}
	return true
}

// replaceFirst puts the wish of group k where the first one was. When k has
// nobody to join with, the first one just goes.
func (j *joiner) replaceFirst(k int) {
	wish, ok := j.look(k)
	if !ok {
		heap.Pop(&j.wishes)
		return
	}
	j.wishes[0] = wish
	heap.Fix(&j.wishes, 0)
}

// look finds out with whom group k should join, and makes it forget all but its
// keptNeighbours cheapest neighbours. It is false when there is nobody.
func (j *joiner) look(k int) (entry, bool) {
	g := j.groups[k]
	offers := j.offers[:0]
	j.looks++
	j.seen[k] = j.looks // no offer for itself
	for _, n := range g.neighbours {
		n = j.find(n)
		if j.seen[n] != j.looks {
			j.seen[n] = j.looks
			offers = append(offers, offer{g.cost(j.groups[n]), j.groups[n].key, n})
		}
	}
	slices.SortFunc(offers, func(a, b offer) int {
		if a.cost != b.cost {
			return cmp.Compare(a.cost, b.cost)
		}
		return cmp.Compare(a.key, b.key)
	})
	j.offers = offers
	g.neighbours = g.neighbours[:0]
	for _, o := range offers[:min(len(offers), keptNeighbours)] {
		g.neighbours = append(g.neighbours, o.group)
	}
	if len(offers) == 0 {
		return entry{}, false
	}
	best := offers[0]
	return entry{
		cost: best.cost, low: min(g.key, best.key), high: max(g.key, best.key),
		group: k, neighbor: best.group,
	}, true
}

// cost is what joining adds to the bytes that updates pull: those of each group
// are pulled too when something changes that only the other one depends on.
func (g *group) cost(other *group) uint64 {
	both := unionLen(g.union, other.union)
	return g.size*unsigned(both-g.width) + other.size*unsigned(both-other.width)
}

// merge makes one group of two living ones and gives its number.
func (j *joiner) merge(a, b int) int {
	ga, gb := j.groups[a], j.groups[b]
	ga.union.add(gb.union) // nobody looks at a's own any more
	merged := &group{
		paths:      slices.Concat(ga.paths, gb.paths),
		size:       ga.size + gb.size,
		union:      ga.union,
		width:      ga.union.len(),
		key:        min(ga.key, gb.key),
		neighbours: slices.Concat(ga.neighbours, gb.neighbours),
	}
	k := len(j.groups)
	j.groups = append(j.groups, merged)
	j.holder[a], j.holder[b] = k, k
	j.holder = append(j.holder, k)
	j.seen = append(j.seen, 0)
	j.living--
	return k
}

// joinLeast joins the two smallest groups, neighbours or not.
func (j *joiner) joinLeast() {
	var alive []int
	for k := range j.groups {
		if j.alive(k) {
			alive = append(alive, k)
		}
	}
	slices.SortFunc(alive, func(a, b int) int {
		return cmp.Or(cmp.Compare(j.groups[a].size, j.groups[b].size), cmp.Compare(j.groups[a].key, j.groups[b].key))
	})
	j.merge(alive[0], alive[1])
}

func (j *joiner) alive(k int) bool { return j.holder[k] == k }

// find gives the living group that holds what group k held, and shortens the way
// there for the next time.
func (j *joiner) find(k int) int {
	for !j.alive(k) {
		j.holder[k] = j.holder[j.holder[k]]
		k = j.holder[k]
	}
	return k
}

func (j *joiner) survivors() []*group {
	var living []*group
	for k, g := range j.groups {
		if j.alive(k) {
			living = append(living, g)
		}
	}
	return living
}
