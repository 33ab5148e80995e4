//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
)

// TestNixImageController takes the controller, what it talks to and what it works
// on away from it, in the middle of builds. Whatever happens, every object gets
// ready, by its first attempt, and no Job is made twice.
func TestNixImageController(t *testing.T) {
	deployed(t)
	t.Cleanup(func() { requireClean(t) })
	installNixImage(t)
	jobs := watchJobs(t)
	// Two things take longer than the tests that run meanwhile: an agent that is in a
	// call of kubelet's ends a build when that has ended, and a minute is the shortest
	// time to look for a package that moves.
	deleted := deleteInMidBuild(t)
	tell(t, "moving", "")
	apply(t, describedObject("moves", "contents: [moving]", "refreshInterval: 1m"))
	before := awaitDescribed(t, "moves")[0]
	tell(t, "moving", ": "+salt())

	t.Run("is killed at each step", func(t *testing.T) { controllerKilled(t, jobs) })
	t.Run("is one of two", func(t *testing.T) { controllerOfTwo(t, jobs) })
	t.Run("the source moves", func(t *testing.T) { sourceMoves(t, before) })
	t.Run("the API server restarts", serverRestarts)
	t.Run("at rest", manyAtRest)
	t.Run("the object was deleted in mid-build", func(t *testing.T) { buildOfDeleted(t, deleted) })
	t.Run("an agent begins without the API server", agentBeginsAlone)
	jobs.requireOnce(t)
}

// describedSteps are those of a build that somebody else can see.
var describedSteps = []struct {
	what string
	kind string // of the object that shows it
	is   func(object *unstructured.Unstructured) bool
}{
	{"a Job is made", "jobs", func(*unstructured.Unstructured) bool { return true }},
	{"a pod is on its node", "pods", func(o *unstructured.Unstructured) bool {
		node, _, _ := unstructured.NestedString(o.Object, "spec", "nodeName")
		return node != ""
	}},
	{"a pod runs", "pods", func(o *unstructured.Unstructured) bool {
		return strings.Contains("Running Succeeded", phaseOf(o))
	}},
	{"a report is written", "pods", func(o *unstructured.Unstructured) bool { return phaseOf(o) == "Succeeded" }},
	{"a status is written", "niximages", func(o *unstructured.Unstructured) bool { return isDescribedReady(o) == nil }},
}

func phaseOf(o *unstructured.Unstructured) string {
	phase, _, _ := unstructured.NestedString(o.Object, "status", "phase")
	if phase == "" {
		phase = "none"
	}
	return phase
}

// controllerKilled changes three objects at once, for each step, and kills the
// controller when the first of them is there.
func controllerKilled(t *testing.T, jobs *jobsSeen) {
	const objects = 3
	names := make([]string, objects)
	for i := range names {
		names[i] = fmt.Sprintf("killed-%d", i)
	}
	for _, step := range describedSteps {
		var all strings.Builder
		for _, name := range names {
			all.WriteString(describedObject(name, "contents: [one]", "config: {labels: {step: "+salt()+"}}") + "---\n")
		}
		awaitNone(t, "pods") // of the step before
		ours := func(o *unstructured.Unstructured) bool {
			return strings.HasPrefix(o.GetName(), "killed-") && step.is(o)
		}
		reached := untilSeen(t, step.kind, ours, func() { apply(t, all.String()) })
		begin := time.Now()
		killController(t, onlyController(t))
		must(t, "delete", "lease", "-n", agentNamespace, "closured-controller") // it is dead: waiting proves nothing here
		awaitDescribed(t, names...)
		t.Logf("killed when %s (%s): all ready after %s", step.what, reached, time.Since(begin).Round(100*time.Millisecond))
	}
	if made := jobs.of(names...); made != objects*len(describedSteps) {
		t.Errorf("%d Jobs were made of %d objects in %d generations", made, objects, len(describedSteps))
	}
	must(t, append([]string{"delete", "nixi", "-n", describedNamespace}, names...)...)
}

