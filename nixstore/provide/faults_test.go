package provide_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/provide"
	"github.com/closured/closured/nixstore/storetest"
)

// errInjected has no kind: the driver would call it internal, which is final.
var errInjected = errors.New("injected")

// TestFault04AFailingStepLeavesNothing lets each step of a cold request fail once
// each time it occurs, with a final error and with one that is not.
func TestFault04AFailingStepLeavesNothing(t *testing.T) {
	t.Parallel()
	kinds := []error{errInjected, nixstore.ErrNoSpace, nixstore.ErrUnavailable, nixstore.ErrCorrupt}
	for _, op := range []string{"hold", "held", "registration", "realise", "substitute", "build", "merge"} {
		for _, kind := range kinds {
			t.Run(fmt.Sprintf("%s: %v", op, kind), func(t *testing.T) {
				t.Parallel()
				for at := 1; failOnce(t, op, at, kind); at++ {
					if at > 50 {
						t.Fatal("it never ends")
					}
				}
			})
		}
	}
}

// failOnce lets the occurrence number at of op fail, and tells whether there
// was one.
func failOnce(t *testing.T, op string, at int, kind error) (happened bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.Close()
		leaf := r.store.Offer("leaf")
		r.define("curl", storetest.Recipe{Inputs: []nixstore.Output{{Path: leaf}}})
		r.define("jq", storetest.Recipe{})
		var mu sync.Mutex
		seen := 0
		r.store.SetHook(func(_ context.Context, s storetest.Step) error {
			mu.Lock()
			defer mu.Unlock()
			if s.Op == op {
				seen++
			}
			if s.Op != op || seen != at {
				return nil
			}
			happened = true
			return fmt.Errorf("step %d: %w", at, kind)
		})
		_, err := r.Provide(t.Context(), build(1, packages("curl", "jq")))
		if !happened {
			if err != nil {
				t.Errorf("nothing was injected, and yet: %v", err)
			}
			return
		}
		wantKind(t, err, kind)
		synctest.Wait()
		r.wantPins(t, 0)
		if n := len(r.Running()); n != 0 {
			t.Errorf("%d flights still run", n)
		}
		r.store.SetHook(nil)
		time.Sleep(time.Minute) // longer than a failure is remembered
		r.mustProvide(t, build(1, packages("curl", "jq")))
		r.wantPins(t, 1)
	})
	return happened
}

func TestFault04NoPinNoAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.store.AddText("text", "text")
	long := build(1, storePaths(p))
	long.Holder.Name = strings.Repeat("x", 256)
	_, err := r.Provide(t.Context(), long)
	wantKind(t, err, nixstore.ErrInvalid)
	r.wantPins(t, 0)
}

// TestFault17ACollectionBetweenAnyTwoSteps runs one collection at each step at
// which the barrier does not forbid it: whatever it takes, the answer is valid
// and stays so.
func TestFault17ACollectionBetweenAnyTwoSteps(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"hold", "realise", "substitute", "build", "merge"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			for at := 1; collectOnce(t, op, at); at++ {
				if at > 50 {
					t.Fatal("it never ends")
				}
			}
		})
	}
}

func collectOnce(t *testing.T, op string, at int) (happened bool) {
	t.Helper()
	r := newRig(t)
	defer r.Close()
	leaf := r.store.Offer("leaf")
	r.define("curl", storetest.Recipe{Inputs: []nixstore.Output{{Path: leaf}}})
	r.define("jq", storetest.Recipe{})
	seen := 0
	r.store.SetHook(func(ctx context.Context, s storetest.Step) error {
		if s.Op == op {
			seen++
		}
		if s.Op != op || seen != at || happened {
			return nil
		}
		happened = true
		return r.store.Collect(ctx)
	})
	got := r.mustProvide(t, build(1, packages("curl", "jq")))
	r.store.SetHook(nil)
	r.collect(t)
	c, err := r.store.Closure(t.Context(), got.Root)
	if err != nil || len(c.Paths) != 4 {
		t.Errorf("with a collection at %s %d the closure is %v, %v", op, at, c.Paths, err)
	}
	r.wantPins(t, 1)
	return happened
}

