// Package health remembers the last answer of a check that is too slow to be
// made for each probe.
//
// It judges nothing and keeps no history. Run asks in one goroutine, Err may be
// called concurrently and never blocks. Nothing remains after a crash.
package health

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/closured/closured/internal/logkey"
)

// settle is how long Run waits before it asks for the first time: what is being
// started with it gets a moment, so that each start does not log a trouble.
const settle = 200 * time.Millisecond

// Monitor asks a check again and again. Make it with New.
type Monitor struct {
	check func(context.Context) error
	every time.Duration
	log   *slog.Logger
	last  atomic.Pointer[answer]
}

type answer struct{ err error }

// New makes a monitor of check, which bounds itself in time and is asked every
// so often. Until it has answered once, Err gives first. A nil log is silent.
func New(check func(context.Context) error, every time.Duration, first error, log *slog.Logger) *Monitor {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	m := &Monitor{check: check, every: every, log: log}
	m.last.Store(&answer{err: first})
	return m
}

// Err gives the last answer.
func (m *Monitor) Err() error { return m.last.Load().err }

// Run asks until ctx ends, and gives nil then. A change is logged.
func (m *Monitor) Run(ctx context.Context) error {
	for wait := settle; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		err := m.check(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // a check that ctx has ended tells nothing
		}
		m.remember(err)
		wait = m.every
		if err != nil {
			wait = min(m.every, time.Second) // trouble often ends soon, and pods wait for the end
		}
	}
}

func (m *Monitor) remember(err error) {
	before := m.last.Swap(&answer{err: err}).err
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		m.log.Error("not ready", slog.String(logkey.Problem, err.Error()))
	case err == nil && before != nil:
		m.log.Info("ready")
	}
}
