package controller_test

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/closured/closured/api/v1alpha1"
)

// TestAnEvictedBuildPodIsNoFailedAttempt has a node be drained under a build, with
// Kubernetes' own controller of Jobs: that makes another pod of the same Job.
func TestAnEvictedBuildPodIsNoFailedAttempt(t *testing.T) {
	w := newWorld(t)
	w.StartJobController(t)
	w.start(t, options{})
	image := w.image(t, "evicted", three())
	first := w.madePod(t, image)
	w.end(t, first, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", LastTransitionTime: metav1.Now(),
	})
	second := &corev1.Pod{}
	w.eventually(t, "another pod is made", func(ctx context.Context) error {
		var list corev1.PodList
		if err := w.List(ctx, &list, client.InNamespace(tools)); err != nil {
			return err
		}
		for i := range list.Items {
			if list.Items[i].UID != first.UID {
				second = &list.Items[i]
				return nil
			}
		}
		return errors.New("there is none")
	})
	if a, b := first.OwnerReferences[0].UID, second.OwnerReferences[0].UID; a != b {
		t.Errorf("the second pod is of the Job %s, and the first one of %s", b, a)
	}
	w.report(t, second, goodReport(x86, digest))
	now := w.is(t, image, "Ready", "True", v1alpha1.ReasonAvailable)
	if at := now.Status.Resolved[0].Time; time.Since(at.Time) > limit {
		t.Errorf("it was resolved at %s", at)
	}
	for name, n := range w.jobsMade(t) {
		if n != 1 {
			t.Errorf("the Job %s was made %d times", name, n)
		}
	}
	if made := len(w.jobsMade(t)); made != 1 {
		t.Errorf("%d Jobs were made", made)
	}
}

// end ends a pod that was killed.
func (w *world) end(t *testing.T, pod *corev1.Pod, why corev1.PodCondition) {
	t.Helper()
	pod.Status.Phase = corev1.PodFailed
	pod.Status.Conditions = append(pod.Status.Conditions, why)
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "report", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: 143, Reason: "Error", FinishedAt: metav1.NewTime(time.Now().Add(-time.Hour))},
	}}}
	must(t, w.Status().Update(t.Context(), pod))
}
