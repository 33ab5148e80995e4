package driver_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/driver"
	"github.com/closured/closured/driver/drivertest"
	"github.com/closured/closured/nixstore"
)

// told is a node whose driver tells events.
type told struct {
	*drivertest.Node

	events *drivertest.Events
	driver *driver.Driver
	begin  time.Time
}

// closures is one closure of two paths, whatever is asked for.
type closures struct{ err error }

func (c closures) Closure(_ context.Context, root nixstore.StorePath) (nixstore.Closure, error) {
	return nixstore.Closure{Root: root, Paths: []nixstore.PathInfo{
		{Path: root, NarSize: 1 << 20}, {Path: drivertest.Root("dependency"), NarSize: 3 << 19},
	}}, c.err
}

func newTold(t *testing.T) told {
	t.Helper()
	n := newNode(t)
	n2 := told{Node: n, events: &drivertest.Events{}, begin: time.Now()}
	cfg := n.Config()
	cfg.Events, cfg.Flights, cfg.Closures = n2.events, n.Provider, closures{}
	n2.driver = mustNew(t, cfg)
	return n2
}

// kubelet publishes as kubelet does: with two minutes for each call, and again
// and again, waiting half a second, then one, two, and so on up to two minutes.
func (n told) kubelet(ctx context.Context, req *csi.NodePublishVolumeRequest, calls int) (err error) {
	const longest = 2*time.Minute + 2*time.Second
	wait := 500 * time.Millisecond
	for range calls {
		call, cancel := context.WithTimeout(ctx, 2*time.Minute)
		_, err = n.driver.NodePublishVolume(call, req)
		cancel()
		if err == nil {
			return nil
		}
		time.Sleep(wait)
		wait = min(2*wait, longest)
	}
	return err
}

// story gives reasons with the time since the beginning.
func (n told) story() []string {
	var all []string
	for _, e := range n.events.All() {
		all = append(all, fmt.Sprintf("%s %s", e.At.Sub(n.begin).Round(time.Second), e.Reason))
	}
	return all
}

func (n told) expectStory(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, n.story()); diff != "" {
		t.Errorf("the story (-want +got):\n%s", diff)
	}
}

func TestEventsOfABuildThatKubeletAsksForTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newTold(t)
		finish := n.Provider.AddSlow("slow")
		time.AfterFunc(3*time.Minute, finish)
		time.AfterFunc(time.Second, func() {
			n.Provider.SetProgress("slow", nixstore.Progress{
				Phase: "building", What: "hello-2.12", Done: 12, Total: 40, Bytes: 3 << 20,
			})
		})
		if err := n.kubelet(t.Context(), n.Publish(t, uid, map[string]string{"packages": "slow"}), 5); err != nil {
			t.Fatal(err)
		}
		n.expectStory(t, "0s ClosureRealising", "1m0s ClosureProgress", "2m0s ClosureProgress", "3m0s ClosureReady")
		var notes []string
		for _, e := range n.events.All() {
			notes = append(notes, e.Note)
			if e.Pod.Name != "pod-"+uid || e.Pod.Namespace != "default" || e.Pod.UID != uid || e.Warning {
				t.Errorf("told %+v", e)
			}
		}
		if diff := cmp.Diff([]string{
			"volume nix: realising packages slow, the pod starts when that is done",
			"volume nix: still building after 1m, 12 of 40 paths done, 3.0 MiB fetched, now hello-2.12",
			"volume nix: still building after 2m, 12 of 40 paths done, 3.0 MiB fetched, now hello-2.12",
			"volume nix: 00000000000000000000000000000000-slow is mounted after 3m: 2 paths, 2.5 MiB",
		}, notes); diff != "" {
			t.Errorf("notes (-want +got):\n%s", diff)
		}
	})
}

