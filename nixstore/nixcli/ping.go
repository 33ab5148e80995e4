package nixcli

import (
	"context"
	"time"

	"github.com/closured/closured/nixstore/nixdaemon"
)

// readyRetry is how long ready waits between two tries.
const readyRetry = 200 * time.Millisecond

// Healthy tells whether the daemon answers: it makes a connection, waits until
// the daemon has opened its store, and goes. A daemon that is stopped or hangs
// is found within five seconds. The error is ErrUnavailable.
func (s *Store) Healthy(ctx context.Context) error {
	_, err := nixdaemon.Greet(ctx, s.cfg.socket())
	return err
}

// ready waits until the daemon answers, for nixdaemon.Timeout at most: it may
// just be starting again.
func (s *Store) ready(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, nixdaemon.Timeout)
	defer cancel()
	for {
		err := s.Healthy(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !sleep(limited, readyRetry) {
			return err
		}
	}
}
