package controller

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller/buildjob"
)

// verdict is a condition but for its type, generation and time.
type verdict struct {
	status          metav1.ConditionStatus
	reason, message string
}

func (p *Plan) setConditions(status *v1alpha1.NixImageStatus) {
	for kind, v := range map[string]verdict{
		v1alpha1.ConditionReady:    p.ready(status),
		v1alpha1.ConditionBuilding: p.building(),
		v1alpha1.ConditionStalled:  p.stalled(),
	} {
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: kind, Status: v.status, Reason: v.reason, Message: v.message,
			ObservedGeneration: p.image.Generation, LastTransitionTime: metav1.NewTime(p.now).Rfc3339Copy(),
		})
	}
	// A fixed order, for readers and for comparisons.
	slices.SortFunc(status.Conditions, func(a, b metav1.Condition) int { return order(a.Type) - order(b.Type) })
}

func order(kind string) int {
	return slices.Index([]string{v1alpha1.ConditionReady, v1alpha1.ConditionBuilding, v1alpha1.ConditionStalled}, kind)
}

// ready compares what is served with what the spec asks for.
func (p *Plan) ready(status *v1alpha1.NixImageStatus) verdict {
	matching, missing := p.matching(status)
	switch {
	case matching == len(p.systems) && matching == len(status.Images):
		return verdict{metav1.ConditionTrue, v1alpha1.ReasonAvailable, served(status)}
	case matching > 0 && matching == len(status.Images):
		return verdict{
			metav1.ConditionTrue, v1alpha1.ReasonPartlyAvailable,
			served(status) + "; it lacks " + strings.Join(missing, ", "),
		}
	}
	reason, message := v1alpha1.ReasonNotAvailable, "see the condition Stalled"
	if slices.ContainsFunc(p.systems, (*systemPlan).progressing) {
		reason, message = v1alpha1.ReasonBuilding, "the image is being built: see the condition Building"
	}
	if status.Digest != "" {
		message += "; an earlier version is served: " + served(status)
	}
	return verdict{metav1.ConditionFalse, reason, message}
}

// matching counts the served images that are made of the present spec, and names
// the systems that lack one.
func (p *Plan) matching(status *v1alpha1.NixImageStatus) (matching int, missing []string) {
	for _, s := range p.systems {
		if slices.ContainsFunc(status.Images, func(i v1alpha1.SystemImage) bool {
			return i.System == s.system && i.Inputs == s.inputs
		}) {
			matching++
		} else {
			missing = append(missing, string(s.system))
		}
	}
	if !strings.HasSuffix(status.Reference, ":"+p.image.Spec.Tag) {
		matching = 0
	}
	return matching, missing
}

func served(status *v1alpha1.NixImageStatus) string {
	return status.Reference + " is " + status.Digest
}

// building tells what the Jobs do.
func (p *Plan) building() verdict {
	reason, texts := "", []string(nil)
	for _, s := range p.systems {
		if !s.active() {
			continue
		}
		r, text := v1alpha1.ReasonScheduling, "the build Job is being made"
		if s.build != nil {
			r, text = s.build.Reason, s.build.Message
		}
		if s.build != nil && s.build.Phase == buildjob.Blocked {
			r = v1alpha1.ReasonWaiting
		}
		reason = further(reason, r)
		texts = append(texts, string(s.system)+": "+text)
	}
	if reason != "" {
		return verdict{metav1.ConditionTrue, reason, strings.Join(texts, "\n")}
	}
	for _, s := range p.systems {
		if s.pending {
			texts = append(texts, fmt.Sprintf("%s: %s", s.system, s.retry()))
		}
	}
	if texts != nil {
		return verdict{metav1.ConditionFalse, v1alpha1.ReasonRetrying, strings.Join(texts, "\n")}
	}
	return verdict{metav1.ConditionFalse, v1alpha1.ReasonFinished, "there is nothing to build"}
}

// further gives the reason that is nearer to the end.
func further(a, b string) string {
	steps := []string{"", v1alpha1.ReasonWaiting, v1alpha1.ReasonScheduling, v1alpha1.ReasonRealising}
	if slices.Index(steps, b) > slices.Index(steps, a) {
		return b
	}
	return a
}

// retry says when the next attempt begins.
func (s *systemPlan) retry() string {
	if s.build == nil {
		return "the build Job is tried again from time to time"
	}
	return fmt.Sprintf("attempt %d failed; the next one begins at %s", s.build.Attempt+1, s.next.UTC().Format(time.RFC3339))
}

// stalled tells what has to change.
func (p *Plan) stalled() verdict {
	first, texts := "", []string(nil)
	for _, s := range p.systems {
		reason, message := s.problem()
		if reason == "" || reason == v1alpha1.ReasonWaiting {
			continue
		}
		if first == "" {
			first = reason
		}
		texts = append(texts, string(s.system)+": "+message)
	}
	switch last := meta.FindStatusCondition(p.image.Status.Conditions, v1alpha1.ConditionStalled); {
	case first != "":
		return verdict{metav1.ConditionTrue, first, strings.Join(texts, "\n")}
	case last != nil && last.Status == metav1.ConditionTrue && last.ObservedGeneration == p.image.Generation && p.retrying():
		return verdict{last.Status, last.Reason, last.Message} // until the next attempt has something to say
	}
	return verdict{metav1.ConditionFalse, v1alpha1.ReasonProgressing, "nothing stands in the way"}
}

// retrying tells whether something is tried again.
func (p *Plan) retrying() bool {
	return slices.ContainsFunc(p.systems, func(s *systemPlan) bool {
		return s.active() && s.build != nil && s.build.Attempt > 0
	})
}
