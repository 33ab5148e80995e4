//go:build privileged

package integration_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/closured/closured/tests/agent"
)

func TestFault30TargetsThatMustNotBe(t *testing.T) { //nolint:tparallel // one agent, and each looks at what is left
	t.Parallel()
	n := start(t, agent.Config{PackageSet: packageSet(t, sourceSet), Args: offline()})
	outside := filepath.Join(n.Dir(), "outside")
	v := agent.Packages(1, "hello")
	good := n.Target(v)
	pods := filepath.Join(n.KubeletDir(), "pods")
	volumeDir := func(uid, volume string) string {
		return filepath.Join(pods, uid, "volumes", "kubernetes.io~csi", volume)
	}
	elsewhere := strings.Replace(good, n.KubeletDir(), outside, 1)
	for _, dir := range []string{
		outside, filepath.Dir(elsewhere), filepath.Dir(good), volumeDir(v.PodUID, "file"),
		volumeDir("00000000-0000-4000-8000-000000000002", "nix"), filepath.Join(pods, v.PodUID, "volumes", "other", "nix"),
	} {
		makeDir(t, dir)
	}
	writeFile(t, filepath.Join(volumeDir(v.PodUID, "file"), "mount"), "")
	// A pod's own folder that leads out, a target that does, and one that leads to another pod.
	link(t, outside, volumeDir(v.PodUID, "linked"))
	makeDir(t, volumeDir(v.PodUID, "last"))
	link(t, outside, filepath.Join(volumeDir(v.PodUID, "last"), "mount"))
	link(t, volumeDir("00000000-0000-4000-8000-000000000002", "nix"), volumeDir(v.PodUID, "neighbour"))
	target := func(path string, words ...string) inputCase {
		return inputCase{change: func(r *csi.NodePublishVolumeRequest) { r.TargetPath = path }, words: words}
	}
	tests := map[string]inputCase{
		"an empty one":                           target("", "target path is missing"),
		"one outside the kubelet folder":         target(elsewhere, "not one of kubelet's", "kubelet-dir", outside),
		"the kubelet folder itself":              target(n.KubeletDir(), "target path"),
		"a system folder":                        target("/etc", `"/etc"`, "kubelet-dir"),
		"the root":                               target("/", "target path"),
		"a relative one":                         target(strings.TrimPrefix(good, "/"), "absolute"),
		"traversal":                              target(n.KubeletDir()+"/pods/../../outside/mount", "clean"),
		"traversal that comes back":              target(filepath.Dir(good)+"/../nix/mount", "clean"),
		"a slash at the end":                     target(good+"/", "clean"),
		"a NUL":                                  target(good+"\x00", "NUL"),
		"a long one":                             target(good+strings.Repeat("/a", 4096), "too long"),
		"another plugin's":                       target(strings.Replace(good, "kubernetes.io~csi", "other", 1), "not one of kubelet's"),
		"another name at the end":                target(filepath.Join(filepath.Dir(good), "mounted"), "not one of kubelet's"),
		"the folder above":                       target(filepath.Dir(good), "not one of kubelet's"),
		"a folder with the kubelet's beginning":  target(n.KubeletDir()+"2"+strings.TrimPrefix(good, n.KubeletDir()), "kubelet-dir"),
		"another pod's":                          target(filepath.Join(volumeDir("00000000-0000-4000-8000-000000000002", "nix"), "mount"), "pod.uid"),
		"a symlink on the way":                   target(filepath.Join(volumeDir(v.PodUID, "linked"), "mount"), "symlink"),
		"a symlink on the way to another pod":    target(filepath.Join(volumeDir(v.PodUID, "neighbour"), "mount"), "symlink"),
		"a symlink at the end":                   target(filepath.Join(volumeDir(v.PodUID, "last"), "mount"), "symlink"),
		"a file at the end":                      target(filepath.Join(volumeDir(v.PodUID, "file"), "mount"), "not a folder"),
		"a volume that kubelet has not prepared": target(filepath.Join(volumeDir(v.PodUID, "missing"), "mount"), "does not exist"),
	}
	missing := tests["a volume that kubelet has not prepared"]
	missing.code = "NotFound"
	tests["a volume that kubelet has not prepared"] = missing
	tryTargets(t, n, tests)
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 { // what was made for the elsewhere case
		t.Errorf("outside there are %v, %v", entries, err)
	}
}

// tryTargets is tryInputs without its end, as the folders of the pod are odd on purpose.
func tryTargets(t *testing.T, n node, tests map[string]inputCase) {
	t.Helper()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			req := n.PublishRequest(agent.Packages(1, "hello"))
			test.change(req)
			code := test.code
			if code == "" {
				code = invalid
			}
			n.as(t).refusedRequest(req, code, test.words...)
		})
	}
	n.requireVolumes(0)
	n.requireIdle()
	v := agent.Packages(3, "hello")
	n.publish(v)
	n.unpublish(v)
}

