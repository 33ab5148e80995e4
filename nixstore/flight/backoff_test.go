package flight_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/flight"
)

// tries counts how often work that fails with err starts within d, when it is
// asked for each second.
func tries(t *testing.T, g *flight.Group[string], d time.Duration, err error) int32 {
	t.Helper()
	w := &worker{err: err}
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
		_, got := waitFor(t, g, time.Hour, "a", w)
		wantKind(t, got, err)
	}
	return w.starts.Load()
}

func TestFailuresThatRepeatAreRememberedForAGrowingTime(t *testing.T) {
	t.Parallel()
	for _, kind := range []error{
		nixstore.ErrEvaluation, nixstore.ErrBuild, nixstore.ErrUntrusted, nixstore.ErrCorrupt,
		nixstore.ErrNotFound, nixstore.ErrForbidden, nixstore.ErrInvalid,
	} {
		t.Run(kind.Error(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t, flight.Config{})
				// At 0, 10, 30, 70, 150, 310, 610, 910 … s: five minutes are the most.
				if n := tries(t, g, 1000*time.Second, kind); n != 8 {
					t.Errorf("%d tries in 1000 s, want 8", n)
				}
			})
		})
	}
}

func TestOtherFailuresAreNotRemembered(t *testing.T) {
	t.Parallel()
	for _, kind := range []error{
		nixstore.ErrUnavailable, nixstore.ErrNoSpace, nixstore.ErrBusy, nixstore.ErrConflict,
		context.Canceled, errors.New("something else"),
	} {
		t.Run(kind.Error(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t, flight.Config{})
				if n := tries(t, g, 20*time.Second, kind); n != 20 {
					t.Errorf("%d tries of 20", n)
				}
			})
		})
	}
}

func TestARememberedFailureIsTheSameError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, flight.Config{})
		failure := nixstore.Fail(nixstore.ErrBuild, "read the log", "it fails")
		w := &worker{err: failure}
		for range 2 {
			var got *nixstore.Failure
			if _, err := waitFor(t, g, time.Hour, "a", w); !errors.As(err, &got) || got != failure {
				t.Errorf("the error is %v", err)
			}
		}
		wantStarts(t, w, 1)
	})
}

func TestASuccessResetsTheBackoff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, flight.Config{})
		for range 3 {
			if n := tries(t, g, 11*time.Second, nixstore.ErrBuild); n != 2 {
				t.Errorf("%d tries in 11 s, want 2", n)
			}
			time.Sleep(time.Minute)
			if _, err := waitFor(t, g, time.Hour, "a", &worker{}); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestAnInterruptionDoesNotResetTheBackoff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, flight.Config{})
		_ = tries(t, g, time.Second, nixstore.ErrBuild)
		time.Sleep(10 * time.Second)
		_ = tries(t, g, time.Second, nixstore.ErrUnavailable)
		// The next failure is the second: it is remembered for 20 s.
		if n := tries(t, g, 20*time.Second, nixstore.ErrBuild); n != 1 {
			t.Errorf("%d tries in 20 s, want 1", n)
		}
	})
}

func TestALongRestResetsTheBackoff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, flight.Config{})
		_ = tries(t, g, 100*time.Second, nixstore.ErrBuild)
		time.Sleep(time.Hour)
		if n := tries(t, g, 11*time.Second, nixstore.ErrBuild); n != 2 {
			t.Errorf("%d tries in 11 s, want 2", n)
		}
	})
}

func TestTheNumberOfRememberedFailuresIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, flight.Config{Remembered: 3})
		w := &worker{err: nixstore.ErrBuild}
		ask := func(n int) {
			_, err := g.Join(t.Context(), fmt.Sprint(n), "a", w.work).Wait(t.Context())
			wantKind(t, err, nixstore.ErrBuild)
			time.Sleep(time.Millisecond)
		}
		for n := range 5 {
			ask(n)
		}
		for _, n := range []int{2, 3, 4} { // remembered
			ask(n)
		}
		wantStarts(t, w, 5)
		ask(0) // forgotten
		wantStarts(t, w, 6)
	})
}
