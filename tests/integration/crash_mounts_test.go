//go:build privileged

package integration_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/tests/agent"
)

// requireGone checks that nothing of a volume is left at its target.
func (n node) requireGone(v agent.Volume) {
	n.t.Helper()
	if _, err := os.Lstat(n.Target(v)); !errors.Is(err, fs.ErrNotExist) {
		n.t.Errorf("looking at the target of %s after unpublish: %v, want that it does not exist", v.Pod, err)
	}
}

func mountTmpfs(t *testing.T, at string) {
	t.Helper()
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
}

// TestFault26BusyUnmount unpublishes a volume of which a process of the host has a
// file open.
func TestFault26BusyUnmount(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{})
	v := agent.StorePath(1, n.textClosure(3, "busy"))
	n.publish(v)
	open, err := os.Open(filepath.Join(n.Target(v), "var/closure.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	if err := unix.Unmount(n.Target(v), unix.UMOUNT_NOFOLLOW); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("the volume is not busy: %v", err)
	}
	n.unpublish(v)
	n.requireGone(v)
	n.requireNothing()
	if _, err := open.Read(make([]byte, 1)); err != nil {
		t.Errorf("what was open cannot be read any more: %v", err)
	}
}

// TestFault27TargetRemovedByHand takes volumes away under the agent in three ways.
func TestFault27TargetRemovedByHand(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{})
	root := n.textClosure(3, "hand")
	byHand := map[string]func(target string) error{
		"the mount": func(target string) error { return unix.Unmount(target, 0) },
		"the mount and the target": func(target string) error {
			return errors.Join(unix.Unmount(target, 0), os.Remove(target))
		},
		"the mount and the pod's folder": func(target string) error {
			return errors.Join(unix.Unmount(target, 0), os.RemoveAll(filepath.Join(target, "../../../..")))
		},
	}
	for what, remove := range byHand {
		v := agent.StorePath(1, root)
		n.publish(v)
		if err := remove(n.Target(v)); err != nil {
			t.Fatal(err)
		}
		n.publish(v) // repairs
		if files, err := readVolume(n.Target(v)); err != nil || files != 4 {
			t.Errorf("published again after %s was removed, the volume shows %d files (%v), want 3 and closure.json", what, files, err)
		}
		n.requireVolumes(1)
		if err := remove(n.Target(v)); err != nil {
			t.Fatal(err)
		}
		n.unpublish(v)
		n.requireGone(v)
		n.requireNothing()
	}
}

// TestFault28StackedMounts publishes where something is mounted already, and
// unpublishes what was mounted over.
func TestFault28StackedMounts(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{})
	v := agent.StorePath(1, n.textClosure(3, "stack"))
	if err := os.MkdirAll(n.Target(v), 0o750); err != nil {
		t.Fatal(err)
	}
	mountTmpfs(t, n.Target(v))
	if err := n.Publish(t.Context(), v); status.Code(err) != codes.AlreadyExists {
		t.Errorf("publishing over a foreign mount is answered with %v, want AlreadyExists", err)
	}
	if mounts, err := n.Volumes(); err != nil || len(mounts) != 1 {
		t.Errorf("after the refusal there are the mounts %q (%v), want the foreign one", mounts, err)
	}
	if pins, err := n.Pins(); err != nil || len(pins) != 0 {
		t.Errorf("after the refusal there are the pins %q (%v)", pins, err)
	}
	if err := unix.Unmount(n.Target(v), 0); err != nil {
		t.Fatal(err)
	}

	n.publish(v)
	n.publish(v)
	n.requireVolumes(1)
	for range 3 {
		mountTmpfs(t, n.Target(v))
	}
	n.unpublish(v)
	n.requireGone(v)
	n.requireNothing()
}
