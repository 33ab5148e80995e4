package registry

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/closured/closured/nixstore"
)

// limits bound concurrent work. What exceeds a queue is refused at once: a client
// that asks again costs less than one that waits.
type limits struct {
	cold       *semaphore.Weighted // images that are made
	streams    *semaphore.Weighted // blobs that are streamed
	waiting    atomic.Int64        // requests that wait for either
	waitingMax int64
}

func newLimits(l Limits) *limits {
	return &limits{
		cold: semaphore.NewWeighted(int64(l.Cold)), streams: semaphore.NewWeighted(int64(l.Streams)),
		waitingMax: int64(l.Waiting),
	}
}

// wait admits one more request that waits, until leave is called.
func (l *limits) wait() (leave func(), err error) {
	if l.waiting.Add(1) > l.waitingMax {
		l.waiting.Add(-1)
		return nil, tooMany("requests are waiting")
	}
	return func() { l.waiting.Add(-1) }, nil
}

// stream admits one more stream; it waits for one to end as long as ctx does.
func (l *limits) stream(ctx context.Context) (done func(), err error) {
	if !l.streams.TryAcquire(1) {
		leave, err := l.wait()
		if err != nil {
			return nil, err
		}
		defer leave()
		if l.streams.Acquire(ctx, 1) != nil {
			return nil, tooMany("blobs are being read")
		}
	}
	return func() { l.streams.Release(1) }, nil
}

func tooMany(what string) error {
	return nixstore.Fail(nixstore.ErrBusy, "ask again a little later", "too many %s on this node at this moment", what)
}
