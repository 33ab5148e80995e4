package driver_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/closured/closured/driver"
	"github.com/closured/closured/nixstore"
)

// described is the one image default/tool.
type described struct {
	mu    sync.Mutex // guards what follows
	why   string     // what it waits for; empty: it is there
	stuck bool
}

func (d *described) set(why string, stuck bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.why, d.stuck = why, stuck
}

// Waiting implements driver.Images.
func (d *described) Waiting(name string) (string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.why, name == "default/tool" && d.why != "" && !d.stuck
}

// ask waits 30 s for it, or 2 s when that needs a hand, as package niximages does.
func (d *described) ask() error {
	const patience, short = 30 * time.Second, 2 * time.Second
	for begin := time.Now(); ; time.Sleep(time.Second) {
		d.mu.Lock()
		why, stuck := d.why, d.stuck
		d.mu.Unlock()
		switch waited := time.Since(begin); {
		case why == "":
			return nil
		case waited >= patience, stuck && waited >= short:
			return nixstore.Fail(nixstore.ErrUnavailable, "kubectl describe niximage", "the NixImage default/tool is not ready: %s", why)
		}
	}
}

func newWaiting(t *testing.T) (told, *described) {
	t.Helper()
	n, images := newTold(t), &described{}
	n.Provider.Hook = func(step string) error {
		if step == "provide" {
			return images.ask()
		}
		return nil
	}
	cfg := n.Config()
	cfg.Events, cfg.Flights, cfg.Images = n.events, n.Provider, images
	n.driver = mustNew(t, cfg)
	return n, images
}

func tool() map[string]string { return map[string]string{"image": "tool"} }

func TestAVolumeThatWaitsForItsImageIsToldSoOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n, images := newWaiting(t)
		images.set("Scheduling: x86_64-linux: no node yet", false)
		time.AfterFunc(40*time.Second, func() { images.set("Realising: x86_64-linux: node-a", false) })
		time.AfterFunc(5*time.Minute, func() { images.set("", false) })
		time.AfterFunc(8*time.Minute, n.Provider.AddSlow("tool")) // from the node that has it
		if err := n.kubelet(t.Context(), n.Publish(t, uid, tool()), 20); err != nil {
			t.Fatal(err)
		}
		all := n.events.All()
		want := "volume nix: waiting for the NixImage default/tool: Scheduling: x86_64-linux: no node yet"
		if len(all) == 0 || all[0].Reason != driver.ReasonWaiting || all[0].Warning || all[0].Note != want {
			t.Fatalf("told %+v, want %q", all, want)
		}
		var reasons []string
		for _, e := range all {
			reasons = append(reasons, e.Reason)
		}
		if len(all) < 3 || reasons[1] != driver.ReasonRealising || reasons[len(all)-1] != driver.ReasonReady {
			t.Errorf("the story is %q", n.story())
		}
		for _, e := range all[1:] {
			if e.Warning || e.Reason == driver.ReasonWaiting {
				t.Errorf("told %+v", e)
			}
		}
	})
}

func TestAnImageThatIsThereAtOnceIsNoStory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n, _ := newWaiting(t)
		n.Provider.Add("tool")
		_, err := n.driver.NodePublishVolume(t.Context(), n.Publish(t, uid, tool()))
		expect(t, err, codes.OK, "")
		n.expectStory(t)
	})
}

func TestAnImageThatNeedsAHandIsAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n, images := newWaiting(t)
		images.set("BuildFailed: curl", true)
		_ = n.kubelet(t.Context(), n.Publish(t, uid, tool()), 3)
		n.expectStory(t, "2s ClosureFailed")
	})
}

// TestAMountedVolumeOfAnImageNeedsNoAPIServer has the agent begin anew while
// nobody knows what the image stands for, and kubelet publish again, as it does for
// pods that run.
func TestAMountedVolumeOfAnImageNeedsNoAPIServer(t *testing.T) {
	t.Parallel()
	n, _ := newWaiting(t)
	n.Provider.Add("tool")
	req := n.Publish(t, uid, tool())
	_, err := n.driver.NodePublishVolume(t.Context(), req)
	expect(t, err, codes.OK, "")
	provided := n.Provider.Provided()

	n.Provider.Hook = failAt("provide", nixstore.Fail(nixstore.ErrUnavailable, "wait", "NixImages are not known yet: the API server has not answered"))
	cfg := n.Config()
	cfg.Events, cfg.Flights, cfg.Images = n.events, n.Provider, &described{why: "the API server"}
	again := mustNew(t, cfg)
	if err := again.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = again.NodePublishVolume(t.Context(), req)
	expect(t, err, codes.OK, "")
	if now := n.Provider.Provided(); now != provided {
		t.Errorf("the closure was asked for %d times more", now-provided)
	}
	n.expectStory(t)
	_, err = again.NodePublishVolume(t.Context(), n.Publish(t, uid+"-2", tool()))
	expect(t, err, codes.Unavailable, "NixImages are not known yet")
}
