package storetest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/closured/closured/nixstore"
)

func building() nixstore.RealiseOptions { return nixstore.RealiseOptions{Build: true} }

func realise(t trial, outs ...nixstore.Output) {
	t.Helper()
	if err := t.Store().Realise(t.Context(), outs, building()); err != nil {
		t.Fatal(err)
	}
}

func testRealiseValid(t trial) {
	p := t.AddText(t, "text", "text")
	before := mustRegistration(t, p)
	for _, build := range []bool{false, true} {
		err := t.Store().Realise(t.Context(), []nixstore.Output{{Path: p}}, nixstore.RealiseOptions{Build: build})
		if err != nil {
			t.Errorf("with build %t: %v", build, err)
		}
	}
	if after := mustRegistration(t, p); after != before {
		t.Errorf("the registration went from %d to %d", before, after)
	}
}

func testSubstituteOnly(t trial) {
	out := t.AddBuild(t, Build{Name: "unbuilt"})
	err := t.Store().Realise(t.Context(), []nixstore.Output{out}, nixstore.RealiseOptions{})
	wantError(t, err, nixstore.ErrNotFound)
	if isValid(t, out.Path) {
		t.Error("it was built")
	}
}

func testBuild(t trial) {
	in := t.AddBuild(t, Build{Name: "in"})
	out := t.AddBuild(t, Build{Name: "out", Inputs: []nixstore.Output{in}})
	if isValid(t, out.Path) {
		t.Fatal("the output is valid before its build")
	}
	realise(t, out)
	c, err := t.Store().Closure(t.Context(), out.Path)
	if err != nil {
		t.Fatal(err)
	}
	wantPaths(t, c, in.Path, out.Path)
}

func testSeveral(t trial) {
	text := t.AddText(t, "text", "text")
	outs := []nixstore.Output{t.AddBuild(t, Build{Name: "one"}), {Path: text}, t.AddBuild(t, Build{Name: "two"})}
	realise(t, outs...)
	for _, out := range outs {
		if !isValid(t, out.Path) {
			t.Errorf("%s is not valid", out.Path)
		}
	}
}

func testBuildFails(t trial) {
	out := t.AddBuild(t, Build{Name: "bad", Does: Fails})
	err := t.Store().Realise(t.Context(), []nixstore.Output{out}, building())
	wantError(t, err, nixstore.ErrBuild)
	var failure *nixstore.Failure
	if !errors.As(err, &failure) {
		t.Fatalf("the error %v is no Failure", err)
	}
	if !strings.Contains(strings.Join(failure.Log, "\n"), "this builder fails") {
		t.Errorf("the log lacks the builder's words: %q", failure.Log)
	}
	if isValid(t, out.Path) {
		t.Error("the output is valid")
	}
}

func testInputFails(t trial) {
	bad := t.AddBuild(t, Build{Name: "bad", Does: Fails})
	out := t.AddBuild(t, Build{Name: "needs-bad", Inputs: []nixstore.Output{bad}})
	err := t.Store().Realise(t.Context(), []nixstore.Output{out}, building())
	wantError(t, err, nixstore.ErrBuild)
}

// testCancel needs no deadline: the builder would hang longer than the test may.
func testCancel(t trial) {
	out := t.AddBuild(t, Build{Name: "endless", Does: Hangs})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := t.Store().Realise(ctx, []nixstore.Output{out}, building())
	wantError(t, err, context.DeadlineExceeded)
	if isValid(t, out.Path) {
		t.Error("the output is valid")
	}
	realise(t, t.AddBuild(t, Build{Name: "after"})) // the store still works
}

func testCancelled(t trial) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out := t.AddBuild(t, Build{Name: "too-late"})
	err := t.Store().Realise(ctx, []nixstore.Output{out}, building())
	wantError(t, err, context.Canceled)
	if isValid(t, out.Path) {
		t.Error("the output is valid")
	}
}

func testConcurrent(t trial) {
	out := t.AddBuild(t, Build{Name: "wanted"})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := t.Store().Realise(t.Context(), []nixstore.Output{out}, building()); err != nil {
				t.Error(err)
			}
			if _, err := t.Store().Closure(t.Context(), out.Path); err != nil {
				t.Errorf("after its realisation: %v", err)
			}
		})
	}
	all.Wait()
}

