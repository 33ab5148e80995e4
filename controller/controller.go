package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller/buildjob"
	"github.com/closured/closured/nixstore"
)

// Name is the controller's name in events, and that of its Lease.
const Name = "closured-controller"

// Config says what to control, and how.
type Config struct {
	// REST reaches the API server; required.
	REST *rest.Config
	// Build is the operator's part of build Jobs; its Image is required.
	Build buildjob.Settings
	// Rules are the operator's part of plans. Empty: the host nix.internal, and
	// 30 s of back-off, up to 30 min.
	Rules Rules
	// LeaderElection has this controller wait while another one leads. Its Lease is
	// in Namespace; empty: that of the pod.
	LeaderElection bool
	Namespace      string
	// HealthAddress and MetricsAddress are where /healthz and /readyz, and /metrics
	// are served; empty: nowhere.
	HealthAddress, MetricsAddress string
	// Registerer takes the metrics; nil: nobody sees them.
	Registerer prometheus.Registerer
	// Workers are how many objects are reconciled at once; 0: 4.
	Workers int
	// Log tells of what happens; nil: nobody hears.
	Log *slog.Logger
	// Now is the clock; nil: the real one.
	Now func() time.Time
}

// The limits of a controller's life.
const (
	stopLimit     = 20 * time.Second // for reconciliations that run at its end
	requestsLimit = 50               // to the API server, per second
	requestsBurst = 100
	leaseDuration = 15 * time.Second
	renewLimit    = 10 * time.Second
	leaseRetry    = 2 * time.Second
	reconcileMax  = 2 * time.Minute
)

// Controller is a controller that has not run yet.
type Controller struct {
	manager ctrl.Manager
}

// New checks the configuration and puts the parts together. It asks the API
// server which kinds it has.
func New(cfg Config) (*Controller, error) {
	if err := cfg.normalise(); err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, batchv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("making a scheme: %w", err)
		}
	}
	manager, err := ctrl.NewManager(cfg.REST, cfg.options(scheme))
	if err != nil {
		return nil, fmt.Errorf("making the controller: %w", err)
	}
	if err := cfg.probes(manager); err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	r := &reconciler{
		client: manager.GetClient(), live: manager.GetAPIReader(), rules: cfg.Rules, settings: cfg.Build, log: cfg.Log,
		tell: teller{manager.GetEventRecorder(Name)}, metrics: m, refusals: newRefusals(), now: cfg.Now,
	}
	err = ctrl.NewControllerManagedBy(manager).Named("niximage").
		For(&v1alpha1.NixImage{}).
		Owns(&batchv1.Job{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(imageOf)).
		Complete(r)
	if err != nil {
		return nil, fmt.Errorf("making the controller: %w", err)
	}
	return &Controller{manager}, nil
}

// Run works until ctx ends, and then lets running reconciliations finish, for at
// most 20 s. It runs once. When another controller has taken the lead away from this one,
// it ends with an error: the process shall end too, and begin anew.
func (c *Controller) Run(ctx context.Context) error {
	if err := c.manager.Start(ctx); err != nil {
		return fmt.Errorf("running the controller: %w", err)
	}
	return nil
}

// Elected is closed when this controller leads.
func (c *Controller) Elected() <-chan struct{} { return c.manager.Elected() }

func (c *Config) normalise() error {
	var problems []error
	if c.REST == nil {
		problems = append(problems, errors.New("REST is missing"))
	}
	if c.Build.Image == "" {
		problems = append(problems, nixstore.Fail(nixstore.ErrInvalid, "name the image that has "+Name, "the image of build pods is missing"))
	}
	if c.Rules.RegistryHost == "" {
		c.Rules.RegistryHost = "nix.internal"
	}
	if c.Rules.Backoff == 0 {
		c.Rules.Backoff = 30 * time.Second
	}
	if c.Rules.BackoffMax == 0 {
		c.Rules.BackoffMax = 30 * time.Minute
	}
	if c.Rules.Backoff < 0 || c.Rules.BackoffMax < c.Rules.Backoff {
		problems = append(problems, fmt.Errorf("a back-off of %s up to %s is none", c.Rules.Backoff, c.Rules.BackoffMax))
	}
	if c.Workers < 0 {
		problems = append(problems, fmt.Errorf("%d workers are not a number of workers", c.Workers))
	}
	if c.Workers == 0 {
		c.Workers = 4
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Registerer == nil {
		c.Registerer = prometheus.NewRegistry()
	}
	return errors.Join(problems...)
}

// options gives those of the manager.
func (c *Config) options(scheme *runtime.Scheme) ctrl.Options {
	api := rest.CopyConfig(c.REST)
	if api.QPS == 0 {
		api.QPS, api.Burst = requestsLimit, requestsBurst
	}
	c.REST = api
	ours := cache.ByObject{
		Label: labels.SelectorFromSet(labels.Set{buildjob.LabelManagedBy: buildjob.ManagedBy}), Transform: slim,
	}
	return ctrl.Options{
		Scheme: scheme,
		Logger: logr.FromSlogHandler(c.Log.Handler()),
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject:         map[client.Object]cache.ByObject{&batchv1.Job{}: ours, &corev1.Pod{}: ours},
		},
		Metrics:                 metricsserver.Options{BindAddress: orNone(c.MetricsAddress)},
		HealthProbeBindAddress:  orNone(c.HealthAddress),
		GracefulShutdownTimeout: new(stopLimit),
		Controller: config.Controller{
			SkipNameValidation: new(true), MaxConcurrentReconciles: c.Workers, ReconciliationTimeout: reconcileMax,
		},
		LeaderElection: c.LeaderElection, LeaderElectionID: Name, LeaderElectionNamespace: c.Namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 new(leaseDuration), RenewDeadline: new(renewLimit), RetryPeriod: new(leaseRetry),
	}
}

// orNone gives controller-runtime's word for nowhere.
func orNone(address string) string {
	if address == "" {
		return "0"
	}
	return address
}

func (c *Config) probes(manager ctrl.Manager) error {
	synced := func(req *http.Request) error {
		if !manager.GetCache().WaitForCacheSync(req.Context()) {
			return errors.New("the cache is not filled yet")
		}
		return nil
	}
	if err := errors.Join(manager.AddHealthzCheck("ping", healthz.Ping), manager.AddReadyzCheck("cache", synced)); err != nil {
		return fmt.Errorf("making the probes: %w", err)
	}
	return nil
}

// imageOf gives the object that a build pod belongs to.
func imageOf(_ context.Context, pod client.Object) []reconcile.Request {
	name := pod.GetLabels()[buildjob.LabelImage]
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Namespace: pod.GetNamespace(), Name: name}}}
}

// slim drops what nobody here reads from Jobs and pods, before they are cached: also
// of those that somebody else gave our label.
func slim(object any) (any, error) {
	switch o := object.(type) {
	case *batchv1.Job:
		o.ManagedFields, o.Annotations = nil, buildjob.Annotations(o)
		var images []corev1.Container
		for _, c := range o.Spec.Template.Spec.Containers {
			images = append(images, corev1.Container{Image: c.Image})
		}
		o.Spec.Template = corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: images}}
	case *corev1.Pod:
		o.ManagedFields, o.Annotations = nil, nil
		o.Spec = corev1.PodSpec{NodeName: o.Spec.NodeName}
	}
	return object, nil
}
