package controller

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller/buildjob"
	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
)

// settle is how long the cache gets to learn of what a reconciliation wrote.
const settle = time.Second

// reconciler reconciles one object at a time, and several objects concurrently.
type reconciler struct {
	client   client.Client // reads the caches
	live     client.Reader // asks the API server
	rules    Rules
	settings buildjob.Settings
	log      *slog.Logger
	tell     teller
	metrics  *metrics
	refusals *refusals
	now      func() time.Time
}

// Reconcile brings one object's Jobs and status to where they belong.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	image := &v1alpha1.NixImage{}
	err := r.client.Get(ctx, req.NamespacedName, image)
	switch {
	case apierrors.IsNotFound(err):
		r.refusals.forget(req.NamespacedName)
		r.metrics.observe(req.NamespacedName, nil)
		return ctrl.Result{}, nil
	case err != nil:
		return ctrl.Result{}, fmt.Errorf("reading %s: %w", req, err)
	case !image.DeletionTimestamp.IsZero():
		return ctrl.Result{}, nil // the garbage collector takes its Jobs
	}
	jobs, err := r.observe(ctx, image)
	if err != nil {
		return ctrl.Result{}, err
	}
	plan := NewPlan(image, jobs, r.rules, r.now())
	acted, err := r.act(ctx, plan)
	if err != nil {
		return again(err)
	}
	written, err := r.write(ctx, plan)
	if err != nil {
		return again(err)
	}
	if acted || written {
		plan.wakeIn(settle)
	}
	return ctrl.Result{RequeueAfter: plan.Wake()}, nil
}

// again turns what a cache that lags behind leads to into a later look; other
// errors are tried again with controller-runtime's back-off.
func again(err error) (ctrl.Result, error) {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return ctrl.Result{RequeueAfter: settle}, nil
	}
	return ctrl.Result{}, err
}

// act makes, gives up and deletes Jobs. It tells whether it did any of it.
func (r *reconciler) act(ctx context.Context, plan *Plan) (bool, error) {
	acted := false
	for _, o := range plan.Fail {
		patch, err := buildjob.FailurePatch(o)
		if err != nil {
			return acted, err
		}
		if err := r.client.Patch(ctx, o.Job.DeepCopy(), client.RawPatch(mergePatch, patch)); err != nil {
			return acted, fmt.Errorf("giving up the Job %s: %w", o.Job.Name, err)
		}
		acted = true
	}
	for _, key := range plan.Create {
		created, err := r.create(ctx, plan, key)
		if err != nil {
			return acted, err
		}
		acted = acted || created
	}
	for _, o := range plan.Delete {
		err := r.client.Delete(ctx, o.Job.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationBackground),
			client.Preconditions{UID: &o.Job.UID})
		if client.IgnoreNotFound(err) != nil {
			return acted, fmt.Errorf("deleting the Job %s: %w", o.Job.Name, err)
		}
		acted = true
	}
	return acted, nil
}

// create makes the Job of one build, unless the API server refused it a while ago.
func (r *reconciler) create(ctx context.Context, plan *Plan, key buildjob.Key) (bool, error) {
	name := client.ObjectKeyFromObject(plan.image)
	if last, left := r.refusals.last(name, key, plan.now); left > 0 {
		plan.Refused(key, last)
		plan.wakeIn(left)
		return false, nil
	}
	// A cache that lags behind may not show the result of the very Job that is to be
	// made, which was deleted when the result was written.
	if err := r.current(ctx, plan.image); err != nil {
		return false, err
	}
	job := buildjob.New(plan.image, key, r.settings)
	err := r.client.Create(ctx, job)
	switch {
	case err == nil:
		r.refusals.taken(name, key)
		r.metrics.started.Inc()
		r.tell.started(plan.image, job)
		r.log.InfoContext(ctx, "build started", slog.String(logkey.Namespace, job.Namespace), slog.String("job", job.Name),
			slog.String(logkey.System, string(key.System)), slog.Int(logkey.Attempt, key.Attempt+1))
		return true, nil
	case apierrors.IsAlreadyExists(err):
		if !r.refusals.stranger(name, key) {
			return true, nil // made by an earlier life, or about to go: the cache will tell
		}
		err = nixstore.Fail(nixstore.ErrInvalid, "see whose it is, and delete it", "there is a Job %s already, which does not belong to this NixImage", job.Name)
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
	default:
		return false, fmt.Errorf("making the Job %s: %w", job.Name, err)
	}
	plan.wakeIn(r.refusals.note(name, key, err.Error(), plan.now, r.rules))
	plan.Refused(key, err.Error())
	return false, nil
}

// current is a conflict unless the object is the one that the API server has.
func (r *reconciler) current(ctx context.Context, image *v1alpha1.NixImage) error {
	live := &v1alpha1.NixImage{}
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(image), live); err != nil {
		return fmt.Errorf("reading %s: %w", image.Name, err)
	}
	if live.UID != image.UID || live.ResourceVersion != image.ResourceVersion || !live.DeletionTimestamp.IsZero() {
		return apierrors.NewConflict(v1alpha1.GroupVersion().WithResource("niximages").GroupResource(), image.Name,
			fmt.Errorf("the cache has %s, and the API server %s", image.ResourceVersion, live.ResourceVersion))
	}
	return nil
}

// write patches the status when it differs, and tells of what is new in it. It
// tells whether it wrote.
func (r *reconciler) write(ctx context.Context, plan *Plan) (bool, error) {
	status, err := plan.Status()
	if err != nil {
		return false, err
	}
	r.metrics.observe(client.ObjectKeyFromObject(plan.image), &status)
	if equality.Semantic.DeepEqual(status, plan.image.Status) {
		return false, nil
	}
	changed := plan.image.DeepCopy()
	changed.Status = status
	patch := client.MergeFromWithOptions(plan.image.DeepCopy(), client.MergeFromWithOptimisticLock{})
	if err := r.client.Status().Patch(ctx, changed, patch); err != nil {
		return false, fmt.Errorf("writing the status of %s: %w", plan.image.Name, err)
	}
	r.tell.changed(plan.image, &status)
	r.metrics.count(&plan.image.Status, &status)
	return true, nil
}
