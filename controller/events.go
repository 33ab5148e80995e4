package controller

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller/buildjob"
)

// The reasons of events that are no reasons of conditions.
const (
	eventBuildStarted = "BuildStarted"
	eventPublished    = "Published"
)

// noteMax bounds an event's note in bytes, but for the mark of what was cut off
// (events.k8s.io/v1 allows 1024). What an agent says of a failed build, 1000 bytes
// that end with the end of its log, has room behind the name of a system.
const noteMax = 1021

// teller makes events of what changes. They are for people: a controller that is
// killed before it sent one sends it never.
type teller struct {
	recorder events.EventRecorder
}

func (t teller) started(image *v1alpha1.NixImage, job *batchv1.Job) {
	t.event(image, job, corev1.EventTypeNormal, eventBuildStarted, "Build", "the Job "+job.Name+" builds it")
}

// changed tells of what is new in a status that was written.
func (t teller) changed(image *v1alpha1.NixImage, status *v1alpha1.NixImageStatus) {
	if status.Digest != image.Status.Digest || status.Reference != image.Status.Reference {
		t.event(image, nil, corev1.EventTypeNormal, eventPublished, "Publish", served(status))
	}
	stalled := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionStalled)
	if stalled.Status == metav1.ConditionTrue && (failed(&image.Status, status) || !sameWords(&image.Status, stalled)) {
		t.event(image, nil, corev1.EventTypeWarning, stalled.Reason, "Build", stalled.Message)
	}
}

// failed tells whether an attempt has just failed.
func failed(before, after *v1alpha1.NixImageStatus) bool {
	was := meta.FindStatusCondition(before.Conditions, v1alpha1.ConditionBuilding)
	is := meta.FindStatusCondition(after.Conditions, v1alpha1.ConditionBuilding)
	return is.Reason == v1alpha1.ReasonRetrying && (was == nil || was.Reason != v1alpha1.ReasonRetrying)
}

func sameWords(before *v1alpha1.NixImageStatus, now *metav1.Condition) bool {
	was := meta.FindStatusCondition(before.Conditions, now.Type)
	return was != nil && was.Status == now.Status && was.Reason == now.Reason && was.Message == now.Message
}

func (t teller) event(image *v1alpha1.NixImage, job *batchv1.Job, kind, reason, action, note string) {
	note = buildjob.ClipTo(note, noteMax)
	if job == nil {
		t.recorder.Eventf(image, nil, kind, reason, action, "%s", note)
		return
	}
	t.recorder.Eventf(image, job, kind, reason, action, "%s", note)
}
