package buildjob

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller/report"
)

// Phase is how far a Job is.
type Phase int

// The phases.
const (
	// Active: something may still come of it.
	Active Phase = iota
	// Blocked: active, but it waits for a change elsewhere.
	Blocked
	// Failed: this attempt comes to nothing.
	Failed
	// Succeeded: Report says what was built.
	Succeeded
)

// Observation is what a Job's state says.
type Observation struct {
	Key
	Job     *batchv1.Job
	Phase   Phase
	Reason  string // a reason of v1alpha1: of Building while Active, else of Stalled, or Waiting
	Message string // for people; bounded
	// Time is when it was seen to have Failed, by the clock of a controller: those of
	// nodes may be wrong, and the next attempt is counted from here.
	Time metav1.Time
	// Mark: it failed, and the Job's annotations do not say so yet.
	Mark bool
	// Recheck is how long until time alone may change the observation; 0: never.
	Recheck time.Duration
	Report  report.Report
}

// Facts are what a Job's state consists of.
type Facts struct {
	Job    *batchv1.Job
	Pods   []corev1.Pod   // its pods, without disrupted ones, the newest first
	Events []corev1.Event // of the Job and of its pods
	Now    time.Time
}

// Annotations of a Job whose attempt was given up.
const (
	annotationReason  = v1alpha1.Group + "/failure-reason"
	annotationMessage = v1alpha1.Group + "/failure-message"
	annotationTime    = v1alpha1.Group + "/failure-time"
)

// Annotations gives those of a Job that Observe reads.
func Annotations(job *batchv1.Job) map[string]string {
	var read map[string]string
	for _, key := range []string{annotationReason, annotationMessage, annotationTime} {
		if value, ok := job.Annotations[key]; ok {
			if read == nil {
				read = map[string]string{}
			}
			read[key] = Clip(value)
		}
	}
	return read
}

// FailurePatch gives the JSON merge patch that gives an attempt up. Suspending
// the Job ends its pod, and with that the agent's work; the annotations keep why,
// so that the attempt counts after a restart of the controller.
func FailurePatch(o Observation) ([]byte, error) {
	patch := map[string]any{
		"metadata": map[string]any{
			"resourceVersion": o.Job.ResourceVersion,
			"annotations": map[string]string{
				annotationReason: o.Reason, annotationMessage: o.Message, annotationTime: o.Time.UTC().Format(time.RFC3339),
			},
		},
		"spec": map[string]any{"suspend": true},
	}
	data, err := json.Marshal(patch)
	if err != nil {
		return nil, fmt.Errorf("writing the patch of a failed Job: %w", err)
	}
	return data, nil
}

// NeedsEvents tells whether the events of the Job and its pods may say more than
// their states: nothing runs yet, and nothing has ended.
func NeedsEvents(f Facts) bool {
	o := Observe(f)
	return o.Phase == Active && o.Reason != v1alpha1.ReasonWaiting && !mounted(f.Pods)
}

// mounted tells whether the newest pod has its volumes: kubelet makes a pod's sandbox
// after them, and pulls images and starts containers after that. Its events of mounts
// that failed before then are old.
func mounted(pods []corev1.Pod) bool {
	if len(pods) == 0 {
		return false
	}
	status := &pods[0].Status
	if slices.ContainsFunc(status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReadyToStartContainers && c.Status == corev1.ConditionTrue
	}) {
		return true
	}
	return slices.ContainsFunc(slices.Concat(status.InitContainerStatuses, status.ContainerStatuses), func(s corev1.ContainerStatus) bool {
		w := s.State.Waiting
		// Kubelet's two words for a container that it has not come to.
		return s.State.Running != nil || w != nil && !slices.Contains([]string{"", "ContainerCreating", "PodInitializing"}, w.Reason)
	})
}

// Observe says what the facts mean. The Job must have labels of ours.
func Observe(f Facts) Observation {
	o := Observation{Job: f.Job}
	o.Key, _ = KeyOf(f.Job)
	for _, look := range []func(*Observation, Facts) bool{annotated, reported, ended, unmounted, unplaced, waiting} {
		if look(&o, f) {
			break
		}
	}
	o.Message = Clip(o.Message)
	return o
}

