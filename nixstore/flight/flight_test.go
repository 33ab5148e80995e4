package flight_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/flight"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type report = func(nixstore.Progress)

func newGroup(t *testing.T, cfg flight.Config) *flight.Group[string] {
	t.Helper()
	g, err := flight.New[string](cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

// worker counts its calls, takes so long and then gives err, unless its context
// ends first.
type worker struct {
	takes  time.Duration
	err    error
	starts atomic.Int32
	ended  atomic.Int32 // by the context
	inside atomic.Int32
}

func (w *worker) work(ctx context.Context, report report) (string, error) {
	w.starts.Add(1)
	w.inside.Add(1)
	defer w.inside.Add(-1)
	report(nixstore.Progress{Phase: "building"})
	select {
	case <-time.After(w.takes):
		return "done", w.err
	case <-ctx.Done():
		w.ended.Add(1)
		return "", ctx.Err()
	}
}

// waitFor joins and waits at most d.
func waitFor(t *testing.T, g *flight.Group[string], d time.Duration, holder string, w *worker) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return g.Join(ctx, "key", holder, w.work).Wait(ctx)
}

func wantKind(t *testing.T, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("the error is %v, want the kind %q", err, kind)
	}
}

func wantStarts(t *testing.T, w *worker, want int32) {
	t.Helper()
	if got := w.starts.Load(); got != want {
		t.Errorf("the work was started %d times, want %d", got, want)
	}
}

func TestFault01WorkOutlivesTheCallAndIsJoined(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, flight.Config{})
		w := &worker{takes: 150 * time.Second}
		_, first := waitFor(t, g, 115*time.Second, "a", w)
		_, second := waitFor(t, g, time.Second, "a", w)
		wantKind(t, first, nixstore.ErrBusy)
		if first.Error() != second.Error() {
			t.Errorf("the texts %q and %q differ", first, second)
		}
		got, err := waitFor(t, g, 115*time.Second, "a", w)
		if got != "done" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		wantStarts(t, w, 1)
	})
}

func TestFault02HundredsShareOneWork(t *testing.T) {
	t.Parallel()
	g := newGroup(t, flight.Config{})
	var starts atomic.Int32
	gate := make(chan struct{})
	var all, joined sync.WaitGroup
	for n := range 500 {
		joined.Add(1)
		all.Go(func() {
			f := g.Join(t.Context(), "key", fmt.Sprint(n), func(context.Context, report) (string, error) {
				<-gate
				return fmt.Sprint(starts.Add(1)), nil
			})
			joined.Done()
			if got, err := f.Wait(t.Context()); got != "1" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	joined.Wait()
	close(gate)
	all.Wait()
}

func TestFault03TheLastToLeaveEndsTheWorkAfterTheGrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, flight.Config{})
		w := &worker{takes: time.Hour}
		_, _ = waitFor(t, g, time.Second, "a", w)
		_, _ = waitFor(t, g, time.Second, "b", w)
		g.Leave("a")
		g.Leave("nobody")
		time.Sleep(5 * time.Minute)
		if w.ended.Load() != 0 {
			t.Error("it ended while b wanted it")
		}
		g.Leave("b")
		g.Leave("b")
		time.Sleep(29 * time.Second)
		if w.ended.Load() != 0 {
			t.Error("it ended within the grace")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if w.ended.Load() != 1 || len(g.Running()) != 0 {
			t.Errorf("after the grace it runs on: %+v", g.Running())
		}
	})
}

func TestAJoinWithinTheGraceRescuesTheWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, flight.Config{})
		w := &worker{takes: 10 * time.Minute}
		_, _ = waitFor(t, g, time.Second, "a", w)
		g.Leave("a")
		time.Sleep(29 * time.Second)
		_, err := waitFor(t, g, 2*time.Minute, "b", w)
		wantKind(t, err, nixstore.ErrBusy)
		if got, err := waitFor(t, g, time.Hour, "b", w); got != "done" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		wantStarts(t, w, 1)
	})
}

func TestANegativeGraceEndsTheWorkAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, flight.Config{Grace: -1})
		w := &worker{takes: time.Hour}
		_, _ = waitFor(t, g, time.Second, "a", w)
		g.Leave("a")
		synctest.Wait()
		if w.ended.Load() != 1 {
			t.Error("it runs on")
		}
	})
}

func TestACancelledWorkIsNotJoinedAndDoesNotOverlap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, flight.Config{Grace: -1})
		var inside, overlaps atomic.Int32
		slowToEnd := func(ctx context.Context, _ report) (string, error) {
			if inside.Add(1) > 1 {
				overlaps.Add(1)
			}
			defer inside.Add(-1)
			<-ctx.Done()
			time.Sleep(time.Minute) // killing builders takes time
			return "", ctx.Err()
		}
		f := g.Join(t.Context(), "key", "a", slowToEnd)
		synctest.Wait()
		g.Leave("a")
		second := g.Join(t.Context(), "key", "b", func(context.Context, report) (string, error) {
			if inside.Load() != 0 {
				overlaps.Add(1)
			}
			return "second", nil
		})
		if got, err := second.Wait(t.Context()); got != "second" || err != nil {
			t.Errorf("the second got %q, %v", got, err)
		}
		_, err := f.Wait(t.Context())
		wantKind(t, err, nixstore.ErrUnavailable)
		if overlaps.Load() != 0 {
			t.Error("two works of one key ran at the same time")
		}
	})
}

func TestAnInterestLapses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, flight.Config{})
		w := &worker{takes: time.Hour}
		for range 10 { // one who comes back is not forgotten
			_, err := waitFor(t, g, time.Second, "a", w)
			wantKind(t, err, nixstore.ErrBusy)
			time.Sleep(2*time.Minute + 2*time.Second) // kubelet's longest pause
		}
		time.Sleep(7 * time.Minute)
		if w.ended.Load() != 0 {
			t.Error("it ended too early")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if w.ended.Load() != 1 {
			t.Error("nobody came for more than ten minutes and a grace, and it runs on")
		}
		wantStarts(t, w, 1)
	})
}

func TestAWaitingCallDoesNotLapse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, flight.Config{})
		w := &worker{takes: 90 * time.Minute}
		if got, err := waitFor(t, g, 2*time.Hour, "a", w); got != "done" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// A call that a Leave overtook must not count against one that came after.
func TestAnOvertakenCallDoesNotEndAnothersInterest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, flight.Config{})
		w := &worker{takes: 90 * time.Minute}
		var all sync.WaitGroup
		all.Go(func() { _, _ = waitFor(t, g, time.Minute, "a", w) })
		synctest.Wait()
		g.Leave("a")
		all.Go(func() {
			if got, err := waitFor(t, g, 2*time.Hour, "a", w); got != "done" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
		all.Wait()
		wantStarts(t, w, 1)
	})
}

func TestTheLimitEndsWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, flight.Config{Limit: time.Minute})
		w := &worker{takes: time.Hour}
		_, err := waitFor(t, g, time.Hour, "a", w)
		wantKind(t, err, nixstore.ErrBuild)
		if err == nil || !strings.Contains(err.Error(), "gave up after 1m0s") {
			t.Errorf("the text is %v", err)
		}
	})
}

func TestWorkKeepsTheValuesOfItsCallerButNotItsEnd(t *testing.T) {
	t.Parallel()
	type key struct{}
	g := newGroup(t, flight.Config{})
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
	cancel()
	f := g.Join(ctx, "key", "a", func(ctx context.Context, _ report) (string, error) {
		value, _ := ctx.Value(key{}).(string)
		return value, ctx.Err()
	})
	if got, err := f.Wait(t.Context()); got != "value" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := f.Wait(ctx); got != "value" || err != nil {
		t.Errorf("a finished flight gives %q, %v to a caller whose context has ended", got, err)
	}
}