func TestFault30RequestsThatAreNoVolume(t *testing.T) { //nolint:tparallel // one agent, and each looks at what is left
	t.Parallel()
	n := start(t, agent.Config{PackageSet: packageSet(t, sourceSet), Args: offline()})
	mount := func(m *csi.VolumeCapability_MountVolume) *csi.VolumeCapability {
		return &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: m}}
	}
	id := func(id string) func(*csi.NodePublishVolumeRequest) {
		return func(r *csi.NodePublishVolumeRequest) { r.VolumeId = id }
	}
	capability := func(c *csi.VolumeCapability) func(*csi.NodePublishVolumeRequest) {
		return func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability = c }
	}
	tryInputs(t, n, map[string]inputCase{
		"an empty id":           {change: id(""), words: []string{"volume id is missing"}},
		"an id with a slash":    {change: id("a/b"), words: []string{`"a/b"`, "character"}},
		"an id of dots":         {change: id(".."), words: []string{`".."`}},
		"an id that is a path":  {change: id("../../gcroots/x"), words: []string{"volume id"}},
		"an id like an option":  {change: id("--x"), words: []string{`"--x"`}},
		"an id with a NUL":      {change: id("a\x00"), words: []string{"volume id"}},
		"an id of two lines":    {change: id("a\nb"), words: []string{"volume id"}},
		"an id of 4 KiB":        {change: id(strings.Repeat("a", 4096)), words: []string{"longer than"}},
		"a block volume":        {change: capability(&csi.VolumeCapability{AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}}), words: []string{"block device", "volumeMounts"}},
		"no capability":         {change: capability(nil), words: []string{"capability is missing"}},
		"no access type":        {change: capability(&csi.VolumeCapability{}), words: []string{"no access type"}},
		"the mount option suid": {change: capability(mount(&csi.VolumeCapability_MountVolume{MountFlags: []string{"suid"}})), words: []string{"mount options"}},
	})
	for name, req := range map[string]*csi.NodeUnpublishVolumeRequest{
		"volume id is missing":   {TargetPath: n.Target(agent.Packages(1, ""))},
		"target path is missing": {VolumeId: "v"},
		"kubelet-dir":            {VolumeId: "v", TargetPath: "/etc"},
	} {
		_, err := n.Node().NodeUnpublishVolume(t.Context(), req)
		requireRefusal(t, err, invalid, name)
	}
}

// TestFault30SymlinksSwappedWhilePublishing: somebody who may rename in the pod's
// folders swaps one for a symlink all the time. Whatever the calls answer, nothing
// is ever mounted or made where the symlink leads.
func TestFault30SymlinksSwappedWhilePublishing(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{Args: offline()})
	v := agent.StorePath(1, n.textClosure(3, "swap"))
	n.publish(v) // so that the view is there, and calls are short
	n.unpublish(v)
	outside := filepath.Join(n.Dir(), "outside")
	for _, place := range []string{filepath.Dir(n.Target(v)), filepath.Join(n.KubeletDir(), "pods", v.PodUID)} {
		if err := n.Prepare(v); err != nil {
			t.Fatal(err)
		}
		trap := strings.Replace(filepath.Dir(n.Target(v)), place, outside, 1)
		makeDir(t, trap)
		stop := swapAllTheTime(t, place, outside)
		published := 0
		for i := range 300 {
			_, err := n.Node().NodePublishVolume(t.Context(), n.PublishRequest(v))
			if err == nil {
				published++
			}
			if i%3 == 2 {
				_, _ = n.Node().NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: v.ID(), TargetPath: n.Target(v)})
			}
			requireUntouched(t, outside, trap)
		}
		swaps := stop()
		t.Logf("%d of 300 publishes succeeded beside %d swaps", published, swaps)
		if published == 0 || swaps < 100 {
			t.Error("the race was no race")
		}
		n.unpublish(v)
		requireUntouched(t, outside, trap)
		n.requireNothing()
		if err := os.RemoveAll(outside); err != nil {
			t.Fatal(err)
		}
	}
}

func requireUntouched(t *testing.T, outside, trap string) {
	t.Helper()
	mounts, err := agent.MountsBelow(outside)
	if err != nil || len(mounts) > 0 {
		t.Fatalf("mounted outside: %q, %v", mounts, err)
	}
	if _, err := os.Lstat(filepath.Join(trap, "mount")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a folder was made outside: %v", err)
	}
}

// swapAllTheTime exchanges place and a symlink to outside until stop is called,
// which leaves place as it was and tells the number of exchanges.
func swapAllTheTime(t *testing.T, place, outside string) (stop func() int) {
	t.Helper()
	decoy := filepath.Join(filepath.Dir(outside), "decoy")
	link(t, outside, decoy)
	end := make(chan struct{})
	swaps := 0
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for swaps%2 == 1 || !isClosed(end) {
			err := unix.Renameat2(unix.AT_FDCWD, place, unix.AT_FDCWD, decoy, unix.RENAME_EXCHANGE)
			if err != nil {
				t.Errorf("swapping: %v", err)
				return
			}
			swaps++
		}
	})
	stop = sync.OnceValue(func() int {
		close(end)
		swapper.Wait()
		if err := os.Remove(decoy); err != nil {
			t.Errorf("the decoy is not the link any more: %v", err)
		}
		return swaps
	})
	t.Cleanup(func() { stop() })
	return stop
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func makeDir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at); err != nil {
		t.Fatal(fmt.Errorf("making the trap: %w", err))
	}
}