// annotated sees an attempt that was given up before.
func annotated(o *Observation, f Facts) bool {
	a := f.Job.Annotations
	when, err := time.Parse(time.RFC3339, a[annotationTime])
	if a[annotationReason] == "" || err != nil {
		return false
	}
	o.Phase, o.Reason, o.Message, o.Time = Failed, a[annotationReason], a[annotationMessage], metav1.NewTime(when)
	if !slices.Contains(givenUp(), o.Reason) {
		o.Reason = v1alpha1.ReasonReportFailed // written by somebody else; a condition may not have every word
	}
	return true
}

// givenUp gives the reasons for which attempts are given up.
func givenUp() []string {
	return []string{
		v1alpha1.ReasonInvalidSource, v1alpha1.ReasonPolicyRefused, v1alpha1.ReasonBuildFailed, v1alpha1.ReasonCorrupt,
		v1alpha1.ReasonDeadlineExceeded, v1alpha1.ReasonReportFailed,
	}
}

// reported sees a container that has ended.
func reported(o *Observation, f Facts) bool {
	for _, pod := range f.Pods {
		for _, s := range pod.Status.ContainerStatuses {
			if t := s.State.Terminated; s.Name == container && t != nil {
				o.ofContainer(f, t)
				return true
			}
		}
	}
	return false
}

func (o *Observation) ofContainer(f Facts, t *corev1.ContainerStateTerminated) {
	o.fail(f, v1alpha1.ReasonReportFailed)
	r, err := report.Parse([]byte(t.Message))
	switch {
	case err == nil && r.Failure != "":
		o.Message = r.Failure
	case t.ExitCode != 0:
		o.Message = fmt.Sprintf("the build pod ended with code %d (%s): %s", t.ExitCode, t.Reason, strings.TrimSpace(t.Message))
	case err != nil:
		o.Message = err.Error()
	case r.System != string(o.System):
		o.Message = fmt.Sprintf("the build pod reports on %s instead of %s", r.System, o.System)
	default:
		*o = Observation{Key: o.Key, Job: o.Job, Phase: Succeeded, Report: r}
	}
}

// Disrupted tells whether a build pod was ended by somebody who needed its node, as
// by a drain, a preemption or a node under pressure, before it reported. The Job makes
// another one, and what this one's end looks like is no failure.
func Disrupted(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue
	}) && !slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.Name == container && s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
	})
}

// ended sees a Job that has ended without a container that did.
func ended(o *Observation, f Facts) bool {
	for _, c := range f.Job.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch {
		case c.Reason == batchv1.JobReasonDeadlineExceeded && (c.Type == batchv1.JobFailed || c.Type == batchv1.JobFailureTarget):
			// The second comes first, before its pods go: without them the Job would look
			// like one that waits for its pod.
			o.fail(f, v1alpha1.ReasonDeadlineExceeded)
			o.Message = "the build took longer than " + deadlineOf(f.Job)
			return true
		case c.Type == batchv1.JobFailed:
			o.fail(f, v1alpha1.ReasonReportFailed)
			o.Message = "the build pod ended without a report, as when somebody deletes it: " + lastWords(f, c.Message) + "; next: wait, it is tried again"
			return true
		case c.Type == batchv1.JobComplete:
			o.fail(f, v1alpha1.ReasonReportFailed)
			o.Message = "the build pod went before its report was read; next: wait, it is tried again"
			return true
		}
	}
	return false
}

// lastWords gives why a pod ended, as far as somebody said so: kubelet, as when it
// evicts the pod, or else the Job controller.
func lastWords(f Facts, ofJob string) string {
	if len(f.Pods) > 0 && f.Pods[0].Status.Message != "" {
		return f.Pods[0].Status.Reason + ": " + f.Pods[0].Status.Message
	}
	return ofJob
}

func deadlineOf(job *batchv1.Job) string {
	if s := job.Spec.ActiveDeadlineSeconds; s != nil {
		return (time.Duration(*s) * time.Second).String()
	}
	return "its deadline"
}

// textMax bounds what one observation says, in bytes: the log's last lines are in it.
const textMax = 4096

// Clip bounds a text that others wrote: at most 4 KiB, valid UTF-8, and nothing in it
// that terminals obey rather than show, as escapes, line ends of other kinds and
// marks that turn the direction of writing; but line ends and tabs.
func Clip(s string) string { return ClipTo(s, textMax) }

// ClipTo is Clip with another bound, in bytes.
func ClipTo(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\n' || r == '\t' {
			return r
		}
		return -1
	}, strings.ToValidUTF8(s, ""))
}
