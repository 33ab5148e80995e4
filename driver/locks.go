package driver

import (
	"context"
	"errors"
	"sync"

	"github.com/closured/closured/nixstore"
)

// errUnpublished is the cause with which an unpublish ends a publish of its volume.
var errUnpublished = errors.New("the volume is being unpublished")

// locks holds volumes and targets for one call at a time. A publish never waits
// for one; an unpublish does, and is not overtaken by new publishes.
type locks struct {
	mu      sync.Mutex       // guards what follows
	held    map[string]*hold // by key; a call holds the key of its volume and that of its target
	waiting map[string]int   // unpublishes that wait for a key
}

// hold is one call's possession of two keys.
type hold struct {
	volume string
	cancel context.CancelCauseFunc // ends the call; nil when it cannot be hurried
	done   chan struct{}           // closed when the keys are free again
}

func newLocks() *locks {
	return &locks{held: map[string]*hold{}, waiting: map[string]int{}}
}

func lockKeys(volume, target string) [2]string {
	return [2]string{"volume " + volume, "target " + target}
}

// try takes volume and target for a publish, or gives ErrBusy at once. cancel is
// called when the volume is unpublished meanwhile.
func (l *locks) try(volume, target string, cancel context.CancelCauseFunc) (release func(), err error) {
	keys := lockKeys(volume, target)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		if l.held[key] != nil || l.waiting[key] > 0 {
			return nil, nixstore.Fail(nixstore.ErrBusy, "nothing, the call is repeated",
				"another call for volume %s or its target is still in progress", volume)
		}
	}
	return l.takeLocked(keys, &hold{volume: volume, cancel: cancel, done: make(chan struct{})}), nil
}

// wait takes volume and target for an unpublish. It ends publishes of the same
// volume, and waits for other calls until ctx ends, which is ErrBusy.
func (l *locks) wait(ctx context.Context, volume, target string) (release func(), err error) {
	keys := lockKeys(volume, target)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		l.waiting[key]++
	}
	defer l.leaveLocked(keys)
	for {
		other := l.holderLocked(keys)
		if other == nil {
			return l.takeLocked(keys, &hold{volume: volume, done: make(chan struct{})}), nil
		}
		if other.volume == volume && other.cancel != nil {
			other.cancel(errUnpublished)
		}
		if err := l.sleepLocked(ctx, other); err != nil {
			return nil, nixstore.Fail(nixstore.ErrBusy, "nothing, the call is repeated",
				"volume %s cannot be unpublished while another call for it or its target is in progress", volume)
		}
	}
}

// sleepLocked gives the mutex away until other is done or ctx ends.
func (l *locks) sleepLocked(ctx context.Context, other *hold) error {
	l.mu.Unlock()
	defer l.mu.Lock()
	select {
	case <-other.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *locks) holderLocked(keys [2]string) *hold {
	for _, key := range keys {
		if h := l.held[key]; h != nil {
			return h
		}
	}
	return nil
}

func (l *locks) takeLocked(keys [2]string, h *hold) (release func()) {
	for _, key := range keys {
		l.held[key] = h
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, key := range keys {
			delete(l.held, key)
		}
		close(h.done)
	}
}

func (l *locks) leaveLocked(keys [2]string) {
	for _, key := range keys {
		if l.waiting[key]--; l.waiting[key] == 0 {
			delete(l.waiting, key)
		}
	}
}

// interest remembers for which holder an unfinished publish of a volume asked:
// while its closure is being realised there is no pin that would tell.
type interest struct {
	mu       sync.Mutex // guards byVolume
	byVolume map[string]nixstore.Holder
}

func newInterest() *interest { return &interest{byVolume: map[string]nixstore.Holder{}} }

func (i *interest) set(volume string, h nixstore.Holder) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.byVolume[volume] = h
}

func (i *interest) get(volume string) (nixstore.Holder, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	h, ok := i.byVolume[volume]
	return h, ok
}

// drop forgets h, but not another holder that took its place.
func (i *interest) drop(volume string, h nixstore.Holder) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.byVolume[volume] == h {
		delete(i.byVolume, volume)
	}
}