func TestAPanicIsAnError(t *testing.T) {
	t.Parallel()
	g := newGroup(t, flight.Config{})
	for name, fn := range map[string]flight.Func[string]{
		"a panic": func(context.Context, report) (string, error) { panic("secret words") },
		"an exit": func(context.Context, report) (string, error) { runtime.Goexit(); return "", nil },
	} {
		_, err := g.Join(t.Context(), name, "a", fn).Wait(t.Context())
		if err == nil || !strings.Contains(err.Error(), "internal error") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s gives %v", name, err)
		}
	}
	if n := len(g.Running()); n != 0 {
		t.Errorf("%d works still run", n)
	}
}

func TestCloseEndsAllAndRefusesMore(t *testing.T) {
	t.Parallel()
	g := newGroup(t, flight.Config{})
	w := &worker{takes: time.Hour}
	f := g.Join(t.Context(), "key", "a", w.work)
	g.Close()
	_, err := f.Wait(t.Context())
	wantKind(t, err, nixstore.ErrUnavailable)
	_, err = g.Join(t.Context(), "other", "a", w.work).Wait(t.Context())
	wantKind(t, err, nixstore.ErrUnavailable)
	g.Close()
}

func TestRunningTellsTheOldestFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, flight.Config{})
		w := &worker{takes: time.Hour}
		started := time.Now()
		f := g.Join(t.Context(), "z", "holder-2", w.work)
		time.Sleep(time.Second)
		g.Join(t.Context(), "y", "holder-1", w.work)
		g.Join(t.Context(), "z", "holder-1", w.work)
		synctest.Wait()
		running := g.Running()
		if len(running) != 2 || running[0].Key != "z" || running[1].Key != "y" {
			t.Fatalf("running: %+v", running)
		}
		z := running[0]
		if fmt.Sprint(z.Holders) != "[holder-1 holder-2]" || !z.Started.Equal(started) ||
			z.Progress.Phase != "building" || !z.Progress.Started.Equal(started) {
			t.Errorf("z is %+v", z)
		}
		if f.Progress() != z.Progress {
			t.Errorf("the flight says %+v", f.Progress())
		}
	})
}

func TestNewRefusesNegativeTimes(t *testing.T) {
	t.Parallel()
	_, err := flight.New[string](flight.Config{Limit: -1, Lapse: -1, BackoffFirst: -1, BackoffMax: -1, Remembered: -1})
	for _, want := range []string{"Limit", "Lapse", "BackoffFirst", "BackoffMax", "Remembered"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error %v lacks %s", err, want)
		}
	}
}

// TestRandomJoinsAndLeaves is for the race detector, and for works that hang.
func TestRandomJoinsAndLeaves(t *testing.T) {
	t.Parallel()
	g := newGroup(t, flight.Config{Grace: time.Millisecond, Lapse: 2 * time.Millisecond})
	var all sync.WaitGroup
	for n := range 300 {
		all.Go(func() {
			w := &worker{takes: time.Duration(n%5) * time.Millisecond}
			holder, key := fmt.Sprint(n%17), fmt.Sprint(n%7)
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n%4)*time.Millisecond)
			defer cancel()
			_, err := g.Join(ctx, key, holder, w.work).Wait(ctx)
			if err != nil && !errors.Is(err, nixstore.ErrBusy) && !errors.Is(err, nixstore.ErrUnavailable) {
				t.Errorf("holder %s: %v", holder, err)
			}
			g.Running()
			g.Leave(holder)
		})
	}
	all.Wait()
	for deadline := time.Now().Add(time.Minute); len(g.Running()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("everybody left, and it runs on: %+v", g.Running())
		}
	}
}

func ExampleGroup() {
	g, err := flight.New[int](flight.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer g.Close()
	ctx := context.Background()
	answer := func(context.Context, func(nixstore.Progress)) (int, error) { return 42, nil }
	fmt.Println(g.Join(ctx, "question", "me", answer).Wait(ctx))
	// Output: 42 <nil>
}
