package closureimage

import (
	"container/list"
	"sync"
)

// lru keeps the values used last.
type lru[V any] struct {
	max int

	mu    sync.Mutex // guards both
	order *list.List // of pair[V], used last in front
	by    map[key]*list.Element
}

type pair[V any] struct {
	key   key
	value V
}

func newLRU[V any](most int) *lru[V] {
	return &lru[V]{max: most, order: list.New(), by: map[key]*list.Element{}}
}

func (l *lru[V]) get(k key) (V, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.by[k]
	if !ok {
		var none V
		return none, false
	}
	l.order.MoveToFront(e)
	p, ok := e.Value.(pair[V])
	return p.value, ok
}

func (l *lru[V]) put(k key, v V) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropLocked(k)
	l.by[k] = l.order.PushFront(pair[V]{k, v})
	if l.order.Len() > l.max {
		if p, ok := l.order.Back().Value.(pair[V]); ok {
			l.dropLocked(p.key)
		}
	}
}

func (l *lru[V]) drop(k key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropLocked(k)
}

func (l *lru[V]) dropLocked(k key) {
	if e, ok := l.by[k]; ok {
		l.order.Remove(e)
		delete(l.by, k)
	}
}
