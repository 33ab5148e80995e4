package driver_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/closured/closured/driver/drivertest"
	"github.com/closured/closured/nixstore"
)

// TestRecover publishes one volume, lets something happen to it while no agent
// runs, and looks at what the sweep leaves.
func TestRecover(t *testing.T) {
	t.Parallel()
	podDir := func(n *drivertest.Node) string { return filepath.Join(n.KubeletDir, "pods", uid) }
	dropAll := func(n *drivertest.Node) error {
		var errs []error
		for _, p := range n.Pins.List(nixstore.HolderVolume) {
			errs = append(errs, n.Pins.Drop(p.Holder))
		}
		return errors.Join(errs...)
	}
	for _, row := range []struct {
		name   string
		happen func(*drivertest.Node) error
		want   string // kinds of state that are left, in order
	}{
		{"nothing", func(*drivertest.Node) error { return nil }, "folder layer mount pin"},
		{"a reboot", func(n *drivertest.Node) error { n.Views.Lose(); return nil }, "folder layer pin"},
		{"a reboot, and the pod is gone", func(n *drivertest.Node) error {
			n.Views.Lose()
			return os.RemoveAll(podDir(n))
		}, ""},
		{"the pin is lost", dropAll, ""},
		{"the pin is that of another agent", func(n *drivertest.Node) error {
			n.Views.Foreign = true
			return dropAll(n)
		}, "folder mount"}, // the fake's layers are all our own
		{"a stray pin", func(n *drivertest.Node) error {
			h := nixstore.Holder{Kind: nixstore.HolderVolume, Name: "stray"}
			return n.Pins.Put(h, drivertest.Root("curl"))
		}, "folder layer mount pin"},
		{"the pin names another root", func(n *drivertest.Node) error {
			var errs []error
			for _, p := range n.Pins.List(nixstore.HolderVolume) {
				errs = append(errs, n.Pins.Drop(p.Holder), n.Pins.Put(p.Holder, drivertest.Root("curl")))
			}
			return errors.Join(errs...)
		}, "layer pin"}, // kubelet still has the volume and publishes it again
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			req := n.Publish(t, uid, map[string]string{"packages": "redis", "writable": "true"})
			req.Readonly = false
			if _, err := n.Driver(t).NodePublishVolume(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			if err := row.happen(n); err != nil {
				t.Fatal(err)
			}
			n.Restart(t)
			if err := n.Driver(t).Recover(t.Context()); err != nil {
				t.Error(err)
			}
			var left []string
			for _, s := range n.State(t) {
				kind, _, _ := strings.Cut(s, " ")
				left = append(left, kind)
			}
			if got := strings.Join(left, " "); got != row.want {
				t.Errorf("left %q, want %q", got, row.want)
			}
		})
	}
}

func TestFault12PublishAfterARebootGivesTheSameClosureOffline(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	req := n.Publish(t, uid, redis())
	if _, err := n.Driver(t).NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	published := n.State(t)
	n.Views.Lose()
	n.Restart(t)
	var sources []nixstore.SourceKind
	n.Provider.Add("redis")
	n.Provider.Seen = func(req nixstore.Request) { sources = append(sources, req.Source.Kind) }
	d := n.Driver(t)
	if err := d.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := d.NodePublishVolume(t.Context(), req)
	expect(t, err, codes.OK, "")
	expectState(t, n, published)
	if len(sources) != 1 || sources[0] != nixstore.SourceStorePath {
		t.Errorf("the provider was asked for %v, want the store path of the pin only", sources)
	}
}

func TestPublishRealisesAgainWhatIsPinnedButGone(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	req := n.Publish(t, uid, redis())
	if _, err := n.Driver(t).NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	n.Views.Lose()
	n.Restart(t)
	n.Provider.Add("redis")
	n.Provider.Lost("redis")
	_, err := n.Driver(t).NodePublishVolume(t.Context(), req)
	expect(t, err, codes.OK, "")
	held := n.Pins.List(nixstore.HolderVolume)
	if len(held) != 1 || held[0].Root != drivertest.Root("redis-2") || n.Views.Mounts() != 1 {
		t.Errorf("%d mounts, pins %v", n.Views.Mounts(), held)
	}
}

func TestRecoverWithoutKubeletKeepsWhatIsMounted(t *testing.T) {
	t.Parallel()
	for _, noRoots := range []bool{false, true} {
		n := newNode(t)
		n.Views.NoRoots = noRoots
		cfg := n.Config()
		cfg.KubeletDir = ""
		d := mustNew(t, cfg)
		if _, err := d.NodePublishVolume(t.Context(), n.Publish(t, uid, redis())); err != nil {
			t.Fatal(err)
		}
		published := n.State(t)
		if err := d.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		expectState(t, n, published)
		n.Views.Lose()
		if err := d.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d.Volumes() != 0 {
			t.Error("the pin of a volume that is gone is left")
		}
	}
}

func TestRecoverWithoutMountTableTouchesNothing(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	req := n.Publish(t, uid, redis())
	d := n.Driver(t)
	if _, err := d.NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	published := n.State(t)
	n.Views.Hook = failAt("volumes", errors.New("reading /proc/self/mountinfo: input/output error"))
	if err := d.Recover(t.Context()); err == nil {
		t.Error("it does not say that it failed")
	}
	expectState(t, n, published)
}

func TestRecoverGoesOnAfterAFailure(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	d := n.Driver(t)
	for _, id := range []string{"a", "b", "c"} {
		if _, err := d.NodePublishVolume(t.Context(), n.Publish(t, id, redis())); err != nil {
			t.Fatal(err)
		}
	}
	n.Views.Lose()
	if err := os.RemoveAll(filepath.Join(n.KubeletDir, "pods")); err != nil {
		t.Fatal(err)
	}
	calls := 0
	n.Provider.Hook = func(string) error {
		if calls++; calls == 1 {
			return errors.New("input/output error")
		}
		return nil
	}
	if err := d.Recover(t.Context()); err == nil || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("got %v", err)
	}
	if left := d.Volumes(); left != 1 {
		t.Errorf("%d pins are left, want the one that failed", left)
	}
}

func TestRecoverKnowsAKubeletFolderThatIsASymlink(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	link := n.KubeletDir + "-link"
	if err := os.Symlink(n.KubeletDir, link); err != nil {
		t.Fatal(err)
	}
	n.KubeletDir = link // the mount table will hold the other path
	d := n.Driver(t)
	if _, err := d.NodePublishVolume(t.Context(), n.Publish(t, uid, redis())); err != nil {
		t.Fatal(err)
	}
	published := n.State(t)
	if err := d.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectState(t, n, published)
	for _, p := range n.Pins.List(nixstore.HolderVolume) {
		if err := n.Pins.Drop(p.Holder); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n.Views.Mounts() != 0 {
		t.Error("a mount without a pin is left")
	}
}
