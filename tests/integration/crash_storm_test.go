//go:build privileged

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/closured/closured/tests/agent"
)

const (
	stormKills   = 20
	stormSlots   = 8 // pods that come and go all the time
	stormRetry   = 10 * time.Millisecond
	stormCalm    = 20 * time.Millisecond  // a kill comes at least so long after a start
	stormRage    = 500 * time.Millisecond // and at most so long
	stormSettled = time.Minute            // for the last calls to succeed
)

// TestFault07And08And10KillsAmidPublishesAndUnpublishes kills the agent again
// and again while pods come and go. After each restart mounts, pins and folders
// must agree with what callers were told, volumes that live must be readable all
// the time, and in the end nothing may be left.
func TestFault07And08And10KillsAmidPublishesAndUnpublishes(t *testing.T) {
	t.Parallel()
	var packages strings.Builder
	for i := range 60 {
		fmt.Fprintf(&packages, "p%d = run \"p%d\" \"sleep 0.3; mkdir $out; echo %d > $out/f\";\n", i, i, i)
	}
	n := start(t, agent.Config{PackageSet: packageSet(t, packages.String()), Binary: raceBinary(t)})
	s := newStorm(n)
	stopReading := readAllTheTime(n, s.live...)
	s.begin()
	for kill := range stormKills {
		time.Sleep(stormCalm + rand.N(stormRage-stormCalm))
		s.killAndRestart(kill)
	}
	s.end()
	stopReading()
	for _, v := range s.live {
		n.unpublish(v)
	}
	n.requireNothing()
	if err := n.Stop(); err != nil {
		t.Error(err)
	}
	requireClean(n)
}

// storm is pods that come and go, with what their kubelet was told.
type storm struct {
	node
	live   []agent.Volume // published all the time
	slots  []*slot
	calls  sync.RWMutex // read-locked by each call, locked while the node is looked at
	over   atomic.Bool
	worker sync.WaitGroup
	serial atomic.Int64
}

// slot is one pod after the other. Its fields change under the storm's calls.
type slot struct {
	volume  agent.Volume
	mounted bool // a publish was OK, and no unpublish was tried since
	gone    bool // an unpublish was OK, and no publish was tried since
}

func newStorm(n node) *storm {
	n.t.Helper()
	s := &storm{node: n}
	roots := []string{n.textClosure(5, "storm"), n.textClosure(40, "storm"), n.textClosure(1, "storm")}
	for i, root := range roots {
		v := agent.StorePath(900+i, root)
		n.publish(v)
		s.live = append(s.live, v)
	}
	for i := range stormSlots {
		v := agent.StorePath(i, roots[i%len(roots)])
		switch i {
		case 0, 1:
			v = agent.Packages(i, "") // to be built, another one each time
		case 2:
			v.Attributes["writable"], v.Writable = "true", true
		}
		s.slots = append(s.slots, &slot{volume: v, gone: true})
	}
	return s
}

func (s *storm) begin() {
	s.t.Cleanup(s.still)
	for _, sl := range s.slots {
		s.worker.Go(func() {
			for !s.over.Load() {
				s.cycle(sl)
			}
		})
	}
}

// cycle is the life of one pod, as kubelet leads it: publish until OK, then unpublish until OK.
func (s *storm) cycle(sl *slot) {
	if _, built := sl.volume.Attributes["packages"]; built {
		sl.volume.Attributes["packages"] = fmt.Sprintf("p%d", s.serial.Add(1)%60)
	}
	tries := rand.N(20) // some pods are deleted before they run
	for range tries {
		if s.call(sl, s.Publish, &sl.mounted, &sl.gone) {
			time.Sleep(rand.N(stormRetry))
			break
		}
	}
	for !s.call(sl, s.Unpublish, &sl.gone, &sl.mounted) && !s.over.Load() {
	}
}

// call makes one call and notes what it says about the volume.
func (s *storm) call(sl *slot, do func(context.Context, agent.Volume) error, yes, no *bool) bool {
	s.calls.RLock()
	*no = false
	err := do(s.t.Context(), sl.volume)
	*yes = err == nil
	if err != nil && agent.IsFinal(err) {
		s.t.Errorf("a call for the volume of %s: %v", sl.volume.Pod, err)
	}
	s.calls.RUnlock()
	if err != nil {
		time.Sleep(stormRetry)
	}
	return err == nil
}

// killAndRestart kills the agent amid its calls and looks at what the next one
// makes of that, before it gets a call.
func (s *storm) killAndRestart(round int) {
	s.t.Helper()
	before := processesOf(s.Dir())
	if err := s.Kill(); err != nil {
		s.t.Fatal(err)
	}
	s.calls.Lock()
	defer s.calls.Unlock()
	s.requirePinned()
	if err := s.Start(s.t.Context()); err != nil {
		s.t.Fatalf("starting after kill %d: %v", round, err)
	}
	eventually(s.t, 10*time.Second, "the end of the dead agent's processes", func() error {
		return noneOf(before, processes())
	})
	s.requireAgreement(round)
}

// requirePinned checks the order of steps, whenever an agent died: no mount may be
// without its pin, for a collector may come before the next agent.
func (s *storm) requirePinned() {
	s.t.Helper()
	mounts, err := s.Volumes()
	if err != nil {
		s.t.Fatal(err)
	}
	pins, err := s.Pins()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, sl := range s.slots {
		if slices.Contains(mounts, s.Target(sl.volume)) && len(pinsOf(sl.volume, pins)) == 0 {
			s.t.Errorf("the agent died with the volume of %s mounted and not pinned", sl.volume.Pod)
		}
	}
}

