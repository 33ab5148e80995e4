package flight

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/closured/closured/nixstore"
)

// Func is the work itself. It ends soon after ctx does. report may be called
// from any goroutine, until Func returns.
type Func[V any] func(ctx context.Context, report func(nixstore.Progress)) (V, error)

// Info describes one running work.
type Info struct {
	Key      string
	Started  time.Time
	Holders  []string // sorted; empty while the grace runs
	Progress nixstore.Progress
}

// Group is a set of works by key. Make it with New, end it with Close.
type Group[V any] struct {
	cfg     Config
	running sync.WaitGroup // the goroutines of all works

	mu       sync.Mutex // guards all below, and the fields of work that say so
	works    map[string]*work[V]
	failures backoff
	closed   bool
}

// New makes a group. The error joins every problem of cfg.
func New[V any](cfg Config) (*Group[V], error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("making a group of flights: %w", err)
	}
	return &Group[V]{
		cfg:   cfg,
		works: map[string]*work[V]{},
		failures: backoff{
			first: cfg.BackoffFirst, max: cfg.BackoffMax, bound: cfg.Remembered,
			failures: map[string]failure{},
		},
	}, nil
}

// Join starts fn as the work of key, or joins the work that runs, on behalf of
// holder. When the last work of key failed a short while ago, the flight has that
// failure at once. The work keeps the values of ctx but not its end: it ends by
// itself, at the limit, when nobody wants it any more, or at Close.
func (g *Group[V]) Join(ctx context.Context, key, holder string, fn Func[V]) *Flight[V] {
	g.mu.Lock()
	defer g.mu.Unlock()
	w := g.works[key]
	if w == nil || w.doomed {
		if err := g.refusalLocked(key); err != nil {
			return &Flight[V]{group: g, work: landed[V](key, err), holder: holder}
		}
		w = g.startLocked(ctx, key, fn, w)
	}
	w.grace.stopLocked()
	in := w.holders[holder]
	if in == nil {
		in = &interest{}
		w.holders[holder] = in
	}
	if in.waiting == 0 {
		g.awaitReturnLocked(w, holder, in)
	}
	return &Flight[V]{group: g, work: w, holder: holder}
}

// Leave ends the interest of holder in all works; an unknown holder is fine.
func (g *Group[V]) Leave(holder string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, w := range g.works {
		g.leaveLocked(w, holder)
	}
}

// Running describes the works that run, the oldest first.
func (g *Group[V]) Running() []Info {
	g.mu.Lock()
	defer g.mu.Unlock()
	infos := make([]Info, 0, len(g.works))
	for _, w := range g.works {
		infos = append(infos, Info{
			Key: w.key, Started: w.started, Progress: w.progress,
			Holders: slices.Sorted(maps.Keys(w.holders)),
		})
	}
	slices.SortFunc(infos, func(a, b Info) int {
		if c := a.Started.Compare(b.Started); c != 0 {
			return c
		}
		return strings.Compare(a.Key, b.Key)
	})
	return infos
}

// Close cancels all works and waits for their ends. Later joins fail with
// ErrUnavailable.
func (g *Group[V]) Close() {
	g.mu.Lock()
	g.closed = true
	for _, w := range g.works {
		g.cancelLocked(w, stopping())
	}
	g.mu.Unlock()
	g.running.Wait()
}

func (g *Group[V]) refusalLocked(key string) error {
	if g.closed {
		return stopping()
	}
	return g.failures.recall(key, time.Now())
}

// startLocked starts the work of key. before is a cancelled work of the same
// key that may still be ending, or nil.
func (g *Group[V]) startLocked(ctx context.Context, key string, fn Func[V], before *work[V]) *work[V] {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	w := &work[V]{
		key: key, started: time.Now(), cancel: cancel,
		done: make(chan struct{}), holders: map[string]*interest{},
	}
	w.progress.Started = w.started
	g.works[key] = w
	g.running.Go(func() { g.run(ctx, w, fn, before) })
	return w
}

