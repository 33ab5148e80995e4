package controller_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/closured/closured/api/v1alpha1"
)

// TestFault55ControllerKilledBetweenItsWrites cuts a controller off after its
// n-th write, for each n of an object's way from nothing to the second version,
// and lets another one go on: it arrives, and no Job is made twice.
func TestFault55ControllerKilledBetweenItsWrites(t *testing.T) {
	w := newWorld(t)
	for n := 1; n <= 12; n++ {
		t.Run(fmt.Sprintf("after %d writes", n), func(t *testing.T) {
			stop := w.relay(t, n)
			defer stop()
			image := w.image(t, fmt.Sprintf("killed-%d", n), three())
			w.finish(t, w.job(t, image, x86, "0"), goodReport(x86, digest))
			now := w.is(t, image, "Ready", "True", v1alpha1.ReasonAvailable)
			w.noJobs(t, image)
			w.change(t, now)
			second := strings.ReplaceAll(digest, "1", "2")
			w.finish(t, w.job(t, image, x86, "0"), goodReport(x86, second))
			now = w.is(t, image, "Ready", "True", v1alpha1.ReasonAvailable)
			if now.Status.Digest != second {
				t.Errorf("digest %s", now.Status.Digest)
			}
			w.noJobs(t, image)
		})
	}
	for name, times := range w.jobsMade(t) {
		if times != 1 {
			t.Errorf("the Job %s was made %d times", name, times)
		}
	}
	if made := len(w.jobsMade(t)); made != 2*12 {
		t.Errorf("%d Jobs were made for 12 objects of two versions", made)
	}
}

// TestFault55ControllerKilledAroundAFailedAttempt does the same on the way over an
// attempt that is given up: the next one is made once, too.
func TestFault55ControllerKilledAroundAFailedAttempt(t *testing.T) {
	const cuts = 8 // Job, status, given up, status, Job, the first Job's end, status, the second's
	w := newWorld(t)
	for n := 1; n <= cuts; n++ {
		t.Run(fmt.Sprintf("after %d writes", n), func(t *testing.T) {
			stop := w.relay(t, n)
			defer stop()
			image := w.image(t, fmt.Sprintf("failed-%d", n), three())
			pod := w.pod(t, w.job(t, image, x86, "0"), node)
			w.event(t, pod, "Pod", "FailedMount", "MountVolume.SetUp failed : rpc error: code = FailedPrecondition desc = building curl failed")
			w.finish(t, w.job(t, image, x86, "1"), goodReport(x86, digest))
			w.is(t, image, "Ready", "True", v1alpha1.ReasonAvailable)
			w.is(t, image, "Stalled", "False", v1alpha1.ReasonProgressing)
			w.noJobs(t, image)
		})
	}
	made := w.jobsMade(t)
	for name, times := range made {
		if times != 1 {
			t.Errorf("the Job %s was made %d times", name, times)
		}
	}
	if len(made) != 2*cuts {
		t.Errorf("%d Jobs were made for %d objects and two attempts each", len(made), cuts)
	}
}

// change asks for another version.
func (w *world) change(t *testing.T, image *v1alpha1.NixImage) {
	t.Helper()
	w.eventually(t, "the spec is changed", func(ctx context.Context) error {
		now := &v1alpha1.NixImage{}
		if err := w.Get(ctx, client.ObjectKeyFromObject(image), now); err != nil {
			return err
		}
		now.Spec.Contents = []v1alpha1.PackageName{"git"}
		return w.Update(ctx, now)
	})
}

func TestTwoControllersOneLeads(t *testing.T) {
	w := newWorld(t)
	first, stop := w.start(t, options{})
	<-first.Elected()
	second, _ := w.start(t, options{})
	image := w.image(t, "one", three())
	w.finish(t, w.job(t, image, x86, "0"), goodReport(x86, digest))
	w.is(t, image, "Ready", "True", v1alpha1.ReasonAvailable)
	select {
	case <-second.Elected():
		t.Fatal("both lead")
	default:
	}
	stop()
	select {
	case <-second.Elected():
	case <-time.After(limit):
		t.Fatal("nobody leads")
	}
	image = w.image(t, "two", three())
	w.finish(t, w.job(t, image, x86, "0"), goodReport(x86, digest))
	w.is(t, image, "Ready", "True", v1alpha1.ReasonAvailable)
}

// TestTwoHundredObjectsAtRest has them all made at once and get ready; then
// nothing is written any more, also not by a controller that begins anew.
func TestTwoHundredObjectsAtRest(t *testing.T) {
	const objects = 200
	w := newWorld(t)
	_, stop := w.start(t, options{})
	for i := range objects {
		w.image(t, fmt.Sprintf("image-%d", i), three())
	}
	for i := range objects {
		image := &v1alpha1.NixImage{}
		image.Name, image.Namespace = fmt.Sprintf("image-%d", i), tools
		w.finish(t, w.job(t, image, x86, "0"), goodReport(x86, digest))
	}
	w.allReady(t, objects)
	stop()
	before := w.writesSeen(t)
	again, _ := w.start(t, options{})
	<-again.Elected()
	marker := w.image(t, "marker", three()) // reconciled after, or among, the others
	w.job(t, marker, x86, "0")
	w.is(t, marker, "Building", "True", v1alpha1.ReasonScheduling)
	for _, line := range w.writesSeen(t)[len(before):] {
		if strings.Contains(line, "image-") {
			t.Errorf("a write at rest: %s", line)
		}
	}
	if made := len(w.jobsMade(t)); made != objects+1 {
		t.Errorf("%d Jobs were made for %d objects", made, objects+1)
	}
}

func (w *world) allReady(t *testing.T, objects int) {
	t.Helper()
	w.eventually(t, "all are ready and clean", func(ctx context.Context) error {
		var list v1alpha1.NixImageList
		if err := w.List(ctx, &list); err != nil {
			return err
		}
		ready := 0
		for _, image := range list.Items {
			if meta.IsStatusConditionTrue(image.Status.Conditions, "Ready") {
				ready++
			}
		}
		if ready != objects {
			return fmt.Errorf("%d of %d are ready", ready, objects)
		}
		return w.noJobsAnywhere(ctx)
	})
}

// writesSeen gives the audit log's lines of what was changed, but for leases and
// events, which say nothing that anybody waits for.
func (w *world) writesSeen(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(w.AuditLog)
	must(t, err)
	var lines []string
	for line := range strings.Lines(string(data)) {
		reads := strings.Contains(line, `"verb":"get"`) || strings.Contains(line, `"verb":"list"`) || strings.Contains(line, `"verb":"watch"`)
		if !reads && !strings.Contains(line, `"resource":"leases"`) && !strings.Contains(line, `"resource":"events"`) {
			lines = append(lines, line)
		}
	}
	return lines
}

func (w *world) noJobsAnywhere(ctx context.Context) error {
	var jobs batchv1.JobList
	if err := w.List(ctx, &jobs); err != nil {
		return err
	}
	if len(jobs.Items) > 0 {
		return fmt.Errorf("%d Jobs are there", len(jobs.Items))
	}
	return nil
}