// TestFault17ACollectionThatHasReadItsRoots is the race that the barrier is for:
// the collector does not know the pin, and has not deleted yet.
func TestFault17ACollectionThatHasReadItsRoots(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.Close()
		p := r.store.Offer("wanted")
		r.mustProvide(t, build(1, storePaths(p)))
		if err := r.Release(t.Context(), volume(1)); err != nil {
			t.Fatal(err)
		}
		r.store.SetHook(takes("collect", 10*time.Second))
		var collector sync.WaitGroup
		collector.Go(func() { r.collect(t) })
		time.Sleep(time.Second)
		got := r.mustProvide(t, build(2, storePaths(p)))
		collector.Wait()
		reg, err := r.store.Registration(t.Context(), p)
		if err != nil || reg != got.Registration {
			t.Errorf("the volume has registration %d, the store %d, %v", got.Registration, reg, err)
		}
	})
}

// TestFault17ACollectorWithoutPause takes each derivation before it is pinned;
// and each evaluation gives another, so that no older pin helps.
func TestFault17ACollectorWithoutPause(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	n := 0
	r.eval.Define("impure", func() []nixstore.Output {
		n++
		return []nixstore.Output{r.store.AddRecipe(storetest.Recipe{Name: fmt.Sprintf("impure-%d", n)})}
	})
	r.store.SetHook(func(ctx context.Context, s storetest.Step) error {
		if s.Op == "hold" || s.Op == "realise" || s.Op == "build" {
			return r.store.Collect(ctx)
		}
		return nil
	})
	got := r.mustProvide(t, build(1, packages("impure")))
	if _, err := r.store.Closure(t.Context(), got.Root); err != nil {
		t.Error(err)
	}
	if n != 3 {
		t.Errorf("%d evaluations, want two that are lost and one in a hold", n)
	}
	r.wantPins(t, 1)
}

// TestFault17ACollectionThatSawThePinTooEarly lets a collector read the roots
// during a build, when the pin's path is not valid and so no root, and delete
// after it.
func TestFault17ACollectionThatSawThePinTooEarly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.Close()
		curl, jq := r.define("curl", storetest.Recipe{}), r.define("jq", storetest.Recipe{})
		var collector sync.WaitGroup
		building := takes("build", 20*time.Second)
		deleting := takes("collect", time.Minute)
		r.store.SetHook(func(ctx context.Context, s storetest.Step) error {
			if s.Op == "build" && s.Path == curl.Path && r.store.Count("collect", nixstore.StorePath{}) == 0 {
				collector.Go(func() { r.collect(t) }) //nolint:contextcheck // the collector is somebody else
			}
			return errors.Join(building(ctx, s), deleting(ctx, s))
		})
		got := r.mustProvide(t, build(1, packages("curl", "jq")))
		collector.Wait()
		c, err := r.store.Closure(t.Context(), got.Root)
		if err != nil || !c.Has(curl.Path) || !c.Has(jq.Path) {
			t.Errorf("the closure is %v, %v", c.Paths, err)
		}
		if n := r.store.Count("build", curl.Path); n != 2 {
			t.Errorf("%d builds of curl, want one that was lost and one more", n)
		}
	})
}

// TestFault17AStormOfCollections is the real thing in small: collectors never
// pause, volumes come and go, and no live one may lose a path.
func TestFault17AStormOfCollections(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for n := range 5 {
		r.define(fmt.Sprintf("p%d", n), storetest.Recipe{})
	}
	stop := make(chan struct{})
	var collectors, volumes sync.WaitGroup
	collectors.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
				r.collect(t)
			}
		}
	})
	for n := range 20 {
		volumes.Go(func() {
			for round := range 10 {
				r.liveInStorm(t, n, packages(fmt.Sprintf("p%d", (n+round)%5)))
			}
		})
	}
	volumes.Wait()
	close(stop)
	collectors.Wait()
	r.wantPins(t, 0)
	t.Logf("%+v after %d collections", r.Stats(), r.store.Count("collect", nixstore.StorePath{}))
}

