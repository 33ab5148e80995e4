package controller_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller/report"
)

const (
	x86 = "x86_64-linux"
	arm = "aarch64-linux"
)

func three() v1alpha1.NixImageSpec {
	return v1alpha1.NixImageSpec{Tag: "v1", Contents: []v1alpha1.PackageName{"curl", "jq", "bash"}}
}

// TestLifeOfAnImage goes through it on a real API server; the test plays kubelet,
// the scheduler and the Job controller.
func TestLifeOfAnImage(t *testing.T) {
	w := newWorld(t)
	_, _ = w.start(t, options{restart: true}) // without its lease while the API server restarts

	t.Run("ready, then changed", func(t *testing.T) { w.readyThenChanged(t) })
	t.Run("a policy refuses, and then permits", func(t *testing.T) { w.refusedThenPermitted(t) })
	t.Run("the report fails", func(t *testing.T) { w.reportFails(t) })
	t.Run("the pod is another one", func(t *testing.T) { w.foreignPod(t) })
	t.Run("a pod without the label", func(t *testing.T) { w.unlabelledPod(t) })
	t.Run("a system without a node", func(t *testing.T) { w.noNode(t) })
	t.Run("a quota is used up", func(t *testing.T) { w.quota(t) })
	t.Run("deleted during the build", func(t *testing.T) { w.deleted(t) })
	t.Run("the API server restarts", func(t *testing.T) {
		image := w.image(t, "restart", three())
		job := w.job(t, image, x86, "0")
		w.RestartAPIServer(t)
		w.eventually(t, "the API server takes pods", func(ctx context.Context) error { return w.Get(ctx, client.ObjectKeyFromObject(job), job) })
		w.finish(t, job, goodReport(x86, digest))
		w.is(t, image, "Ready", "True", v1alpha1.ReasonAvailable)
	})
	for name, n := range w.jobsMade(t) {
		if n != 1 {
			t.Errorf("the Job %s was made %d times", name, n)
		}
	}
}

func (w *world) readyThenChanged(t *testing.T) {
	t.Helper()
	image := w.image(t, "curl-and-jq", three())
	w.is(t, image, "Building", "True", v1alpha1.ReasonScheduling)
	w.finish(t, w.job(t, image, x86, "0"), goodReport(x86, digest))
	now := w.is(t, image, "Ready", "True", v1alpha1.ReasonAvailable)
	s := now.Status
	if s.Reference != "nix.internal/image/tools/curl-and-jq:v1" || s.Digest != digest || s.Size != "117.7 MiB" ||
		len(s.Images) != 1 || s.Images[0].Node != node || s.Images[0].Paths != 12 || s.Images[0].ClosureSize != "123456789" {
		t.Errorf("status %+v", s)
	}
	w.is(t, image, "Building", "False", v1alpha1.ReasonFinished)
	w.is(t, image, "Stalled", "False", v1alpha1.ReasonProgressing)
	w.noJobs(t, image)

	now.Spec.Contents = append(now.Spec.Contents, "git")
	now.Spec.Tag = "v2"
	must(t, w.Update(t.Context(), now))
	now = w.is(t, image, "Ready", "False", v1alpha1.ReasonBuilding)
	if now.Status.Digest != digest || !strings.HasSuffix(now.Status.Reference, ":v1") {
		t.Errorf("the old image is not served any more: %+v", now.Status)
	}
	second := strings.ReplaceAll(digest, "1", "2")
	w.finish(t, w.job(t, image, x86, "0"), goodReport(x86, second))
	now = w.is(t, image, "Ready", "True", v1alpha1.ReasonAvailable)
	if h := now.Status.History; now.Status.Digest != second || len(h) != 2 || h[0].Digest != second || h[1].Digest != digest || h[1].Tag != "v1" {
		t.Errorf("status %+v", now.Status)
	}
	w.noJobs(t, image)
}

// noJobs waits until all Jobs of the object are gone.
func (w *world) noJobs(t *testing.T, image *v1alpha1.NixImage) {
	t.Helper()
	w.eventually(t, "no Jobs are left", func(ctx context.Context) error {
		var jobs batchv1.JobList
		if err := w.List(ctx, &jobs, client.InNamespace(tools), client.MatchingLabels{"closured.dev/niximage": image.Name}); err != nil {
			return err
		}
		if len(jobs.Items) > 0 {
			return fmt.Errorf("%d are there", len(jobs.Items))
		}
		return nil
	})
}

func (w *world) refusedThenPermitted(t *testing.T) {
	t.Helper()
	image := w.image(t, "refused", v1alpha1.NixImageSpec{Expression: "(import <pkgs> {}).hello"})
	job := w.job(t, image, x86, "0")
	w.event(t, w.pod(t, job, node), "Pod", "FailedMount", `MountVolume.SetUp failed for volume "nix" : rpc error: code = PermissionDenied desc = nixExpr is not for the namespace tools; next: ask the operator`)
	now := w.is(t, image, "Stalled", "True", v1alpha1.ReasonPolicyRefused)
	says(t, now, "Stalled", x86, "nixExpr is not for the namespace tools", "next: ask the operator")
	w.is(t, image, "Ready", "False", v1alpha1.ReasonNotAvailable)
	must(t, w.Get(t.Context(), client.ObjectKeyFromObject(job), job))
	if job.Spec.Suspend == nil || !*job.Spec.Suspend {
		t.Error("the attempt was not given up")
	}
	w.finish(t, w.job(t, image, x86, "1"), goodReport(x86, digest))
	w.is(t, image, "Ready", "True", v1alpha1.ReasonAvailable)
	w.is(t, image, "Stalled", "False", v1alpha1.ReasonProgressing)
	w.eventually(t, "an event tells of it", func(ctx context.Context) error {
		var events corev1.EventList
		if err := w.List(ctx, &events, client.InNamespace(tools)); err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.InvolvedObject.UID == image.UID && e.Reason == v1alpha1.ReasonPolicyRefused {
				return nil
			}
		}
		return errors.New("there is none")
	})
}

