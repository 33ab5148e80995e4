package buildjob

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/closured/closured/api/v1alpha1"
)

// unplacedGrace is how long a pod may find no node before that counts as an
// obstacle: shorter, and each full node would be one.
const unplacedGrace = 15 * time.Second

// The events that are looked at: kubelet's and the Job controller's.
const (
	eventFailedMount  = "FailedMount"
	eventFailedCreate = "FailedCreate"
)

// admissionPolicy is the object that says early what the agent's policy would; it
// is part of the installation.
const admissionPolicy = "closured-volumes"

// unmounted sees what the agent says of the volume: the note of the newest
// FailedMount event, since a pod whose volume fails has no other trace of it.
func unmounted(o *Observation, f Facts) bool {
	event, ok := newest(f.Events, eventFailedMount)
	if !ok || mounted(f.Pods) {
		return false
	}
	code, text := split(event.Message)
	o.Message = text
	switch code {
	case "Aborted", "Canceled", "DeadlineExceeded":
		o.Reason = v1alpha1.ReasonRealising
	case "InvalidArgument", "AlreadyExists":
		o.fail(f, v1alpha1.ReasonInvalidSource)
	case "PermissionDenied":
		o.fail(f, v1alpha1.ReasonPolicyRefused)
	case "FailedPrecondition":
		o.fail(f, v1alpha1.ReasonBuildFailed)
	case "DataLoss":
		o.fail(f, v1alpha1.ReasonCorrupt)
	case "NotFound":
		// A cache may get it yet: kubelet goes on asking until the deadline.
		o.Phase, o.Reason = Blocked, v1alpha1.ReasonSourceNotFound
	default: // Unavailable, ResourceExhausted, Internal, or not of the agent at all
		o.Phase, o.Reason = Blocked, v1alpha1.ReasonWaiting
	}
	return true
}

// fail gives the attempt up: kubelet would go on mounting until the deadline, and
// the pod would hold its quota.
func (o *Observation) fail(f Facts, reason string) {
	o.Phase, o.Reason, o.Mark, o.Time = Failed, reason, true, metav1.NewTime(f.Now)
}

// split takes kubelet's frame off an event's text: the gRPC code, or "" when the
// text is not an answer of a CSI driver, and what the driver said.
func split(note string) (code, text string) {
	_, rest, found := strings.Cut(note, "rpc error: code = ")
	code, text, framed := strings.Cut(rest, " desc = ")
	if !found || !framed {
		return "", note
	}
	return code, text
}

// newest gives the last event with the reason.
func newest(events []corev1.Event, reason string) (corev1.Event, bool) {
	var last corev1.Event
	found := false
	for _, e := range events {
		if e.Reason == reason && (!found || !timeOf(e).Before(timeOf(last))) {
			last, found = e, true
		}
	}
	return last, found
}

// timeOf gives when an event was last seen; events have three forms of it.
func timeOf(e corev1.Event) time.Time {
	times := []time.Time{e.LastTimestamp.Time, e.EventTime.Time, e.CreationTimestamp.Time}
	if e.Series != nil {
		times = append(times, e.Series.LastObservedTime.Time)
	}
	return slices.MaxFunc(times, time.Time.Compare)
}

// unplaced sees a Job whose pod could not be made or has no node.
func unplaced(o *Observation, f Facts) bool {
	if len(f.Pods) == 0 {
		o.Reason, o.Message = v1alpha1.ReasonScheduling, "the build pod is not made yet"
		if e, ok := newest(f.Events, eventFailedCreate); ok {
			o.Phase, o.Reason, o.Message = Blocked, RefusalReason(e.Message), nameless(e.Message)
		}
		return true
	}
	pod := f.Pods[0]
	if pod.Spec.NodeName != "" {
		return false
	}
	o.Reason, o.Message = v1alpha1.ReasonScheduling, "the build pod is not on a node yet"
	for _, c := range pod.Status.Conditions {
		if c.Type != corev1.PodScheduled || c.Status != corev1.ConditionFalse || c.Reason != corev1.PodReasonUnschedulable {
			continue
		}
		o.Message = c.Message
		if left := unplacedGrace - f.Now.Sub(c.LastTransitionTime.Time); left > 0 {
			o.Recheck = left
			continue
		}
		o.Phase, o.Reason = Blocked, v1alpha1.ReasonNoNode
	}
	return true
}

// nameless takes the Job controller's frame off the text with which the API server
// refused a pod. Each try has a name of its own in it, and would be news.
func nameless(text string) string {
	const frame = "Error creating: pods "
	_, rest, framed := strings.Cut(text, " is forbidden: ")
	if !framed || !strings.HasPrefix(text, frame) {
		return text
	}
	return "the build pod is forbidden: " + rest
}

// RefusalReason gives the reason for a text with which the API server refused to
// make a Job or a pod.
func RefusalReason(text string) string {
	if strings.Contains(text, "ValidatingAdmissionPolicy '"+admissionPolicy+"'") {
		return v1alpha1.ReasonPolicyRefused
	}
	if strings.Contains(text, "exceeded quota") || strings.Contains(text, "failed quota") {
		return v1alpha1.ReasonQuotaExceeded
	}
	return v1alpha1.ReasonPodRefused
}

// waiting sees a pod on its node.
func waiting(o *Observation, f Facts) bool {
	o.Reason, o.Message = v1alpha1.ReasonRealising, "the node "+f.Pods[0].Spec.NodeName+" realises the closure"
	if mounted(f.Pods) {
		o.Message = "the closure is there, and the build pod starts"
	}
	for _, s := range f.Pods[0].Status.ContainerStatuses {
		switch w := s.State.Waiting; {
		case s.State.Running != nil:
			o.Message = "the closure is there, and the digest of its image is being computed"
		case w != nil && slices.Contains([]string{"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}, w.Reason):
			o.Phase, o.Reason, o.Message = Blocked, v1alpha1.ReasonImagePull, w.Reason+": "+w.Message
		}
	}
	return true
}
