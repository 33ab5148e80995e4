package controller_test

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller/buildjob"
)

// foreignPod has somebody make a pod for a Job of ours that reports what it likes.
func (w *world) foreignPod(t *testing.T) {
	t.Helper()
	image := w.image(t, "foreign", three())
	job := w.job(t, image, x86, "0")
	forged := job.DeepCopy()
	forged.Spec.Template.Spec.Containers[0].Image = "evil:1"
	w.finish(t, forged, goodReport(x86, digest))
	now := metav1.Now()
	job.Status = batchv1.JobStatus{
		StartTime: &now, CompletionTime: &now, Succeeded: 1,
		Conditions: []batchv1.JobCondition{
			{Type: batchv1.JobSuccessCriteriaMet, Status: corev1.ConditionTrue, LastTransitionTime: now},
			{Type: batchv1.JobComplete, Status: corev1.ConditionTrue, LastTransitionTime: now},
		},
	}
	must(t, w.Status().Update(t.Context(), job))
	seen := w.is(t, image, "Stalled", "True", v1alpha1.ReasonReportFailed)
	says(t, seen, "Stalled", "is not believed: its image is evil:1 instead of closured:test", "--build-image")
	if seen.Status.Digest != "" || len(seen.Status.Resolved) > 0 {
		t.Errorf("it is believed: %+v", seen.Status)
	}
	w.finish(t, w.job(t, image, x86, "1"), goodReport(x86, digest))
	w.is(t, image, "Ready", "True", v1alpha1.ReasonAvailable)
}

// unlabelledPod has somebody make a pod for a Job of ours that has failed: in all
// as it was asked for, but without the label that admission policies go by.
func (w *world) unlabelledPod(t *testing.T) {
	t.Helper()
	image := w.image(t, "unlabelled", three())
	job := w.job(t, image, x86, "0")
	unlabelled := job.DeepCopy()
	delete(unlabelled.Spec.Template.Labels, buildjob.LabelManagedBy)
	w.finish(t, unlabelled, goodReport(x86, digest))
	now := metav1.Now()
	job.Status = batchv1.JobStatus{StartTime: &now, Failed: 1, Conditions: []batchv1.JobCondition{
		{Type: batchv1.JobFailureTarget, Status: corev1.ConditionTrue, Reason: batchv1.JobReasonBackoffLimitExceeded, LastTransitionTime: now},
		{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: batchv1.JobReasonBackoffLimitExceeded, LastTransitionTime: now},
	}}
	must(t, w.Status().Update(t.Context(), job))
	seen := w.is(t, image, "Stalled", "True", v1alpha1.ReasonReportFailed)
	if seen.Status.Digest != "" || len(seen.Status.Resolved) > 0 {
		t.Errorf("it is believed: %+v", seen.Status)
	}
}