// controllerOfTwo kills the one of two that leads, during builds.
func controllerOfTwo(t *testing.T, jobs *jobsSeen) {
	scale := func(ctx context.Context, n string) (string, error) {
		return kubectl(ctx, "", "scale", "-n", agentNamespace, "deployment/closured-controller", "--replicas="+n)
	}
	t.Cleanup(func() {
		if out, err := scale(context.Background(), "1"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	if out, err := scale(t.Context(), "2"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, "rollout", "status", "-n", agentNamespace, "deployment/closured-controller", "--timeout=120s")
	first := leader(t)

	tell(t, "slowly", ": "+salt()+"\nsleep 10")
	names := []string{"led-0", "led-1", "led-2"}
	for _, name := range names {
		apply(t, describedObject(name, "contents: [slowly]"))
	}
	awaitBuild(t, "slowly")
	begin := time.Now()
	killController(t, first)
	var holder string
	err := wait(t.Context(), 2*time.Minute, "another one to lead", func() (err error) {
		if holder, err = leaseHolder(t.Context()); err == nil && strings.HasPrefix(holder, first.Name+"_") {
			err = fmt.Errorf("%s has the Lease", holder)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	figure("controller killed", "another one leads after %s, of a Lease of 15 s", ms(time.Since(begin)))
	names = append(names, "led-after")
	apply(t, describedObject("led-after", "contents: [two]"))
	awaitDescribed(t, names...)
	if made := jobs.of(names...); made != len(names) {
		t.Errorf("%d Jobs were made of %d objects", made, len(names))
	}
	pod, _, _ := strings.Cut(holder, "_")
	if said := must(t, "logs", "-n", agentNamespace, pod); !strings.Contains(said, "Successfully acquired lease") {
		t.Errorf("the one that leads now says:\n%s", said)
	}
	must(t, append([]string{"delete", "nixi", "-n", describedNamespace}, names...)...)
}

// leader gives the one of two controllers that leads: their metrics and the Lease
// say the same.
func leader(t *testing.T) (first *corev1.Pod) {
	t.Helper()
	err := wait(t.Context(), time.Minute, "one of two to lead", func() error {
		first = nil
		holder, err := leaseHolder(t.Context())
		if err != nil {
			return err
		}
		pods := controllers(t)
		leads := 0.0
		for i, pod := range pods {
			leading, err := controllerMetric(t.Context(), &pods[i], `leader_election_master_status{name="closured-controller"}`)
			if err != nil {
				return err
			}
			leads += leading
			if leading == 1 && strings.HasPrefix(holder, pod.Name+"_") {
				first = &pods[i]
			}
		}
		if first == nil || leads != 1 || len(pods) != 2 {
			return fmt.Errorf("%.0f of %d lead, and %s has the Lease", leads, len(pods), holder)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return first
}

// sourceMoves wants the object to follow its package, with nobody touching it.
func sourceMoves(t *testing.T, before unstructured.Unstructured) {
	pathOf := func(o unstructured.Unstructured) string {
		images, _, _ := unstructured.NestedSlice(o.Object, "status", "images")
		path, _, _ := unstructured.NestedString(images[0].(map[string]any), "storePath")
		return path
	}
	err := wait(t.Context(), 4*time.Minute, "the new package", func() error {
		now := awaitDescribed(t, "moves")[0]
		if pathOf(now) == pathOf(before) {
			return fmt.Errorf("it is %s", pathOf(now))
		}
		if now.GetGeneration() != before.GetGeneration() {
			t.Errorf("the spec was changed: generation %d", now.GetGeneration())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	must(t, "delete", "nixi", "-n", describedNamespace, "moves")
}

// serverRestarts kills the API server in the middle of a build, which goes on.
func serverRestarts(t *testing.T) {
	tell(t, "slowly", ": "+salt()+"\nsleep 20")
	apply(t, describedObject("restarted", "contents: [slowly]"))
	before := awaitBuild(t, "slowly")
	crashServer(t)
	if after := builders(t, "slowly"); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("processes %v built, and now %v", before, after)
	}
	if err := serverIsBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitDescribed(t, "restarted")
	must(t, "delete", "nixi", "-n", describedNamespace, "restarted")
}

// deleteInMidBuild deletes an object whose build never ends, and wants its Job and
// its pod to go with it. It gives when that was.
func deleteInMidBuild(t *testing.T) time.Time {
	t.Helper()
	apply(t, describedObject("deleted", "contents: [endless]"))
	awaitBuild(t, "endless")
	begin := time.Now()
	must(t, "delete", "nixi", "-n", describedNamespace, "deleted")
	awaitNone(t, "jobs")
	awaitNone(t, "pods")
	figure("NixImage deleted in mid-build", "its Job and pod are gone after %s", ms(time.Since(begin)))
	return begin
}

// buildOfDeleted wants the build, its volume and its pin to be gone, too.
func buildOfDeleted(t *testing.T, deleted time.Time) {
	err := wait(t.Context(), 4*time.Minute, "the end of the build", func() error {
		if pids := builders(t, "endless"); len(pids) > 0 {
			return fmt.Errorf("processes %v build", pids)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the build is gone after at most %s", time.Since(deleted).Round(time.Second))
	requireClean(t)
}

// killController ends a controller by SIGKILL. Its pod goes, too: kubelet would
// start one that ends often ever more slowly.
func killController(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	pid := controllerPID(t, pod)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	err := wait(t.Context(), 30*time.Second, "the end of the controller", func() error {
		if err := syscall.Kill(pid, 0); err == nil {
			return fmt.Errorf("process %d is there", pid)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	must(t, "delete", "pod", "-n", agentNamespace, pod.Name, "--force", "--grace-period=0", "--wait=false")
}

// untilSeen acts, and then waits until an object of a kind is as it says. It gives
// the object's name.
func untilSeen(t *testing.T, kind string, is func(*unstructured.Unstructured) bool, act func()) string {
	t.Helper()
	events := watchDescribed(t, kind)
	defer events.Stop()
	act()
	limit := time.After(3 * time.Minute)
	for {
		select {
		case event := <-events.ResultChan():
			object, ok := event.Object.(*unstructured.Unstructured)
			if ok && event.Type != watch.Deleted && is(object) {
				return object.GetName()
			}
		case <-limit:
			t.Fatalf("none of %s is as it should be", kind)
		}
	}
}
