package flight

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Config sets the times of a group. Zero values take the defaults.
type Config struct {
	// Grace is how long work goes on when its last holder left. Default 30 s;
	// negative: it ends at once.
	Grace time.Duration
	// Limit ends work that runs longer. Default 2 h.
	Limit time.Duration
	// Lapse is how long a holder may stay away, with no call that waits, before it
	// counts as gone. It must exceed the longest pause between a caller's retries
	// (kubelet: 2 min 2 s). Default 10 min.
	Lapse time.Duration
	// BackoffFirst and BackoffMax bound how long a failure is remembered: the first
	// time, and after doubling. Defaults 10 s and 5 min.
	BackoffFirst, BackoffMax time.Duration
	// Remembered bounds the number of failures remembered. Default 1024.
	Remembered int
	// Log gets panics of work. nil: discarded.
	Log *slog.Logger
}

// withDefaults fills in the defaults and gives every problem of the rest.
func (c Config) withDefaults() (Config, error) {
	problems := []error{
		defaultDuration(&c.Limit, "Limit", 2*time.Hour),
		defaultDuration(&c.Lapse, "Lapse", 10*time.Minute),
		defaultDuration(&c.BackoffFirst, "BackoffFirst", 10*time.Second),
		defaultDuration(&c.BackoffMax, "BackoffMax", 5*time.Minute),
	}
	if c.Grace == 0 {
		c.Grace = 30 * time.Second
	}
	if c.Remembered == 0 {
		c.Remembered = 1024
	}
	if c.Remembered < 0 {
		problems = append(problems, fmt.Errorf("a negative Remembered: %d", c.Remembered))
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(problems...)
}

func defaultDuration(d *time.Duration, name string, value time.Duration) error {
	if *d < 0 {
		return fmt.Errorf("a negative %s: %s", name, *d)
	}
	if *d == 0 {
		*d = value
	}
	return nil
}
