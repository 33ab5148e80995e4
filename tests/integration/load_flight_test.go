//go:build privileged

package integration_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/tests/agent"
)

// watchEvery is how often a watch looks for builders, which live for seconds.
const watchEvery = 50 * time.Millisecond

// watch looks for the builders of a derivation until stop, which gives how many
// different ones there were.
func watch(t *testing.T, name string) (stop func() int) {
	t.Helper()
	seen := map[string]bool{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			for _, p := range builders("name=" + name) {
				seen[fmt.Sprint(p.pid, " ", p.started)] = true
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(watchEvery):
			}
		}
	}()
	stop = func() int { cancel(); <-done; return len(seen) }
	t.Cleanup(func() { stop() })
	return stop
}

// requireWork checks how many evaluations and realisations the agent has started.
func (n node) requireWork(evaluations, realisations float64) {
	n.t.Helper()
	e, r := n.metric("closured_evaluations_total"), n.metric("closured_realisations_total")
	if e != evaluations || r != realisations {
		n.t.Errorf("the agent counts %v evaluations and %v realisations, want %v and %v", e, r, evaluations, realisations)
	}
}

// TestFault02FiftyPodsOneBuild publishes the same cold closure for fifty pods at once.
func TestFault02FiftyPodsOneBuild(t *testing.T) {
	t.Parallel()
	const pods = 50
	n := start(t, agent.Config{
		PackageSet: packageSet(t, `herd = run "herd" "sleep 4; mkdir $out; echo herd > $out/f";`),
		Binary:     raceBinary(t),
	})
	built := watch(t, "herd")
	var all sync.WaitGroup
	for i := range pods {
		all.Go(func() {
			if err := n.Publish(t.Context(), agent.Packages(i, "herd")); err != nil {
				t.Errorf("publishing for pod %d: %v", i, err)
			}
		})
	}
	all.Wait()
	if got := built(); got != 1 {
		t.Errorf("there were %d builders, want 1", got)
	}
	n.requireWork(1, 1)
	n.requireVolumes(pods)
	if views := n.metric("closured_views"); views != 1 {
		t.Errorf("there are %v views, want 1", views)
	}
	for i := range pods {
		requireFile(t, filepath.Join(n.Target(agent.Packages(i, "herd")), "var/result"), "herd\n")
	}
	for i := range pods {
		all.Go(func() {
			if err := n.Unpublish(t.Context(), agent.Packages(i, "herd")); err != nil {
				t.Errorf("unpublishing for pod %d: %v", i, err)
			}
		})
	}
	all.Wait()
	n.requireNothing()
}

// requireFile checks the file f of the root that the link of a volume names.
func requireFile(t *testing.T, link, want string) {
	t.Helper()
	root, err := os.Readlink(link)
	if err != nil {
		t.Error(err)
		return
	}
	volume := filepath.Dir(filepath.Dir(link))
	got, err := os.ReadFile(filepath.Join(volume, "store", filepath.Base(root), "f"))
	if err != nil || string(got) != want {
		t.Errorf("the root's file holds %q (%v), want %q", got, err, want)
	}
}

// TestFault01BuildLongerThanTheCall calls with a short deadline while a build
// runs: the answer must come before the deadline, and the build must go on.
func TestFault01BuildLongerThanTheCall(t *testing.T) {
	t.Parallel()
	buildLongerThanTheCall(t, 16*time.Second, 12*time.Second)
}

// TestFault01BuildLongerThanKubeletsCall is the same with kubelet's own two minutes.
func TestFault01BuildLongerThanKubeletsCall(t *testing.T) {
	t.Parallel()
	if os.Getenv("CLOSURED_LONG") == "" {
		t.Skip("takes three minutes; set CLOSURED_LONG=1 to run it")
	}
	buildLongerThanTheCall(t, 150*time.Second, 2*time.Minute)
}

func buildLongerThanTheCall(t *testing.T, build, call time.Duration) {
	t.Helper()
	const reserve = 5 * time.Second // the driver promises to answer so long before the deadline
	name := fmt.Sprintf("long-%d", int(build.Seconds()))
	n := start(t, agent.Config{PackageSet: packageSet(t, fmt.Sprintf(
		`long = run "%s" "sleep %d; mkdir $out; echo long > $out/f";`, name, int(build.Seconds())))})
	v := agent.Packages(1, "long")
	built := watch(t, name)

	ctx, cancel := context.WithTimeout(t.Context(), call)
	defer cancel()
	err := n.Publish(ctx, v)
	deadline, _ := ctx.Deadline()
	left := time.Until(deadline)
	if status.Code(err) != codes.Aborted || agent.IsFinal(err) {
		t.Fatalf("the call was answered with %v, want Aborted", err)
	}
	if left <= 0 || left > reserve {
		t.Errorf("the answer came %s before the deadline, want a little less than %s", left, reserve)
	}
	if running := builders("name=" + name); len(running) != 1 {
		t.Errorf("after the answer the builders are %q, want one", running)
	}
	n.requireVolumes(0)

	if err := n.Publish(t.Context(), v); err != nil { // joins
		t.Fatalf("the next call: %v", err)
	}
	if running := builders("name=" + name); len(running) > 0 {
		t.Errorf("after success there are builders: %q", running)
	}
	requireFile(t, filepath.Join(n.Target(v), "var/result"), "long\n")
	if got := built(); got != 1 {
		t.Errorf("there were %d builders, want 1", got)
	}
	n.requireWork(1, 1)
	n.unpublish(v)
	n.requireNothing()
}

// TestFault03PodDeletedAmidBuild unpublishes a volume whose closure is being built.
// The build may go on for the grace, for the pod's successor, and must then end.
func TestFault03PodDeletedAmidBuild(t *testing.T) {
	t.Parallel()
	const grace = 30 * time.Second // of the provider
	n := start(t, agent.Config{PackageSet: packageSet(t, `endless = run "endless" "sleep 600; mkdir $out";`)})
	v := agent.Packages(1, "endless")
	answer := make(chan error, 1)
	go func() { answer <- n.Publish(t.Context(), v) }()
	eventually(t, 20*time.Second, "a builder", func() error {
		if len(builders("name=endless")) != 1 {
			return errNotYet
		}
		return nil
	})

	n.unpublish(v)
	if err := <-answer; status.Code(err) != codes.Aborted {
		t.Errorf("the publish was answered with %v, want Aborted", err)
	}
	n.requireNothing()
	if running := builders("name=endless"); len(running) != 1 {
		t.Errorf("right after the unpublish the builders are %q, want the one", running)
	}
	eventually(t, grace+10*time.Second, "the end of the builder", func() error {
		if running := builders("name=endless"); len(running) > 0 {
			return fmt.Errorf("%q run", running)
		}
		return nil
	})
	eventually(t, 5*time.Second, "the end of the flight", func() error {
		if flights := n.metric("closured_flights"); flights > 0 {
			return fmt.Errorf("%v are left", flights)
		}
		links, err := filepath.Glob(filepath.Join(n.StateDir(), "nix/var/nix/gcroots/closured/*/*"))
		if err != nil || len(links) > 0 {
			return fmt.Errorf("the roots %q are left (%w)", links, err)
		}
		return nil
	})
	n.requireNothing()
}