func testProgress(t trial) {
	in := t.AddBuild(t, Build{Name: "in"})
	out := t.AddBuild(t, Build{Name: "out", Inputs: []nixstore.Output{in}})
	var inside atomic.Int32
	opts := building()
	opts.Progress = func(p nixstore.Progress) {
		if inside.Add(1) > 1 {
			t.Error("two calls at a time")
		}
		defer inside.Add(-1)
		if !slices.Contains([]string{"evaluating", "fetching", "building"}, p.Phase) {
			t.Errorf("the phase is %q", p.Phase)
		}
	}
	if err := t.Store().Realise(t.Context(), []nixstore.Output{out}, opts); err != nil {
		t.Fatal(err)
	}
}

func testMerge(t trial) {
	a, b := t.AddBuild(t, Build{Name: "a"}), t.AddBuild(t, Build{Name: "b"})
	realise(t, a, b)
	merged, err := t.Store().Merge(t.Context(), []nixstore.StorePath{a.Path, b.Path})
	if err != nil {
		t.Fatal(err)
	}
	other, err := t.Store().Merge(t.Context(), []nixstore.StorePath{b.Path, a.Path, b.Path})
	if err != nil {
		t.Fatal(err)
	}
	if merged.Path != other.Path {
		t.Errorf("the order of the roots matters: %s and %s", merged.Path, other.Path)
	}
	if isValid(t, merged.Path) {
		t.Error("merging realised the result")
	}
	realise(t, merged)
	c, err := t.Store().Closure(t.Context(), merged.Path)
	if err != nil {
		t.Fatal(err)
	}
	wantPaths(t, c, a.Path, b.Path, merged.Path)
	_, err = t.Store().Merge(t.Context(), []nixstore.StorePath{a.Path, absent()})
	wantError(t, err, nixstore.ErrNotFound)
}

func testBarrier(t trial) {
	p := t.AddText(t, "text", "text")
	first, release := hold(t), hold(t)
	first()
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		t.Collect(t)
	}()
	select {
	case <-collected:
		t.Error("the collection did not wait for the second hold")
	case <-time.After(500 * time.Millisecond):
	}
	if !isValid(t, p) {
		t.Error("a path went while the barrier was held")
	}
	release()
	<-collected
	if isValid(t, p) {
		t.Error("the collection did not go on after the release")
	}
}

func testHoldCancelled(t trial) {
	ctx, cancel := context.WithCancel(t.Context())
	release, err := t.Store().Hold(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // ends no hold that is taken
	p := t.AddText(t, "text", "text")
	if !isValid(t, p) {
		t.Error("the store does not answer while the barrier is held")
	}
	release()
	t.Collect(t) // would wait for ever if the release were lost
}

func testRootInHold(t trial) {
	p := t.AddText(t, "text", "text")
	release := hold(t)
	t.Root(t, p)
	release()
	t.Collect(t)
	if !isValid(t, p) {
		t.Error("the collection did not see the root")
	}
}

// testStorm is the promise that provide stands on: what is valid and rooted
// within a hold is taken by no later collection. A root alone does not promise
// that: see readRoots of Memory.
func testStorm(t trial) {
	stop := make(chan struct{})
	var collector sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				t.Collect(t)
			}
		}
	})
	defer collector.Wait()
	defer close(stop)
	kept := 0
	for n := range 20 {
		if surviveStorm(t, Build{Name: "stormy-" + strconv.Itoa(n)}) {
			kept++
		}
	}
	t.Logf("%d of 20 builds were valid when they were looked at", kept)
	if kept == 0 {
		t.Error("nothing was tried")
	}
}

func surviveStorm(t trial, b Build) (valid bool) {
	t.Helper()
	release := hold(t)
	out := t.AddBuild(t, b)
	defer t.Root(t, out.Derivation)() // valid and rooted, so that the build finds it
	defer t.Root(t, out.Path)()
	release()
	realise(t, out)
	release = hold(t)
	valid = isValid(t, out.Path)
	release()
	for range 3 {
		time.Sleep(10 * time.Millisecond)
		if valid && !isValid(t, out.Path) {
			t.Fatal("a path that was rooted and valid in a hold is gone")
		}
	}
	return valid
}

func hold(t trial) (release func()) {
	t.Helper()
	release, err := t.Store().Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return release
}