func TestEventsOfALongBuild(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newTold(t)
		time.AfterFunc(75*time.Minute, n.Provider.AddSlow("slow"))
		if err := n.kubelet(t.Context(), n.Publish(t, uid, map[string]string{"packages": "slow"}), 100); err != nil {
			t.Fatal(err)
		}
		var minutes []int
		for _, e := range n.events.All() {
			minutes = append(minutes, int(e.At.Sub(n.begin).Minutes()))
		}
		// Within the two minutes and a bit for which kubelet may pause.
		want := []int{0, 1, 2, 5, 10, 40, 70, 75}
		if !slices.EqualFunc(minutes, want, func(got, want int) bool { return got >= want && got <= want+2 }) {
			t.Errorf("told at minutes %d, want %d", minutes, want)
		}
	})
}

func TestWarmPublishesTellNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newTold(t)
		n.Views.Hook = func(step string) error {
			if step == "mount" {
				time.Sleep(time.Minute) // not for the closure
			}
			return nil
		}
		for i := range 3 {
			req := n.Publish(t, fmt.Sprint(uid, i), redis())
			for range 2 {
				_, err := n.driver.NodePublishVolume(t.Context(), req)
				expect(t, err, codes.OK, "")
			}
		}
		n.expectStory(t)
	})
}

func TestAPodThatJoinsIsToldSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newTold(t)
		time.AfterFunc(150*time.Second, n.Provider.AddSlow("slow"))
		first := n.Publish(t, uid, map[string]string{"packages": "slow"})
		second := n.Publish(t, uid+"-2", map[string]string{"packages": "slow"})
		errs := make(chan error, 2)
		go func() { errs <- n.kubelet(t.Context(), first, 5) }()
		time.Sleep(70 * time.Second)
		go func() { errs <- n.kubelet(t.Context(), second, 5) }()
		if err := errors.Join(<-errs, <-errs); err != nil {
			t.Fatal(err)
		}
		var joined []string
		for _, e := range n.events.All() {
			if e.Pod.UID == uid+"-2" {
				joined = append(joined, e.Reason+": "+e.Note)
			}
		}
		if diff := cmp.Diff([]string{
			"ClosureRealising: volume nix: realising packages slow, the pod starts when that is done; the work is shared and has been running for 1m10s",
			"ClosureProgress: volume nix: still realising after 2m",
			"ClosureReady: volume nix: 00000000000000000000000000000000-slow is mounted after 2m30s: 2 paths, 2.5 MiB",
		}, joined); diff != "" {
			t.Errorf("the second pod's events (-want +got):\n%s", diff)
		}
	})
}

func TestAFailureIsToldOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newTold(t)
		broken := func(line string) *nixstore.Failure {
			f := nixstore.Fail(nixstore.ErrBuild, "read the log", "the builder of hello failed with exit code 1")
			f.Log = []string{"checking for gcc", line}
			return f
		}
		end := n.Provider.AddEnding("hello")
		time.AfterFunc(90*time.Second, func() { end(broken("make: *** [all] Error 2 after 3.1 s")) })
		req := n.Publish(t, uid, map[string]string{"packages": "hello"})
		if err := n.kubelet(t.Context(), req, 8); status.Code(err) != codes.FailedPrecondition {
			t.Fatal(err)
		}
		n.expectStory(t, "0s ClosureRealising", "1m0s ClosureProgress", "1m30s ClosureFailed")
		failed := n.events.All()[2]
		want := "volume nix: the builder of hello failed with exit code 1; next: read the log; " +
			"log: checking for gcc | make: *** [all] Error 2 after 3.1 s"
		if failed.Note != want || !failed.Warning {
			t.Errorf("told %+v, want %q", failed, want)
		}

		// The next try: its start is no news, nor is the same failure.
		end = n.Provider.AddEnding("hello")
		time.AfterFunc(10*time.Second, func() { end(broken("make: *** [all] Error 2 after 2.9 s")) })
		_ = n.kubelet(t.Context(), req, 1)
		if len(n.events.All()) != 3 {
			t.Errorf("told again: %q", n.story())
		}
		time.Sleep(30 * time.Minute)
		_ = n.kubelet(t.Context(), req, 1)
		if all := n.events.All(); len(all) != 4 || all[3].Reason != driver.ReasonFailed {
			t.Errorf("after half an hour: %q", n.story())
		}
		n.Provider.Add("hello")
		if err := n.kubelet(t.Context(), req, 1); err != nil {
			t.Fatal(err)
		}
		if all := n.events.All(); len(all) != 5 || all[4].Reason != driver.ReasonReady {
			t.Errorf("after the repair: %q", n.story())
		}
	})
}

