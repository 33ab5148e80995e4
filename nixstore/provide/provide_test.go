package provide_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/provide"
	"github.com/closured/closured/nixstore/storetest"
)

func TestAWarmPathStartsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.store.AddText("warm", "warm")
	got := r.mustProvide(t, build(1, storePaths(p)))
	if got.Root != p || got.Registration == 0 {
		t.Errorf("got %+v", got)
	}
	r.wantPin(t, volume(1), p)
	r.wantPins(t, 1)
	if s := r.Stats(); s != (provide.Stats{Warm: 1}) {
		t.Errorf("the counters are %+v", s)
	}
	if n := r.store.Count("realise", nixstore.StorePath{}); n != 0 {
		t.Errorf("%d realisations", n)
	}
}

func TestAnAbsentPathIsSubstituted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.store.Offer("root", r.store.Offer("leaf"))
	if got := r.mustProvide(t, build(1, storePaths(p, p))); got.Root != p {
		t.Errorf("got %+v", got)
	}
	r.wantPins(t, 1)
	r.collect(t)
	if c, err := r.store.Closure(t.Context(), p); err != nil || len(c.Paths) != 2 {
		t.Errorf("after a collection the closure is %v, %v", c.Paths, err)
	}
}

func TestPackagesAreEvaluatedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	curl := r.define("curl", storetest.Recipe{})
	for n := range 3 {
		if got := r.mustProvide(t, build(n, packages("curl", "curl"))); got.Root != curl.Path {
			t.Errorf("got %+v", got)
		}
	}
	if n := r.eval.Count(); n != 1 {
		t.Errorf("%d evaluations", n)
	}
	r.wantPins(t, 3)
	r.eval.SetFingerprint("the operator's new package set")
	r.mustProvide(t, build(4, packages("curl")))
	if n := r.eval.Count(); n != 2 {
		t.Errorf("%d evaluations after the package set was replaced, want 2", n)
	}
}

func TestSeveralRootsAreMerged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	curl, jq := r.define("curl", storetest.Recipe{}), r.define("jq", storetest.Recipe{})
	got := r.mustProvide(t, build(1, packages("jq", "curl")))
	c, err := r.store.Closure(t.Context(), got.Root)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Has(curl.Path) || !c.Has(jq.Path) || len(c.Paths) != 3 {
		t.Errorf("the closure is %v", c.Paths)
	}
	again := r.mustProvide(t, build(2, packages("curl", "jq")))
	if again != got || r.Stats().Warm != 1 {
		t.Errorf("in another order it is %+v, want %+v without work: %+v", again, got, r.Stats())
	}
	// A merge of valid paths needs no permission to build.
	paths := nixstore.Request{Source: storePaths(jq.Path, curl.Path), Holder: volume(3)}
	if byPath := r.mustProvide(t, paths); byPath.Root != got.Root {
		t.Errorf("the same roots as paths give %s, want %s", byPath.Root, got.Root)
	}
}

func TestWithoutPermissionNothingIsBuilt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	curl := r.define("curl", storetest.Recipe{})
	_, err := r.Provide(t.Context(), nixstore.Request{Source: packages("curl"), Holder: volume(1)})
	wantKind(t, err, nixstore.ErrNotFound)
	r.wantPins(t, 0)
	if r.store.Count("build", nixstore.StorePath{}) != 0 {
		t.Error("it was built")
	}
	// The refusal of one that may not build is not the answer of one that may.
	if got := r.mustProvide(t, build(2, packages("curl"))); got.Root != curl.Path {
		t.Errorf("got %+v", got)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	good := storetest.NewMemory().AddText("good", "good")
	cases := []struct {
		name string
		src  nixstore.Source
		kind error
		text string
	}{
		{"a source of no kind", nixstore.Source{Kind: "tarball"}, nixstore.ErrInvalid, "no kind of source"},
		{"no store path", storePaths(), nixstore.ErrInvalid, "empty"},
		{"the zero store path", storePaths(good, nixstore.StorePath{}), nixstore.ErrInvalid, "empty"},
		{"no packages", packages(), nixstore.ErrInvalid, "empty"},
		{"an empty flake", nixstore.Source{Kind: nixstore.SourceFlake}, nixstore.ErrInvalid, "empty"},
		{"an empty expression", nixstore.Source{Kind: nixstore.SourceExpr}, nixstore.ErrInvalid, "empty"},
		{"an image without a resolver", nixstore.Source{Kind: nixstore.SourceImage, Image: "a/b"}, nixstore.ErrInvalid, "knows no images"},
		{"an unknown package", packages("nope"), nixstore.ErrNotFound, "nope"},
		{"a package that gives nothing", packages("nothing"), nixstore.ErrEvaluation, "nothing"},
		{"a path that is nowhere", storePaths(good), nixstore.ErrNotFound, good.BaseName()},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.eval.Define("nothing", func() []nixstore.Output { return nil })
			_, err := r.Provide(t.Context(), build(1, c.src))
			wantKind(t, err, c.kind)
			if err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("the text is %q, want %q in it", err, c.text)
			}
			r.wantPins(t, 0)
		})
	}
}

func TestAHolderWithABadNameIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	req := build(1, storePaths(r.store.AddText("text", "text")))
	req.Holder.Name = "../escape"
	_, err := r.Provide(t.Context(), req)
	wantKind(t, err, nixstore.ErrInvalid)
}

func TestAnImageStandsForItsSource(t *testing.T) {
	t.Parallel()
	sources := map[string]nixstore.Source{"ns/chain": {Kind: nixstore.SourceImage, Image: "ns/other"}}
	r := newRigWith(t, provide.Config{Images: func(_ context.Context, name string) (nixstore.Source, error) {
		src, ok := sources[name]
		if !ok {
			return src, nixstore.Fail(nixstore.ErrNotFound, "", "no image %s", name)
		}
		return src, nil
	}})
	p := r.store.AddText("text", "text")
	sources["ns/name"] = storePaths(p)
	image := func(name string) nixstore.Source { return nixstore.Source{Kind: nixstore.SourceImage, Image: name} }
	if got := r.mustProvide(t, build(1, image("ns/name"))); got.Root != p {
		t.Errorf("got %+v", got)
	}
	_, err := r.Provide(t.Context(), build(2, image("ns/none")))
	wantKind(t, err, nixstore.ErrNotFound)
	_, err = r.Provide(t.Context(), build(2, image("ns/chain")))
	wantKind(t, err, nixstore.ErrInvalid)
}

func TestOneHolderKeepsOneRoot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := r.store.AddText("a", "a"), r.store.AddText("b", "b")
	r.mustProvide(t, build(1, storePaths(a)))
	_, err := r.Provide(t.Context(), build(1, storePaths(b)))
	wantKind(t, err, nixstore.ErrConflict)
	r.wantPin(t, volume(1), a)
	if err := r.Release(t.Context(), volume(1)); err != nil {
		t.Fatal(err)
	}
	r.mustProvide(t, build(1, storePaths(b)))
	r.wantPin(t, volume(1), b)
}

func TestFault01ALongBuildIsBusyAndJoinedLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		out := r.define("slow", storetest.Recipe{})
		r.store.SetHook(takes("build", 150*time.Second))
		_, first := r.provideFor(t, 115*time.Second, build(1, packages("slow")))
		wantKind(t, first, nixstore.ErrBusy)
		time.Sleep(2 * time.Second)
		_, second := r.provideFor(t, time.Second, build(1, packages("slow")))
		if first == nil || second == nil || first.Error() != second.Error() {
			t.Errorf("the texts differ:\n %v\n %v", first, second)
		}
		time.Sleep(10 * time.Second)
		got, err := r.provideFor(t, 115*time.Second, build(1, packages("slow")))
		if err != nil || got.Root != out.Path {
			t.Fatalf("got %+v, %v", got, err)
		}
		if n := r.store.Count("build", out.Path); n != 1 || r.eval.Count() != 1 {
			t.Errorf("%d builds and %d evaluations, want one of each", n, r.eval.Count())
		}
		r.wantPins(t, 1)
		r.Close()
	})
}

// takes gives a hook that lets op take so long, and end early with its context.
func takes(op string, d time.Duration) storetest.Hook {
	return func(ctx context.Context, s storetest.Step) error {
		if s.Op != op {
			return nil
		}
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestAFinishedBuildSurvivesACollectionUntilItsHolderComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		out := r.define("slow", storetest.Recipe{})
		r.store.SetHook(takes("build", 150*time.Second))
		_, err := r.provideFor(t, 115*time.Second, build(1, packages("slow")))
		wantKind(t, err, nixstore.ErrBusy)
		time.Sleep(122 * time.Second) // kubelet's longest pause; the build ended long ago
		r.collect(t)
		r.mustProvide(t, build(1, packages("slow")))
		if n := r.store.Count("build", out.Path); n != 1 {
			t.Errorf("%d builds", n)
		}
		r.wantPins(t, 1)
		r.Close()
	})
}

func TestAFinishedBuildIsNotKeptForWhoNeverComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.define("slow", storetest.Recipe{})
		r.store.SetHook(takes("build", 150*time.Second))
		_, err := r.provideFor(t, 115*time.Second, build(1, packages("slow")))
		wantKind(t, err, nixstore.ErrBusy)
		time.Sleep(11 * time.Minute)
		r.wantPins(t, 0)
		r.Close()
	})
}

