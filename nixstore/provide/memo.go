package provide

import (
	"container/list"
	"sync"

	"github.com/closured/closured/nixstore"
)

// memoMax bounds the sources remembered. The longest source has 4 KiB (the CSI
// specification's bound for a map), so that the whole is at most 4 MiB.
const memoMax = 1024

// memo remembers what sources resolved to; the ones used last stay.
type memo struct {
	mu    sync.Mutex // guards all below
	order *list.List // of remembered; the one used last in front
	byKey map[string]*list.Element
}

type remembered struct {
	key  string
	root nixstore.StorePath
}

func newMemo() *memo {
	return &memo{order: list.New(), byKey: map[string]*list.Element{}}
}

func (m *memo) get(key string) (nixstore.StorePath, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.byKey[key]
	if !ok {
		return nixstore.StorePath{}, false
	}
	m.order.MoveToFront(e)
	r, ok := e.Value.(remembered)
	return r.root, ok
}

func (m *memo) put(key string, root nixstore.StorePath) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.byKey[key]; ok {
		m.order.Remove(e)
	}
	m.byKey[key] = m.order.PushFront(remembered{key, root})
	if m.order.Len() <= memoMax {
		return
	}
	if r, ok := m.order.Remove(m.order.Back()).(remembered); ok {
		delete(m.byKey, r.key)
	}
}