func TestAFailedMountIsTold(t *testing.T) {
	t.Parallel()
	n := newTold(t)
	n.Views.Hook = failAt("mount", nixstore.Fail(nixstore.ErrNoSpace, "free some", "the disk is full"))
	_, err := n.driver.NodePublishVolume(t.Context(), n.Publish(t, uid, redis()))
	expect(t, err, codes.ResourceExhausted, "the disk is full")
	if all := n.events.All(); len(all) != 1 || all[0].Note != "volume nix: the disk is full; next: free some" {
		t.Errorf("told %+v", all)
	}
}

func TestAnUnpublishedVolumeIsNotToldOf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newTold(t)
		finish := n.Provider.AddSlow("slow")
		req := n.Publish(t, uid, map[string]string{"packages": "slow"})
		published := make(chan error, 1)
		go func() { published <- n.kubelet(t.Context(), req, 1) }()
		time.Sleep(30 * time.Second)
		_, err := n.driver.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req))
		expect(t, err, codes.OK, "")
		<-published
		time.Sleep(10 * time.Minute)
		n.expectStory(t, "0s ClosureRealising")

		finish()
		expect(t, n.kubelet(t.Context(), req, 1), codes.OK, "") // warm, and the story is over
		n.expectStory(t, "0s ClosureRealising")
	})
}

func TestAPodThatNobodyKnowsIsNotTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newTold(t)
		cfg := n.Config()
		cfg.KubeletDir, cfg.Events, cfg.Flights = "", n.events, n.Provider
		n.driver = mustNew(t, cfg)
		req := n.Publish(t, uid, map[string]string{"packages": "missing"})
		delete(req.GetVolumeContext(), "csi.storage.k8s.io/pod.uid")
		_, err := n.driver.NodePublishVolume(t.Context(), req)
		expect(t, err, codes.NotFound, "")
		n.expectStory(t)
	})
}

func TestAnEventWithoutTheStoreHasNoSize(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newTold(t)
		cfg := n.Config()
		cfg.Events, cfg.Flights, cfg.Closures = n.events, n.Provider, closures{errors.New("the database is busy")}
		n.driver = mustNew(t, cfg)
		time.AfterFunc(400*time.Millisecond, n.Provider.AddSlow("slow"))
		expect(t, n.kubelet(t.Context(), n.Publish(t, uid, map[string]string{"packages": "slow"}), 1), codes.OK, "")
		if all := n.events.All(); len(all) != 2 || all[1].Note != "volume nix: 00000000000000000000000000000000-slow is mounted after 400ms" {
			t.Errorf("told %+v", all)
		}
	})
}