func TestFault02FiftyPodsAreOneEvaluationAndOneBuild(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	out := r.define("cold", storetest.Recipe{})
	r.eval.Define("alias", func() []nixstore.Output { return []nixstore.Output{out} })
	r.store.SetHook(takes("build", 50*time.Millisecond))
	var all sync.WaitGroup
	for n := range 50 {
		all.Go(func() {
			src := packages("cold")
			if n%2 == 1 {
				src = packages("alias") // another source of the same closure
			}
			if got, err := r.Provide(t.Context(), build(n, src)); err != nil || got.Root != out.Path {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	all.Wait()
	if n := r.eval.Count(); n != 2 {
		t.Errorf("%d evaluations of two sources", n)
	}
	if n := r.Stats().Realisations; n != 1 {
		t.Errorf("%d realisations", n)
	}
	if n := r.store.Count("build", out.Path); n != 1 {
		t.Errorf("%d builds", n)
	}
	r.wantPins(t, 50)
}

func TestFault03TheLastToLeaveCancelsTheBuild(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.define("endless", storetest.Recipe{Hangs: true})
		for n := range 2 {
			_, err := r.provideFor(t, time.Second, build(n, packages("endless")))
			wantKind(t, err, nixstore.ErrBusy)
		}
		release := func(n int) {
			if err := r.Release(t.Context(), volume(n)); err != nil {
				t.Error(err)
			}
		}
		release(0)
		time.Sleep(time.Minute)
		if len(r.Running()) != 1 {
			t.Error("the build ended although a holder is left")
		}
		release(1)
		time.Sleep(29 * time.Second)
		if len(r.Running()) != 1 {
			t.Error("the build ended before the grace did")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if running := r.Running(); len(running) != 0 {
			t.Errorf("after the grace %+v still runs", running)
		}
		r.wantPins(t, 0)
		r.Close()
	})
}

func TestReleaseWhileProvidingLeavesNoPin(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.store.AddText("text", "text")
	r.store.SetHook(func(ctx context.Context, s storetest.Step) error {
		if s.Op == "held" { // Provide is about to pin
			return r.Release(ctx, volume(1))
		}
		return nil
	})
	_, err := r.Provide(t.Context(), build(1, storePaths(p)))
	wantKind(t, err, nixstore.ErrBusy)
	r.wantPins(t, 0)
}

func TestReleaseOfTheUnknownIsFine(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, h := range []nixstore.Holder{volume(1), {}, {Kind: "x", Name: "../y"}} {
		if err := r.Release(t.Context(), h); err != nil {
			t.Errorf("%+v: %v", h, err)
		}
	}
}

func TestAFailureIsRememberedForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		out := r.define("bad", storetest.Recipe{Fails: true})
		for range 20 { // one each second
			_, err := r.Provide(t.Context(), build(1, packages("bad")))
			wantKind(t, err, nixstore.ErrBuild)
			r.wantPins(t, 0)
			time.Sleep(time.Second)
		}
		if n := r.store.Count("build", out.Path); n != 2 {
			t.Errorf("%d builds in 20 s of retries, want one at once and one after 10 s", n)
		}
		r.Close()
	})
}

func TestNewSweepsThePinsOfDeadFlights(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.store.AddText("text", "text")
	if err := r.pins.Put(nixstore.Holder{Kind: nixstore.HolderFlight, Name: "1.stale"}, p); err != nil {
		t.Fatal(err)
	}
	if err := r.pins.Put(volume(1), p); err != nil {
		t.Fatal(err)
	}
	second, err := provide.New(provide.Config{Store: r.store, Pins: r.pins})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	r.wantPins(t, 1)
	r.wantPin(t, volume(1), p)
	_, err = second.Provide(t.Context(), build(2, packages("curl")))
	wantKind(t, err, nixstore.ErrInvalid) // no evaluator
}

func TestNewTellsEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := provide.New(provide.Config{Limit: -1})
	for _, want := range []string{"no store", "no pins", "negative Limit"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error %v lacks %q", err, want)
		}
	}
}

func TestCloseEndsFlightsAndDropsTheirPins(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.define("endless", storetest.Recipe{Hangs: true})
	_, err := r.provideFor(t, 50*time.Millisecond, build(1, packages("endless")))
	wantKind(t, err, nixstore.ErrBusy)
	r.Close()
	r.wantPins(t, 0)
	_, err = r.Provide(t.Context(), build(1, packages("endless")))
	wantKind(t, err, nixstore.ErrUnavailable)
}

func TestRunningTellsWhatHappensWithoutCredentials(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		const flake = "git+https://me:s3cret@git.example.org/pkgs?token=s3cret#curl"
		r.define(flake, storetest.Recipe{Name: "curl", Hangs: true})
		src := nixstore.Source{Kind: nixstore.SourceFlake, Flake: flake}
		_, err := r.provideFor(t, time.Second, build(7, src))
		wantKind(t, err, nixstore.ErrBusy)
		running := r.Running()
		if len(running) != 1 || running[0].Progress.Phase != "building" || running[0].Holders[0] != "volumes/csi-7" {
			t.Fatalf("running: %+v", running)
		}
		want := `flake "git+https://git.example.org/pkgs#curl"`
		if running[0].Source != want || !strings.Contains(err.Error(), want) {
			t.Errorf("the flight is %s and the error %q, want %s", running[0].Source, err, want)
		}
		r.Close()
	})
}

func TestTheEndOfTheContextIsBusyWhereverItComes(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"hold", "registration", "realise", "build"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.define("slow", storetest.Recipe{})
				r.store.SetHook(takes(op, time.Hour))
				_, err := r.provideFor(t, time.Second, build(1, packages("slow")))
				wantKind(t, err, nixstore.ErrBusy)
				if errors.Is(err, context.DeadlineExceeded) {
					t.Error("the error is the context's too")
				}
				r.Close()
			})
		})
	}
}