func (g *Group[V]) run(ctx context.Context, w *work[V], fn Func[V], before *work[V]) {
	defer w.cancel(nil)
	if before != nil {
		<-before.done // it is cancelled: two works of one key never overlap
	}
	ctx, stop := context.WithTimeoutCause(ctx, g.cfg.Limit, nixstore.Fail(nixstore.ErrBuild,
		"realise it elsewhere and let this node substitute it", "gave up after %s", g.cfg.Limit))
	defer stop()
	var value V
	err := errors.New("internal error: the work ended without a result")
	// Deferred, because fn may panic or end its goroutine: a work lands whatever
	// happens, or all its holders would wait for ever.
	defer func() {
		if r := recover(); r != nil {
			g.cfg.Log.Error("shared work panicked", slog.String("panic", fmt.Sprint(r)), slog.String("stack", string(debug.Stack())))
			err = errors.New("internal error: the work panicked; the agent's log says where")
		}
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx) // why we ended it says more than how it took that
		}
		g.land(w, value, err)
	}()
	value, err = fn(ctx, func(p nixstore.Progress) { g.report(w, p) })
}

func (g *Group[V]) report(w *work[V], p nixstore.Progress) {
	p.Started = w.started
	g.mu.Lock()
	defer g.mu.Unlock()
	w.progress = p
}

func (g *Group[V]) land(w *work[V], value V, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	w.grace.stopLocked()
	for _, in := range w.holders {
		in.lapse.stopLocked()
	}
	clear(w.holders)
	if g.works[w.key] == w {
		delete(g.works, w.key)
	}
	g.failures.note(w.key, err, time.Now())
	w.value, w.err = value, err
	close(w.done)
}

// awaitReturnLocked lets the interest of holder end if no call of it waits for
// a while.
func (g *Group[V]) awaitReturnLocked(w *work[V], holder string, in *interest) {
	in.lapse.setLocked(&g.mu, g.cfg.Lapse, func() { g.leaveLocked(w, holder) })
}

func (g *Group[V]) leaveLocked(w *work[V], holder string) {
	in := w.holders[holder]
	if in == nil {
		return
	}
	in.lapse.stopLocked()
	delete(w.holders, holder)
	if len(w.holders) > 0 {
		return
	}
	abandoned := nixstore.Fail(nixstore.ErrUnavailable, "ask again", "cancelled because nobody needed it any more")
	if g.cfg.Grace < 0 {
		g.cancelLocked(w, abandoned)
		return
	}
	w.grace.setLocked(&g.mu, g.cfg.Grace, func() { g.cancelLocked(w, abandoned) })
}

func (g *Group[V]) cancelLocked(w *work[V], cause error) {
	w.doomed = true
	w.grace.stopLocked()
	for _, in := range w.holders {
		in.lapse.stopLocked()
	}
	w.cancel(cause)
}

// enter and exit bracket a call that waits. The holder may have left, and even
// come again, meanwhile; then the call waits on, but does not count.
func (g *Group[V]) enter(f *Flight[V]) *interest {
	g.mu.Lock()
	defer g.mu.Unlock()
	in := f.work.holders[f.holder]
	if in != nil {
		in.waiting++
		in.lapse.stopLocked()
	}
	return in
}

func (g *Group[V]) exit(f *Flight[V], in *interest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if in == nil || f.work.holders[f.holder] != in {
		return
	}
	in.waiting--
	if in.waiting == 0 && !f.work.doomed {
		g.awaitReturnLocked(f.work, f.holder, in)
	}
}

// landed gives a work that is over.
func landed[V any](key string, err error) *work[V] {
	w := &work[V]{key: key, started: time.Now(), err: err, done: make(chan struct{})}
	close(w.done)
	return w
}

func stopping() error {
	return nixstore.Fail(nixstore.ErrUnavailable, "ask again when it runs again", "the agent is stopping")
}
