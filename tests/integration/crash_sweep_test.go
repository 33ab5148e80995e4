//go:build privileged

package integration_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/tests/agent"
)

// TestFault10SweepAtStart makes a mess while no agent runs: what no pod has must go
// at the next start, and what a pod has must stay.
func TestFault10SweepAtStart(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{})
	root := n.textClosure(3, "sweep")
	kept, noPin, noMount, noPod := agent.StorePath(1, root), agent.StorePath(2, root), agent.StorePath(3, root), agent.StorePath(4, root)
	private := agent.StorePath(5, root)
	private.Attributes["writable"], private.Writable = "true", true
	for _, v := range []agent.Volume{kept, noPin, noMount, noPod, private} {
		n.publish(v)
	}
	stopReading := readAllTheTime(n, kept)
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	err := errors.Join(
		n.removePins(noPin),
		unix.Unmount(n.Target(noMount), 0), // as after a reboot: kubelet publishes it again
		unix.Unmount(n.Target(noPod), 0), os.RemoveAll(filepath.Join(n.KubeletDir(), "pods", noPod.PodUID)),
		unix.Unmount(n.Target(private), 0), os.RemoveAll(filepath.Join(n.KubeletDir(), "pods", private.PodUID)),
	)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}

	mounts, err := n.Volumes()
	if err != nil || len(mounts) != 1 || mounts[0] != n.Target(kept) {
		t.Errorf("after the sweep the mounts are %q (%v), want the kept one", mounts, err)
	}
	pins, err := n.Pins()
	if err != nil {
		t.Fatal(err)
	}
	for v, want := range map[*agent.Volume]int{&kept: 1, &noPin: 0, &noMount: 1, &noPod: 0, &private: 0} {
		if got := pinsOf(*v, pins); len(got) != want {
			t.Errorf("after the sweep the pins of %s are %q, want %d", v.Pod, got, want)
		}
	}
	layers, err := os.ReadDir(filepath.Join(n.StateDir(), "writable"))
	if err != nil || len(layers) > 0 {
		t.Errorf("private layers are left (%v): %v", err, layers)
	}
	n.publish(noMount)
	n.requireVolumes(2)
	stopReading()
	for _, v := range []agent.Volume{kept, noPin, noMount} {
		n.unpublish(v)
	}
	n.requireNothing()
}

// removePins removes a volume's pins by hand.
func (n node) removePins(v agent.Volume) error {
	pins, err := n.Pins()
	for _, p := range pinsOf(v, pins) {
		err = errors.Join(err, os.Remove(filepath.Join(n.StateDir(), "nix/var/nix/gcroots/closured/volumes", p)))
	}
	return err
}