func noneOf(before, now []process) error {
	for _, p := range now {
		for _, b := range before {
			if b.pid == p.pid && b.started == p.started {
				return fmt.Errorf("process %s is still there", p)
			}
		}
	}
	return nil
}

// requireAgreement compares mounts and pins with each other and with what callers know.
func (s *storm) requireAgreement(round int) {
	s.t.Helper()
	mounts, err := s.Volumes()
	if err != nil {
		s.t.Fatal(err)
	}
	pins, err := s.Pins()
	if err != nil {
		s.t.Fatal(err)
	}
	known := map[string]bool{}
	for _, sl := range s.slots {
		s.requireTruth(round, sl, mounts, pins)
		known[s.Target(sl.volume)] = true
	}
	for _, v := range s.live {
		known[s.Target(v)] = true
		if len(pinsOf(v, pins)) != 1 {
			s.t.Errorf("kill %d: the live volume of %s has pins %q", round, v.Pod, pinsOf(v, pins))
		}
	}
	for _, m := range mounts {
		if !known[m] {
			s.t.Errorf("kill %d: nobody has the mount %s", round, m)
		}
	}
	if slices.Sort(mounts); len(slices.Compact(mounts)) != len(mounts) {
		s.t.Errorf("kill %d: mounts are stacked: %q", round, mounts)
	}
}

func (s *storm) requireTruth(round int, sl *slot, mounts, pins []string) {
	s.t.Helper()
	target := s.Target(sl.volume)
	mounted, pinned := slices.Contains(mounts, target), len(pinsOf(sl.volume, pins))
	_, err := os.Lstat(target)
	switch {
	case mounted && pinned != 1:
		s.t.Errorf("kill %d: %s is mounted with %d pins", round, sl.volume.Pod, pinned)
	case sl.mounted && !mounted:
		s.t.Errorf("kill %d: %s was published and is not mounted", round, sl.volume.Pod)
	case sl.gone && (mounted || pinned > 0 || !errors.Is(err, fs.ErrNotExist)):
		s.t.Errorf("kill %d: %s was unpublished; mounted: %t, pins: %d, target: %v", round, sl.volume.Pod, mounted, pinned, err)
	}
	if mounted {
		if files, err := readVolume(target); err != nil || files == 0 {
			s.t.Errorf("kill %d: the volume of %s shows %d files: %v", round, sl.volume.Pod, files, err)
		}
	}
}

func pinsOf(v agent.Volume, pins []string) []string {
	var found []string
	for _, p := range pins {
		if strings.HasPrefix(p, v.ID()+".") {
			found = append(found, p)
		}
	}
	return found
}

func (s *storm) still() {
	s.over.Store(true)
	s.worker.Wait()
}

// end lets the pods of the moment go, by calls that must succeed now.
func (s *storm) end() {
	s.t.Helper()
	s.still()
	for _, sl := range s.slots {
		ctx, cancel := context.WithTimeout(s.t.Context(), stormSettled)
		if err := s.PublishPatiently(ctx, sl.volume); err != nil {
			s.t.Errorf("after the storm, publishing the volume of %s: %v", sl.volume.Pod, err)
		}
		cancel()
	}
	s.requireVolumes(len(s.slots) + len(s.live))
	for _, sl := range s.slots {
		s.unpublish(sl.volume)
	}
}

// readAllTheTime reads all files of volumes again and again, until stop is called.
// Not one read may fail, nor a file be missing.
func readAllTheTime(n node, volumes ...agent.Volume) (stop func()) {
	n.t.Helper()
	var over atomic.Bool
	var readers sync.WaitGroup
	for _, v := range volumes {
		want, err := readVolume(n.Target(v))
		if err != nil {
			n.t.Fatal(err)
		}
		readers.Go(func() {
			for !over.Load() {
				if files, err := readVolume(n.Target(v)); err != nil || files != want {
					n.t.Errorf("the living volume of %s shows %d files, want %d: %v", v.Pod, files, want, err)
					return
				}
				time.Sleep(stormRetry)
			}
		})
	}
	stop = sync.OnceFunc(func() { over.Store(true); readers.Wait() })
	n.t.Cleanup(stop)
	return stop
}

// requireClean checks that a stopped agent, whose volumes are gone, has left
// neither mounts, nor private layers, nor loop devices.
func requireClean(n node) {
	n.t.Helper()
	mounts, err := agent.MountsBelow(n.Dir())
	if err != nil || len(mounts) > 0 {
		n.t.Errorf("mounts are left (%v): %q", err, mounts)
	}
	for _, dir := range []string{"writable", "linkviews"} {
		entries, err := os.ReadDir(filepath.Join(n.StateDir(), dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) || len(entries) > 0 {
			n.t.Errorf("in %s is left (%v): %v", dir, err, entries)
		}
	}
	// A mount namespace that was copied a moment ago keeps the file system for as long.
	eventually(n.t, 20*time.Second, "the end of all loop devices", func() error {
		loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
		for _, loop := range loops {
			if file, _ := os.ReadFile(loop); strings.HasPrefix(string(file), n.Dir()) {
				err = errors.Join(err, fmt.Errorf("%s shows %s", loop, file))
			}
		}
		return err
	})
}
