package view

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
)

// viewKey tells views apart. The registration is part of it: once a closure was
// collected, nobody gets a view that was made from its files.
type viewKey struct {
	root         nixstore.StorePath
	registration int64
	kind         Kind // KindRedirect or KindHardLink
}

// view is one closure, shown at a place that volumes are cloned from.
type view struct {
	key   viewKey
	ready chan struct{} // closed when the fields below are set

	// Set before ready is closed, and never changed after.
	err    error
	dir    string // its folder on the private tmpfs
	meta   string // upper lower layer, for the overlays of writable volumes
	source int    // O_PATH: what volumes are cloned from, on an attached mount with a volume's flags
	links  string // hard link views: the tree below linkviews
	// narSize is the size of the closure in bytes; 0 for views of an earlier life.
	narSize int64

	// Guarded by Manager.mu.
	refs      int
	idleSince time.Time // when refs became 0
}

// hold says that a target uses a view.
type hold struct {
	view *view
	id   string // volume id; empty for volumes of an earlier life
}

func (v *view) isReady() bool {
	select {
	case <-v.ready:
		return v.err == nil
	default:
		return false
	}
}

// acquire gives the view of a closure on behalf of a target, making it when there
// is none. Of concurrent callers one makes it and the others wait. A failure goes
// to all that waited, and is not remembered; only when the maker's own caller has
// given up, one of the others tries again.
func (m *Manager) acquire(ctx context.Context, key viewKey, target string, id string) (*view, error) {
	for {
		v, mine, err := m.join(key, target, id)
		if err != nil {
			return nil, err
		}
		if mine {
			return v, m.make(ctx, v, target, id)
		}
		if v.isReady() {
			return v, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-v.ready:
		}
		if v.err != nil && (!gaveUp(v.err) || ctx.Err() != nil) {
			return nil, v.err
		}
	}
}

func gaveUp(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// join gives the view that exists, held for the target when it is ready, or a new
// one that the caller must make.
func (m *Manager) join(key viewKey, target, id string) (v *view, mine bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v = m.shown[key]
	switch {
	case v == nil:
		v = &view{key: key, ready: make(chan struct{}), source: -1}
		m.shown[key] = v
		return v, true, nil
	case v.isReady():
		m.holdLocked(v, target, id)
	}
	return v, false, nil
}

// make makes the view and tells those who wait.
func (m *Manager) make(ctx context.Context, v *view, target, id string) error {
	start := time.Now()
	v.err = m.build(ctx, v)
	m.mu.Lock()
	if v.err != nil {
		delete(m.shown, v.key)
	} else {
		m.holdLocked(v, target, id)
	}
	close(v.ready)
	m.mu.Unlock()
	if v.err == nil {
		m.log.Info("view made", slog.String("root", v.key.root.String()),
			slog.String("kind", string(v.key.kind)), slog.Float64(logkey.DurationSeconds, time.Since(start).Seconds()))
	}
	return v.err
}

func (m *Manager) holdLocked(v *view, target, id string) {
	if old, ok := m.holds[target]; ok {
		m.unholdLocked(target, old)
	}
	m.holds[target] = hold{view: v, id: id}
	v.refs++
}

func (m *Manager) unholdLocked(target string, h hold) {
	delete(m.holds, target)
	h.view.refs--
	if h.view.refs == 0 {
		h.view.idleSince = time.Now()
	}
}

// release gives up what the target holds. The view stays for IdleTime.
func (m *Manager) release(target string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h, ok := m.holds[target]; ok {
		m.unholdLocked(target, h)
	}
}

// releaseVolume gives up all that a volume holds, wherever.
func (m *Manager) releaseVolume(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for target, h := range m.holds {
		if h.id == id {
			m.unholdLocked(target, h)
		}
	}
}

// dropIdle takes down the views that nobody has used for IdleTime.
func (m *Manager) dropIdle(now time.Time) {
	for _, v := range m.takeIdle(now) {
		if err := m.takeDown(v); err != nil {
			m.log.Error("cannot take down an idle view",
				slog.String("root", v.key.root.String()), slog.String("error", err.Error()))
		}
	}
}

// takeIdle gives the views to take down, and forgets them: whoever needs one from
// now on makes a new one.
func (m *Manager) takeIdle(now time.Time) []*view {
	m.mu.Lock()
	defer m.mu.Unlock()
	var idle []*view
	for key, v := range m.shown {
		if v.isReady() && v.refs == 0 && now.Sub(v.idleSince) >= m.cfg.IdleTime {
			delete(m.shown, key)
			idle = append(idle, v)
		}
	}
	return idle
}

// enter takes the target's lock for a call. release must be called.
func (m *Manager) enter(t *Target) (leave func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.targets[t.real]; taken {
		return nil, nixstore.Fail(nixstore.ErrBusy, "try again", "another call works on %s", nixstore.Quote(t.path))
	}
	m.targets[t.real] = struct{}{}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.targets, t.real)
	}, nil
}