func (r *rig) liveInStorm(t *testing.T, n int, src nixstore.Source) {
	t.Helper()
	got, err := r.Provide(t.Context(), build(n, src))
	if err != nil {
		// Three collections hit the same request between its steps. That is allowed,
		// if it says so and leaves nothing.
		wantKind(t, err, nixstore.ErrUnavailable)
		return
	}
	for range 3 {
		reg, err := r.store.Registration(t.Context(), got.Root)
		if err != nil || reg != got.Registration {
			t.Errorf("volume %d lost its root: %d, %v, want %d", n, reg, err, got.Registration)
		}
		time.Sleep(200 * time.Microsecond)
	}
	if err := r.Release(t.Context(), volume(n)); err != nil {
		t.Error(err)
	}
}

func TestFault17WhatIsAlwaysLostEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.store.Offer("cursed")
	r.store.SetHook(func(_ context.Context, s storetest.Step) error {
		if s.Op == "registration" {
			r.store.Lose(p) // somebody who knows no locks
		}
		return nil
	})
	_, err := r.Provide(t.Context(), build(1, storePaths(p)))
	wantKind(t, err, nixstore.ErrUnavailable)
	r.wantPins(t, 0)
}

func TestFault19ALostPathIsRealisedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.define("curl", storetest.Recipe{})
	first := r.mustProvide(t, build(1, packages("curl")))
	r.store.Lose(first.Root)
	second := r.mustProvide(t, build(1, packages("curl")))
	if second.Root != first.Root || second.Registration == first.Registration {
		t.Errorf("first %+v, then %+v", first, second)
	}
	r.wantPins(t, 1)
}

func TestFault05RandomInterleavingsOfProvideAndRelease(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.define("curl", storetest.Recipe{})
	r.store.SetHook(takes("build", time.Millisecond))
	var all sync.WaitGroup
	for n := range 100 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n%7)*time.Millisecond)
			defer cancel()
			_, err := r.Provide(ctx, build(n%4, packages("curl")))
			if err != nil && !errors.Is(err, nixstore.ErrBusy) {
				t.Errorf("providing: %v", err)
			}
			if err := r.Release(t.Context(), volume(n%4)); err != nil {
				t.Errorf("releasing: %v", err)
			}
		})
	}
	all.Wait()
	if got := len(r.pins.List(nixstore.HolderVolume)); got != 0 {
		t.Errorf("after all releases there are %d pins", got)
	}
}

func TestAChangedResultReplacesAGuess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.Close()
		r.define("moving", storetest.Recipe{Name: "old"})
		r.mustProvide(t, build(1, packages("moving")))
		if err := r.Release(t.Context(), volume(1)); err != nil {
			t.Fatal(err)
		}
		r.collect(t)
		moved := r.define("moving", storetest.Recipe{Name: "new"})
		r.store.SetHook(takes("build", 10*time.Second))
		_, err := r.provideFor(t, time.Second, build(2, packages("moving")))
		wantKind(t, err, nixstore.ErrBusy) // its pin is the old root, remembered
		if got := r.mustProvide(t, build(2, packages("moving"))); got.Root != moved.Path {
			t.Errorf("got %+v, want %s", got, moved.Path)
		}
		r.wantPin(t, volume(2), moved.Path)
	})
}

func TestAnErrorHasCauseObjectAndNextStepInFront(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	long := nixstore.MustParseStorePath(nixstore.Dir + "/00000000000000000000000000000000-" + strings.Repeat("n", 200))
	_, err := r.Provide(t.Context(), build(1, storePaths(long, r.store.AddText("a", "a"))))
	if err == nil || !strings.Contains(err.Error()[:200], "00000000000000000000000000000000-nnn") {
		t.Errorf("the error is %v", err)
	}
}

func ExampleProvider() {
	var store nixstore.Store // nixcli.Store in the agent
	_, err := provide.New(provide.Config{Store: store})
	fmt.Println(err)
	// Output:
	// making a provider: no store
	// no pins
}
