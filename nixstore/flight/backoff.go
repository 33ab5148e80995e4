package flight

import (
	"errors"
	"time"

	"github.com/closured/closured/nixstore"
)

// failure is the last failure of one key.
type failure struct {
	err   error
	until time.Time     // joins before it get err
	pause time.Duration // how long that was, for doubling
}

// backoff remembers failures. The group's mutex guards it.
type backoff struct {
	first, max time.Duration
	bound      int
	failures   map[string]failure
}

// repeats tells whether trying again soon would most likely fail the same way.
// What a full disk, a dead daemon or an ended context stopped may go better at once.
func repeats(err error) bool {
	for _, kind := range []error{
		nixstore.ErrEvaluation, nixstore.ErrBuild, nixstore.ErrUntrusted, nixstore.ErrCorrupt,
		nixstore.ErrNotFound, nixstore.ErrForbidden, nixstore.ErrInvalid,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// recall gives the failure that a join of key gets now, or nil.
func (b *backoff) recall(key string, now time.Time) error {
	if f, ok := b.failures[key]; ok && now.Before(f.until) {
		return f.err
	}
	return nil
}

// note takes the outcome of key's work. Only a success resets the doubling (or
// a long time with no try): an interruption says nothing about the failure.
func (b *backoff) note(key string, err error, now time.Time) {
	if err == nil {
		delete(b.failures, key)
		return
	}
	if !repeats(err) {
		return
	}
	pause := b.first
	if old, ok := b.failures[key]; ok && now.Before(old.until.Add(b.max)) {
		pause = min(2*old.pause, b.max)
	} else if !ok {
		b.makeRoom()
	}
	b.failures[key] = failure{err: err, until: now.Add(pause), pause: pause}
}

// makeRoom forgets the failure that ends first when there are too many.
func (b *backoff) makeRoom() {
	if len(b.failures) < b.bound {
		return
	}
	var oldest string
	for key, f := range b.failures {
		if oldest == "" || f.until.Before(b.failures[oldest].until) {
			oldest = key
		}
	}
	delete(b.failures, oldest)
}