// TestFault56NotesAreShort gives a failure everything that could make a note long.
func TestFault56NotesAreShort(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]*nixstore.Failure{
		"a long log":       {Cause: "it failed", Next: "read", Log: slices.Repeat([]string{strings.Repeat("ä", 90)}, 100)},
		"a long cause":     {Cause: strings.Repeat("日本", 5000), Next: "read"},
		"both":             {Cause: strings.Repeat("日本", 5000), Log: []string{strings.Repeat("€", 5000), "the end"}},
		"a log of one":     {Cause: "x", Log: []string{strings.Repeat("€", 5000) + "the end"}},
		"bytes of no text": {Cause: "x\xff\x00\x1b[2J", Log: []string{"\xff\n\x07", strings.Repeat("\xfe", 3000)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newTold(t)
			f.Kind = nixstore.ErrBuild
			n.Provider.AddEnding("hello")(f)
			_, err := n.driver.NodePublishVolume(t.Context(), n.Publish(t, uid, map[string]string{"packages": "hello"}))
			expect(t, err, codes.FailedPrecondition, "")
			all := n.events.All()
			if len(all) != 1 {
				t.Fatalf("told %+v", all)
			}
			note := all[0].Note
			if len(note) > 1000 || !utf8.ValidString(note) || strings.ContainsAny(note, "\n\x00\x1b\x07") {
				t.Errorf("the note has %d bytes: %q", len(note), note)
			}
			if last := f.Log; len(last) > 0 && strings.HasSuffix(last[len(last)-1], "the end") && !strings.HasSuffix(note, "the end") {
				t.Errorf("the end of the log is cut off: %q", note)
			}
		})
	}
}

// TestFault47CanaryInEvents lets secrets come from wherever texts come.
func TestFault47CanaryInEvents(t *testing.T) {
	t.Parallel()
	const canary = "hunter2canary"
	url := "https://user:" + canary + "@cache.example.org/nar"
	synctest.Test(t, func(t *testing.T) {
		n := newTold(t)
		end := n.Provider.AddEnding("hello")
		time.AfterFunc(time.Second, func() {
			n.Provider.SetProgress("hello", nixstore.Progress{Phase: "fetching", What: url})
		})
		time.AfterFunc(90*time.Second, func() {
			f := nixstore.Fail(nixstore.ErrBuild, "look at "+url, "cannot fetch %s", url)
			f.Log = []string{
				"-----BEGIN RSA PRIVATE KEY-----", canary, "-----END RSA PRIVATE KEY-----",
				"curl -H 'Authorization: Bearer " + canary + "'", strings.Repeat("x ", 2000), "password=" + canary,
			}
			end(fmt.Errorf("realising: %w", f))
		})
		req := n.Publish(t, uid, map[string]string{"packages": "hello"})
		req.VolumeContext["csi.storage.k8s.io/serviceAccount.tokens"] = `{"":{"token":"` + canary + `"}}`
		req.Secrets = map[string]string{"password": canary}
		_ = n.kubelet(t.Context(), req, 3)

		m := newTold(t)
		m.Provider.AddEnding("hello")(errors.New("odd: " + url))
		_, _ = m.driver.NodePublishVolume(t.Context(), m.Publish(t, uid, map[string]string{"packages": "hello"}))

		all := append(n.events.All(), m.events.All()...)
		if len(all) != 4 {
			t.Errorf("the test looks at too little: %+v", all)
		}
		for _, e := range all {
			if strings.Contains(e.Note, canary) {
				t.Errorf("%s tells the secret: %s", e.Reason, e.Note)
			}
		}
	})
}

// BenchmarkWarmPublish shows what telling events costs a publish that tells none.
func BenchmarkWarmPublish(b *testing.B) {
	for _, events := range []bool{false, true} {
		b.Run(fmt.Sprintf("events=%t", events), func(b *testing.B) {
			n := drivertest.NewNode(b)
			n.Provider.Add("redis")
			cfg := n.Config()
			if events {
				cfg.Events, cfg.Flights = &drivertest.Events{}, n.Provider
			}
			d, err := driver.New(cfg)
			if err != nil {
				b.Fatal(err)
			}
			req := n.Publish(b, uid, redis())
			for b.Loop() {
				if _, err := d.NodePublishVolume(b.Context(), req); err != nil {
					b.Fatal(err)
				}
				if _, err := d.NodeUnpublishVolume(b.Context(), drivertest.Unpublish(req)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
