package closureimage

import (
	"context"
	"sync"
)

// shared runs one thing at a time for each key, for all who ask meanwhile.
type shared[V any] struct {
	mu    sync.Mutex // guards calls and the counts in them
	calls map[key]*call[V]
}

// call is one run.
type call[V any] struct {
	waiting int // who waits; nobody joins a call that none waits for
	cancel  context.CancelFunc
	done    chan struct{} // closed when value and err are there
	value   V
	err     error
}

func newShared[V any]() *shared[V] { return &shared[V]{calls: map[key]*call[V]{}} }

// do runs work, or waits for whoever runs it. The run keeps the values of the first
// caller's context but not its end; it is cancelled, and waited for, when the last one who waits leaves.
func (s *shared[V]) do(ctx context.Context, k key, work func(context.Context) (V, error)) (V, error) {
	s.mu.Lock()
	c := s.calls[k]
	if c == nil {
		c = &call[V]{done: make(chan struct{})}
		var own context.Context
		own, c.cancel = context.WithCancel(context.WithoutCancel(ctx)) //nolint:gosec // run calls it
		s.calls[k] = c
		go s.run(own, k, c, work)
	}
	c.waiting++
	s.mu.Unlock()
	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
	}
	s.leave(k, c)
	var none V
	return none, ctx.Err()
}

func (s *shared[V]) run(ctx context.Context, k key, c *call[V], work func(context.Context) (V, error)) {
	defer c.cancel()
	c.value, c.err = work(ctx)
	s.mu.Lock()
	if s.calls[k] == c {
		delete(s.calls, k)
	}
	s.mu.Unlock()
	close(c.done)
}

// leave gives up waiting. Who comes later begins anew rather than join a run that is being cancelled.
func (s *shared[V]) leave(k key, c *call[V]) {
	s.mu.Lock()
	c.waiting--
	last := c.waiting == 0
	if last && s.calls[k] == c {
		delete(s.calls, k)
	}
	s.mu.Unlock()
	if last {
		c.cancel()
		<-c.done
	}
}
