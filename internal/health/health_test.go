package health_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/closured/closured/internal/health"
)

var errDown = errors.New("down")

func TestTheLastAnswerIsRemembered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		starting := errors.New("starting")
		m := health.New(func(context.Context) error {
			if down.Load() {
				return errDown
			}
			return nil
		}, 10*time.Second, starting, nil)
		if !errors.Is(m.Err(), starting) {
			t.Fatalf("before the first check: %v", m.Err())
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		time.Sleep(time.Second)
		if m.Err() != nil {
			t.Fatalf("after a good check: %v", m.Err())
		}
		down.Store(true)
		time.Sleep(11 * time.Second)
		if !errors.Is(m.Err(), errDown) {
			t.Fatalf("after a bad check: %v", m.Err())
		}
		down.Store(false)
		time.Sleep(2 * time.Second) // trouble is asked about more often
		if m.Err() != nil {
			t.Fatalf("after the trouble: %v", m.Err())
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}
