//go:build privileged

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/tests/agent"
)

// smallDisk mounts an ext4 of megabytes MiB and gives a folder on it for an agent.
func smallDisk(t *testing.T, megabytes int, mkfs ...string) (agentDir string) {
	t.Helper()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	image, at := filepath.Join(dir, "i"), filepath.Join(dir, "m")
	makeDir(t, at)
	for _, args := range [][]string{
		{"truncate", "-s", strconv.Itoa(megabytes) + "M", image},
		append(append([]string{"mkfs.ext4", "-q", "-m", "0"}, mkfs...), image),
		{"mount", "-o", "loop", image, at},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	agentDir = filepath.Join(at, "a")
	makeDir(t, agentDir)
	return agentDir
}

// fill takes all space of dir's disk but keep bytes, and gives how to free it.
func fill(t *testing.T, dir string, keep int64) (free func()) {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	file, err := os.OpenFile(ballast, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if err := unix.Syncfs(int(file.Fd())); err != nil { // what is written later is not counted yet
		t.Fatal(err)
	}
	var stat syscall.Statfs_t
	if err := syscall.Fstatfs(int(file.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	err = syscall.Fallocate(int(file.Fd()), 0, 0, int64(stat.Bavail)*stat.Bsize-keep)
	if keep > 0 && err != nil {
		t.Fatal(err)
	}
	if keep == 0 { // the last blocks one by one: some may have gone meanwhile
		for err = nil; err == nil; {
			_, err = file.Write(make([]byte, stat.Bsize))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	return func() { remove(t, ballast) }
}

// fillInodes takes all inodes of dir's disk but keep.
func fillInodes(t *testing.T, dir string, keep int) (free func()) {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	makeDir(t, ballast)
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		t.Fatal(err)
	}
	for i := range int(stat.Ffree) - keep {
		writeFile(t, filepath.Join(ballast, strconv.Itoa(i)), "")
	}
	return func() { remove(t, ballast) }
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// requireFull publishes v, which the disk has no room for, and checks all that
// must hold then: the answer, that the agent lives, and that neither a mount nor
// half a path is there.
func (n node) requireFull(v agent.Volume) {
	n.t.Helper()
	err := n.Publish(n.t.Context(), v)
	requireRefusal(n.t, err, codes.ResourceExhausted.String(), "disk", "full", "free space")
	if agent.IsFinal(err) {
		n.t.Error("kubelet would not come again")
	}
	if _, err := os.Lstat(n.Target(v)); err == nil {
		n.t.Error("there is something at the target")
	}
	if _, err := n.Identity().Probe(n.t.Context(), &csi.ProbeRequest{}); err != nil {
		n.t.Errorf("the agent after a full disk: %v", err)
	}
	n.requireIdle()
}

// tryFull has a volume mounted, lets another fail on the full disk, unpublishes
// the first, and gets both when space is free again.
func tryFull(t *testing.T, n node, filled agent.Volume, fill func() (free func())) {
	t.Helper()
	there := agent.StorePath(1, n.textClosure(5, "there"))
	n.publish(there)
	free := fill()
	n.requireFull(filled)
	n.requireClosure(there, there.Attributes["storePath"])
	n.publish(there) // again, as kubelet does after its restart
	mounts, err := n.Volumes()
	if err != nil || len(mounts) != 1 {
		t.Errorf("%d mounts, %v", len(mounts), err)
	}
	n.unpublish(there)
	n.unpublish(filled) // gives up: nothing may be left
	n.requireNothing()
	n.requireFull(filled) // the same again
	free()
	n.publish(filled)
	n.requireClosure(filled, n.result(filled))
	n.unpublish(filled)
	n.requireNothing()
	n.nix("nix-store", "--verify", "--check-contents")
}

func TestFault20DiskFullWhileSubstituting(t *testing.T) {
	t.Parallel()
	c := newCacheServer(t)
	root := c.add(t, c.right, "full")[0] // with busybox of 2 MiB
	dir := smallDisk(t, 64)
	n := start(t, agent.Config{Dir: dir, Args: c.flags()})
	tryFull(t, n, agent.StorePath(2, root), func() func() { return fill(t, dir, 1<<20) })
}

func TestFault20DiskFullWhileBuilding(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, 64)
	n := start(t, agent.Config{Dir: dir, Args: offline(), PackageSet: packageSet(t, `
  small = run "small" "echo > $out";
  big = run "big" "head -c 20000000 /dev/zero > $out";
`)})
	small := agent.Packages(3, "small") // brings the shell
	n.publish(small)
	n.unpublish(small)
	tryFull(t, n, agent.Packages(2, "big"), func() func() { return fill(t, dir, 8<<20) })
}

func TestFault21InodesExhausted(t *testing.T) {
	t.Parallel()
	c := newCacheServer(t)
	root := c.add(t, c.right, "inodes")[0] // busybox has some 400 links
	dir := smallDisk(t, 96, "-N", "1024")
	n := start(t, agent.Config{Dir: dir, Args: c.flags()})
	tryFull(t, n, agent.StorePath(2, root), func() func() { return fillInodes(t, dir, 100) })
}

// TestFault20NotOneByteFree: with no room even for a pin's folder or a log, the
// agent answers, and what is mounted can be unmounted.
func TestFault20NotOneByteFree(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, 64)
	n := start(t, agent.Config{Dir: dir, Args: offline()})
	var mounted []agent.Volume
	for i := range 3 {
		v := agent.StorePath(i, n.textClosure(3, fmt.Sprint("mounted", i)))
		n.publish(v)
		mounted = append(mounted, v)
	}
	writable := mounted[0]
	writable.PodUID, writable.Pod, writable.Writable = "00000000-0000-4000-8000-00000000000f", "pod-w", true
	writable.Attributes = map[string]string{"storePath": mounted[0].Attributes["storePath"], "writable": "true", "sizeLimit": "4Mi"}
	if err := n.Prepare(writable); err != nil {
		t.Fatal(err)
	}
	free := fill(t, dir, 0)
	if err := os.WriteFile(filepath.Join(dir, "more"), make([]byte, 8192), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	err := n.Publish(t.Context(), writable)
	if code := status.Code(err); err != nil && code != codes.ResourceExhausted {
		t.Errorf("a writable volume on a full disk gives %v", err)
	}
	n.unpublish(writable)
	for _, v := range mounted {
		n.requireClosure(v, v.Attributes["storePath"])
		n.unpublish(v)
	}
	n.requireNothing()
	if err := n.Restart(context.WithoutCancel(t.Context())); err != nil {
		t.Errorf("the agent does not start on a full disk: %v", errors.Unwrap(err))
	}
	free()
	eventually(t, 30*time.Second, "a publish after space was freed", func() error { return n.Publish(t.Context(), mounted[1]) })
	n.unpublish(mounted[1])
}
