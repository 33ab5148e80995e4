package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller/buildjob"
	"github.com/closured/closured/nixstore"
)

// mergePatch is the type of buildjob.FailurePatch.
const mergePatch = types.MergePatchType

// eventsMax bounds how many events of one object are read. Equal ones are one.
const eventsMax = 50

// observe reads the Jobs of an object, and what their states mean.
func (r *reconciler) observe(ctx context.Context, image *v1alpha1.NixImage) ([]buildjob.Observation, error) {
	var jobs batchv1.JobList
	ours := client.MatchingLabels{buildjob.LabelImage: image.Name, buildjob.LabelManagedBy: buildjob.ManagedBy}
	if err := r.client.List(ctx, &jobs, client.InNamespace(image.Namespace), ours); err != nil {
		return nil, fmt.Errorf("listing the Jobs of %s: %w", image.Name, err)
	}
	var all []buildjob.Observation
	for i := range jobs.Items {
		job := &jobs.Items[i]
		if _, ok := buildjob.KeyOf(job); !ok || !metav1.IsControlledBy(job, image) {
			continue // another's, or of an object that had this name before
		}
		o, err := r.observeJob(ctx, job)
		if err == nil && o.Phase == buildjob.Succeeded {
			o, err = r.believe(ctx, image, o)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	return all, nil
}

func (r *reconciler) observeJob(ctx context.Context, job *batchv1.Job) (buildjob.Observation, error) {
	facts := buildjob.Facts{Job: job, Now: r.now()}
	var err error
	if facts.Pods, err = pods(ctx, r.client, job); err != nil {
		return buildjob.Observation{}, err
	}
	o := buildjob.Observe(facts)
	if o.Phase == buildjob.Failed && o.Reason == v1alpha1.ReasonReportFailed && !reported(facts.Pods) {
		// The Job's end may have reached the cache before that of its pod.
		if facts.Pods, err = pods(ctx, r.live, job); err != nil {
			return buildjob.Observation{}, err
		}
		return buildjob.Observe(facts), nil
	}
	if !buildjob.NeedsEvents(facts) {
		return o, nil
	}
	if facts.Events, err = r.events(ctx, job, facts.Pods); err != nil {
		return buildjob.Observation{}, err
	}
	return buildjob.Observe(facts), nil
}

// believe gives the observation of a report, or of a failure when the pod that
// reported is not the one that was asked for. It asks the API server for that pod:
// the cache has no specs.
func (r *reconciler) believe(ctx context.Context, image *v1alpha1.NixImage, o buildjob.Observation) (buildjob.Observation, error) {
	list, err := pods(ctx, r.live, o.Job)
	if err != nil {
		return buildjob.Observation{}, err
	}
	want := buildjob.New(image, o.Key, r.settings).Spec.Template.Spec
	if c := o.Job.Spec.Template.Spec.Containers; len(c) > 0 {
		want.Containers[0].Image = c[0].Image // an earlier release's, when it was made by one
	}
	problem := "it is gone"
	for _, pod := range list {
		if problem = buildjob.Foreign(&pod.Spec, &want); problem != "" {
			break
		}
	}
	if problem == "" {
		return o, nil
	}
	failure := nixstore.Fail(nixstore.ErrInvalid, "see who may make or change such pods; a webhook that changes images needs --build-image, others an exception",
		"the report of the build pod is not believed: %s", problem)
	o.Phase, o.Reason, o.Message = buildjob.Failed, v1alpha1.ReasonReportFailed, buildjob.Clip(failure.Error())
	o.Mark, o.Time = true, metav1.NewTime(r.now())
	return o, nil
}

// reported tells whether a pod's container has ended.
func reported(list []corev1.Pod) bool {
	return slices.ContainsFunc(list, func(p corev1.Pod) bool {
		return slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Terminated != nil })
	})
}

// pods gives the pods of a Job that were not disrupted, the newest first. They have the label by which the
// installation's admission policies choose the pods that nobody else may make or
// report for: a pod without it is no build pod, whatever its owner reference says.
func pods(ctx context.Context, from client.Reader, job *batchv1.Job) ([]corev1.Pod, error) {
	var list corev1.PodList
	ours := client.MatchingLabels{batchv1.JobNameLabel: job.Name, buildjob.LabelManagedBy: buildjob.ManagedBy}
	if err := from.List(ctx, &list, client.InNamespace(job.Namespace), ours); err != nil {
		return nil, fmt.Errorf("listing the pods of the Job %s: %w", job.Name, err)
	}
	own := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
		return !metav1.IsControlledBy(&p, job) || buildjob.Disrupted(&p)
	})
	slices.SortFunc(own, func(a, b corev1.Pod) int {
		if c := b.CreationTimestamp.Compare(a.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return own, nil
}

// events asks the API server for the events of the pod, or of the Job that has
// none. They are not cached: the events of a cluster are many.
func (r *reconciler) events(ctx context.Context, job *batchv1.Job, own []corev1.Pod) ([]corev1.Event, error) {
	uid := job.UID
	if len(own) > 0 {
		if own[0].Spec.NodeName == "" {
			return nil, nil // the scheduler's words are in the pod's conditions
		}
		uid = own[0].UID
	}
	var list corev1.EventList
	of := client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("involvedObject.uid", string(uid))}
	if err := r.live.List(ctx, &list, client.InNamespace(job.Namespace), of, client.Limit(eventsMax)); err != nil {
		return nil, fmt.Errorf("listing the events of the Job %s: %w", job.Name, err)
	}
	return list.Items, nil
}
