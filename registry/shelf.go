package registry

import (
	"slices"
	"sync"
)

const (
	shelfNames = 64 // names remembered
	shelfDepth = 4  // images of one name
)

// shelf remembers the images served last, so that what follows a manifest is
// found without asking the evaluator or the store. Whatever it forgets is found
// again by its name. An image takes some 60 kB.
type shelf struct {
	mu     sync.Mutex // guards all below
	order  []string   // names, the one used last at the end
	byName map[string][]*served
}

func newShelf() *shelf { return &shelf{byName: map[string][]*served{}} }

// put remembers s as the newest image of its name.
func (h *shelf) put(s *served) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(h.byName[s.canonical]), func(old *served) bool {
		return old.own.digest == s.own.digest
	})
	all = slices.Insert(all, 0, s)
	h.byName[s.canonical] = all[:min(len(all), shelfDepth)]
	h.freshenLocked(s.canonical)
	if len(h.order) > shelfNames {
		delete(h.byName, h.order[0])
		h.order = slices.Delete(h.order, 0, 1)
	}
}

// drop forgets s.
func (h *shelf) drop(s *served) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.byName[s.canonical] = slices.DeleteFunc(slices.Clone(h.byName[s.canonical]), func(old *served) bool { return old == s })
}

// of gives the images of a name, the newest first. The slice is never changed.
func (h *shelf) of(canonical string) []*served {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.byName[canonical]
	if all != nil {
		h.freshenLocked(canonical)
	}
	return all
}

func (h *shelf) freshenLocked(canonical string) {
	if at := slices.Index(h.order, canonical); at >= 0 {
		h.order = slices.Delete(h.order, at, at+1)
	}
	h.order = append(h.order, canonical)
}
