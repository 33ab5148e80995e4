package storetest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/closured/closured/nixstore"
)

func building() nixstore.RealiseOptions { return nixstore.RealiseOptions{Build: true} }

func realise(t *testing.T, h Harness, outs ...nixstore.Output) {
	t.Helper()
	if err := h.Store().Realise(t.Context(), outs, building()); err != nil {
		t.Fatal(err)
	}
}

func testRealiseValid(t *testing.T, h Harness) {
	p := h.AddText(t, "text", "text")
	before := mustRegistration(t, h, p)
	for _, build := range []bool{false, true} {
		err := h.Store().Realise(t.Context(), []nixstore.Output{{Path: p}}, nixstore.RealiseOptions{Build: build})
		if err != nil {
			t.Errorf("with build %t: %v", build, err)
		}
	}
	if after := mustRegistration(t, h, p); after != before {
		t.Errorf("the registration went from %d to %d", before, after)
	}
}

func testSubstituteOnly(t *testing.T, h Harness) {
	out := h.AddBuild(t, Build{Name: "unbuilt"})
	err := h.Store().Realise(t.Context(), []nixstore.Output{out}, nixstore.RealiseOptions{})
	wantError(t, err, nixstore.ErrNotFound)
	if isValid(t, h, out.Path) {
		t.Error("it was built")
	}
}

func testBuild(t *testing.T, h Harness) {
	in := h.AddBuild(t, Build{Name: "in"})
	out := h.AddBuild(t, Build{Name: "out", Inputs: []nixstore.Output{in}})
	if isValid(t, h, out.Path) {
		t.Fatal("the output is valid before its build")
	}
	realise(t, h, out)
	c, err := h.Store().Closure(t.Context(), out.Path)
	if err != nil {
		t.Fatal(err)
	}
	wantPaths(t, c, in.Path, out.Path)
}

func testSeveral(t *testing.T, h Harness) {
	text := h.AddText(t, "text", "text")
	outs := []nixstore.Output{h.AddBuild(t, Build{Name: "one"}), {Path: text}, h.AddBuild(t, Build{Name: "two"})}
	realise(t, h, outs...)
	for _, out := range outs {
		if !isValid(t, h, out.Path) {
			t.Errorf("%s is not valid", out.Path)
		}
	}
}

func testBuildFails(t *testing.T, h Harness) {
	out := h.AddBuild(t, Build{Name: "bad", Does: Fails})
	err := h.Store().Realise(t.Context(), []nixstore.Output{out}, building())
	wantError(t, err, nixstore.ErrBuild)
	var failure *nixstore.Failure
	if !errors.As(err, &failure) {
		t.Fatalf("the error %v is no Failure", err)
	}
	if !strings.Contains(strings.Join(failure.Log, "\n"), "this builder fails") {
		t.Errorf("the log lacks the builder's words: %q", failure.Log)
	}
	if isValid(t, h, out.Path) {
		t.Error("the output is valid")
	}
}

func testInputFails(t *testing.T, h Harness) {
	bad := h.AddBuild(t, Build{Name: "bad", Does: Fails})
	out := h.AddBuild(t, Build{Name: "needs-bad", Inputs: []nixstore.Output{bad}})
	err := h.Store().Realise(t.Context(), []nixstore.Output{out}, building())
	wantError(t, err, nixstore.ErrBuild)
}

// testCancel needs no deadline: the builder would hang longer than the test may.
func testCancel(t *testing.T, h Harness) {
	out := h.AddBuild(t, Build{Name: "endless", Does: Hangs})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := h.Store().Realise(ctx, []nixstore.Output{out}, building())
	wantError(t, err, context.DeadlineExceeded)
	if isValid(t, h, out.Path) {
		t.Error("the output is valid")
	}
	realise(t, h, h.AddBuild(t, Build{Name: "after"})) // the store still works
}

func testCancelled(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out := h.AddBuild(t, Build{Name: "too-late"})
	err := h.Store().Realise(ctx, []nixstore.Output{out}, building())
	wantError(t, err, context.Canceled)
	if isValid(t, h, out.Path) {
		t.Error("the output is valid")
	}
}