func (w *world) reportFails(t *testing.T) {
	t.Helper()
	image := w.image(t, "fails", three())
	w.finish(t, w.job(t, image, x86, "0"), report.Report{Failure: "computing the image's digest: disk full"})
	now := w.is(t, image, "Stalled", "True", v1alpha1.ReasonReportFailed)
	says(t, now, "Stalled", "disk full")
	says(t, w.is(t, image, "Building", "False", v1alpha1.ReasonRetrying), "Building", "attempt 1 failed")
	w.finish(t, w.job(t, image, x86, "1"), goodReport(x86, digest))
	w.is(t, image, "Ready", "True", v1alpha1.ReasonAvailable)
}

func (w *world) noNode(t *testing.T) {
	t.Helper()
	spec := three()
	spec.Systems = []v1alpha1.System{x86, arm}
	image := w.image(t, "two-systems", spec)
	pod := w.pod(t, w.job(t, image, arm, "0"), "")
	pod.Status.Conditions = []corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable,
		Message: "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector", LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Minute)),
	}}
	must(t, w.Status().Update(t.Context(), pod))
	w.finish(t, w.job(t, image, x86, "0"), goodReport(x86, digest))
	now := w.is(t, image, "Ready", "True", v1alpha1.ReasonPartlyAvailable)
	says(t, now, "Ready", "it lacks "+arm)
	now = w.is(t, image, "Stalled", "True", v1alpha1.ReasonNoNode)
	says(t, now, "Stalled", arm+": 0/2 nodes are available")
	if now.Status.Digest != digest {
		t.Errorf("digest %s", now.Status.Digest)
	}
	// A node comes.
	must(t, w.Delete(t.Context(), pod, client.GracePeriodSeconds(0)))
	w.eventually(t, "the pod is gone", func(ctx context.Context) error {
		if err := w.Get(ctx, client.ObjectKeyFromObject(pod), pod); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	w.finish(t, w.job(t, image, arm, "0"), goodReport(arm, strings.ReplaceAll(digest, "1", "3")))
	now = w.is(t, image, "Ready", "True", v1alpha1.ReasonAvailable)
	if len(now.Status.Images) != 2 || now.Status.Digest == digest {
		t.Errorf("there is no index: %+v", now.Status)
	}
}

func (w *world) quota(t *testing.T) {
	t.Helper()
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "none", Namespace: tools}, Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{"count/jobs.batch": resource.MustParse("0")},
	}}
	must(t, w.Create(t.Context(), quota))
	// The part of the quota controller.
	quota.Status = corev1.ResourceQuotaStatus{Hard: quota.Spec.Hard, Used: corev1.ResourceList{"count/jobs.batch": resource.MustParse("0")}}
	must(t, w.Status().Update(t.Context(), quota))
	probe := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "probe", Namespace: tools}, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{
		Spec: corev1.PodSpec{RestartPolicy: "Never", Containers: []corev1.Container{{Name: "a", Image: "a"}}},
	}}}
	w.eventually(t, "the quota is known", func(ctx context.Context) error {
		if err := w.Create(ctx, probe.DeepCopy(), client.DryRunAll); !apierrors.IsForbidden(err) {
			return fmt.Errorf("a Job may be made: %w", err)
		}
		return nil
	})
	image := w.image(t, "quota", three())
	now := w.is(t, image, "Stalled", "True", v1alpha1.ReasonQuotaExceeded)
	says(t, now, "Stalled", "exceeded quota: none", "count/jobs.batch")
	must(t, w.Delete(t.Context(), quota))
	w.finish(t, w.job(t, image, x86, "0"), goodReport(x86, digest))
	w.is(t, image, "Ready", "True", v1alpha1.ReasonAvailable)

	// The Job is made, and its pod is not.
	image = w.image(t, "pod-quota", three())
	w.event(t, w.job(t, image, x86, "0"), "Job", "FailedCreate", `Error creating: pods "a" is forbidden: exceeded quota: cpu, requested: cpu=10m, used: cpu=1, limited: cpu=1`)
	says(t, w.is(t, image, "Stalled", "True", v1alpha1.ReasonQuotaExceeded), "Stalled", "limited: cpu=1")
}

// deleted has nothing to play the garbage collector: that the Job belongs to the
// object is what it needs.
func (w *world) deleted(t *testing.T) {
	t.Helper()
	image := w.image(t, "deleted", three())
	job := w.job(t, image, x86, "0")
	if !metav1.IsControlledBy(job, image) || job.OwnerReferences[0].BlockOwnerDeletion == nil {
		t.Errorf("owner references %+v", job.OwnerReferences)
	}
	must(t, w.Delete(t.Context(), image))
	w.eventually(t, "the object is gone", func(ctx context.Context) error {
		if err := w.Get(ctx, client.ObjectKeyFromObject(image), image); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	// One of the same name is another one, and takes nothing of it.
	again := w.image(t, "deleted", three())
	w.eventually(t, "a Job of its own", func(ctx context.Context) error {
		var jobs batchv1.JobList
		if err := w.List(ctx, &jobs, client.InNamespace(tools), client.MatchingLabels{"closured.dev/niximage": "deleted"}); err != nil {
			return err
		}
		for _, j := range jobs.Items {
			if metav1.IsControlledBy(&j, again) {
				return nil
			}
		}
		return errors.New("none")
	})
}
