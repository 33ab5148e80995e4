package flight

import (
	"context"
	"sync"
	"time"

	"github.com/closured/closured/nixstore"
)

// work is one running call of a Func. The group's mutex guards what says so.
type work[V any] struct {
	key     string
	started time.Time
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed when value and err are there
	value   V
	err     error

	holders  map[string]*interest // guarded
	grace    alarm                // guarded; set while nobody holds it
	doomed   bool                 // guarded: cancelled, not to be joined
	progress nixstore.Progress    // guarded
}

// interest is what one holder has in one work; guarded by the group's mutex.
type interest struct {
	waiting int   // calls that wait now
	lapse   alarm // set while none waits
}

// alarm is a timer that can be called off for certain: time.Timer.Stop alone
// may come too late for a function that already waits for the mutex. mu guards it.
type alarm struct {
	timer *time.Timer
	turn  uint64 // changes whenever the alarm is set or called off
}

// setLocked lets f run with mu held after d, unless the alarm is set again or
// called off before.
func (a *alarm) setLocked(mu sync.Locker, d time.Duration, f func()) {
	a.stopLocked()
	turn := a.turn
	a.timer = time.AfterFunc(d, func() {
		mu.Lock()
		defer mu.Unlock()
		if a.turn == turn {
			f()
		}
	})
}

func (a *alarm) stopLocked() {
	a.turn++
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
}

// Flight is one holder's share in a work.
type Flight[V any] struct {
	group  *Group[V]
	work   *work[V]
	holder string
}

// Wait waits until the work is done and gives its result. When ctx ends first,
// the caller leaves and the work goes on: the error is ErrBusy, with a text that
// is always the same.
func (f *Flight[V]) Wait(ctx context.Context) (V, error) {
	select {
	case <-f.work.done: // also when ctx has ended: the result is there
		return f.work.value, f.work.err
	default:
	}
	in := f.group.enter(f)
	defer f.group.exit(f, in)
	select {
	case <-f.work.done:
		return f.work.value, f.work.err
	case <-ctx.Done():
		var none V
		return none, nixstore.Fail(nixstore.ErrBusy, "ask again to join it", "the work goes on")
	}
}

// Progress gives what the work reported last.
func (f *Flight[V]) Progress() nixstore.Progress {
	f.group.mu.Lock()
	defer f.group.mu.Unlock()
	return f.work.progress
}