func testConcurrent(t *testing.T, h Harness) {
	out := h.AddBuild(t, Build{Name: "wanted"})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := h.Store().Realise(t.Context(), []nixstore.Output{out}, building()); err != nil {
				t.Error(err)
			}
			if _, err := h.Store().Closure(t.Context(), out.Path); err != nil {
				t.Errorf("after its realisation: %v", err)
			}
		})
	}
	all.Wait()
}

func testProgress(t *testing.T, h Harness) {
	in := h.AddBuild(t, Build{Name: "in"})
	out := h.AddBuild(t, Build{Name: "out", Inputs: []nixstore.Output{in}})
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
	if err := h.Store().Realise(t.Context(), []nixstore.Output{out}, opts); err != nil {
		t.Fatal(err)
	}
}

func testMerge(t *testing.T, h Harness) {
	a, b := h.AddBuild(t, Build{Name: "a"}), h.AddBuild(t, Build{Name: "b"})
	realise(t, h, a, b)
	merged, err := h.Store().Merge(t.Context(), []nixstore.StorePath{a.Path, b.Path})
	if err != nil {
		t.Fatal(err)
	}
	other, err := h.Store().Merge(t.Context(), []nixstore.StorePath{b.Path, a.Path, b.Path})
	if err != nil {
		t.Fatal(err)
	}
	if merged.Path != other.Path {
		t.Errorf("the order of the roots matters: %s and %s", merged.Path, other.Path)
	}
	if isValid(t, h, merged.Path) {
		t.Error("merging realised the result")
	}
	realise(t, h, merged)
	c, err := h.Store().Closure(t.Context(), merged.Path)
	if err != nil {
		t.Fatal(err)
	}
	wantPaths(t, c, a.Path, b.Path, merged.Path)
	_, err = h.Store().Merge(t.Context(), []nixstore.StorePath{a.Path, absent()})
	wantError(t, err, nixstore.ErrNotFound)
}

func testBarrier(t *testing.T, h Harness) {
	p := h.AddText(t, "text", "text")
	first, release := hold(t, h), hold(t, h)
	first()
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		h.Collect(t)
	}()
	select {
	case <-collected:
		t.Error("the collection did not wait for the second hold")
	case <-time.After(500 * time.Millisecond):
	}
	if !isValid(t, h, p) {
		t.Error("a path went while the barrier was held")
	}
	release()
	<-collected
	if isValid(t, h, p) {
		t.Error("the collection did not go on after the release")
	}
}

func testHoldCancelled(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(t.Context())
	release, err := h.Store().Hold(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // ends no hold that is taken
	p := h.AddText(t, "text", "text")
	if !isValid(t, h, p) {
		t.Error("the store does not answer while the barrier is held")
	}
	release()
	h.Collect(t) // would wait for ever if the release were lost
}

func testRootInHold(t *testing.T, h Harness) {
	p := h.AddText(t, "text", "text")
	release := hold(t, h)
	h.Root(t, p)
	release()
	h.Collect(t)
	if !isValid(t, h, p) {
		t.Error("the collection did not see the root")
	}
}

// testStorm is the promise that provide stands on: what is valid and rooted
// within a hold is taken by no later collection. A root alone does not promise
// that: see readRoots of Memory.
func testStorm(t *testing.T, h Harness) {
	stop := make(chan struct{})
	var collector sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				h.Collect(t)
			}
		}
	})
	defer collector.Wait()
	defer close(stop)
	kept := 0
	for n := range 20 {
		if surviveStorm(t, h, Build{Name: "stormy-" + strconv.Itoa(n)}) {
			kept++
		}
	}
	t.Logf("%d of 20 builds were valid when they were looked at", kept)
	if kept == 0 {
		t.Error("nothing was tried")
	}
}

func surviveStorm(t *testing.T, h Harness, b Build) (valid bool) {
	t.Helper()
	release := hold(t, h)
	out := h.AddBuild(t, b)
	defer h.Root(t, out.Derivation)() // valid and rooted, so that the build finds it
	defer h.Root(t, out.Path)()
	release()
	realise(t, h, out)
	release = hold(t, h)
	valid = isValid(t, h, out.Path)
	release()
	for range 3 {
		time.Sleep(10 * time.Millisecond)
		if valid && !isValid(t, h, out.Path) {
			t.Fatal("a path that was rooted and valid in a hold is gone")
		}
	}
	return valid
}

func hold(t *testing.T, h Harness) (release func()) {
	t.Helper()
	release, err := h.Store().Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return release
}
