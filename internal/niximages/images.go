package niximages

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
)

// Config says whose NixImages are followed, and for whom. API is required.
type Config struct {
	API cache.ListerWatcher // of NixImages in all namespaces
	// System is the node's Nix system. Default: this program's.
	System string
	// Patience is how long a question waits for an image that is on its way. Default
	// 30 s: a quarter of what kubelet gives a call.
	Patience time.Duration
	// Retry is how long after a first failure the API server is asked again; it
	// doubles up to a minute. Default 1 s.
	Retry time.Duration
	Log   *slog.Logger // nil: discarded
}

// Images is what is known of the cluster's NixImages.
type Images struct {
	cfg     Config
	log     *slog.Logger
	waiters chan struct{} // one for each question of the registry that waits

	mu      sync.RWMutex // guards all below
	objects map[string]*object
	seen    bool          // all objects were seen once
	absent  int           // how often in a row the cluster did not know the kind
	trouble error         // why they were not; for users
	told    string        // the trouble that the log was told
	changed chan struct{} // closed at the next change
}

// registryWaiters bounds how many pulls wait here for an image: fewer than the
// images that the registry makes at a time, or others would wait behind them.
const registryWaiters = 4

// New makes Images that know nothing until Run has asked. The error joins every problem.
func New(cfg Config) (*Images, error) {
	var problems []error
	if cfg.API == nil {
		problems = append(problems, errors.New("no API"))
	}
	if cfg.Patience < 0 || cfg.Retry < 0 {
		problems = append(problems, errors.New("a negative duration"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("following NixImages: %w", err)
	}
	cfg.System = cmp.Or(cfg.System, nixstore.System())
	cfg.Patience = cmp.Or(cfg.Patience, 30*time.Second)
	cfg.Retry = cmp.Or(cfg.Retry, time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Images{
		cfg: cfg, log: cfg.Log, waiters: make(chan struct{}, registryWaiters),
		objects: map[string]*object{}, changed: make(chan struct{}),
	}, nil
}

// Run follows the objects until ctx ends. It always gives nil.
func (i *Images) Run(ctx context.Context) error {
	const steps, most = 10, time.Minute
	r := cache.NewReflectorWithOptions(i.observed(), &v1alpha1.NixImage{}, store{i}, cache.ReflectorOptions{
		Name: "niximages", TypeDescription: "NixImage",
		// The jitter keeps a cluster's agents from coming all at once.
		Backoff: &wait.Backoff{Duration: i.cfg.Retry, Factor: 2, Jitter: 1, Steps: steps, Cap: most},
	})
	// The reflector would tell each failure, again and again; failed tells them.
	r.RunWithContext(logr.NewContext(ctx, logr.Discard()))
	return nil
}

// observed is the API with an eye on its failures.
func (i *Images) observed() cache.ListerWatcher {
	api := cache.ToListerWatcherWithContext(i.cfg.API)
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			list, err := api.ListWithContext(ctx, options)
			if err != nil && ctx.Err() == nil {
				i.failed(err)
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			w, err := api.WatchWithContext(ctx, options)
			// A refused streaming list and a forgotten resource version are followed by a
			// list, and that is what tells.
			if err != nil && ctx.Err() == nil && !apierrors.IsInvalid(err) && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
				i.failed(err)
			}
			return w, err
		},
	}
}

// failed notes that the objects cannot be listed or watched.
func (i *Images) failed(err error) {
	trouble := judge(err)
	i.mu.Lock()
	i.trouble = trouble
	if !apierrors.IsNotFound(err) {
		i.absent = 0
	} else if i.absent++; i.absent == absentSure {
		i.wakeLocked()
	}
	news := i.told != trouble.Error()
	i.told = trouble.Error()
	i.mu.Unlock()
	if news {
		i.log.Warn("nix images cannot be followed, going on with what was seen", slog.String(logkey.Error, err.Error()))
	}
}

// judge gives what users read of a failure.
func judge(err error) error {
	const what = "NixImages cannot be read: "
	switch {
	case apierrors.IsNotFound(err):
		return nixstore.Fail(nixstore.ErrUnavailable, "install it with the component deploy/components/niximage, or with nixImage.enabled=true of the chart",
			what+"the cluster does not know the kind")
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return nixstore.Fail(nixstore.ErrUnavailable, "apply the component deploy/components/niximage, whose role lets agents list and watch niximages",
			what+"the agent may not")
	}
	return nixstore.Fail(nixstore.ErrUnavailable, "wait, it is asked again and again", what+"the API server does not answer")
}

// change replaces objects, and wakes whoever waits.
func (i *Images) change(how func(objects map[string]*object)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	how(i.objects)
	i.wakeLocked()
}

func (i *Images) wakeLocked() {
	close(i.changed)
	i.changed = make(chan struct{})
}

// absentSure is how often in a row the cluster must say that it does not know the
// kind, to be believed: within its start an API server may say so of any.
const absentSure = 6

// get gives an object, nil when there is none, and what is closed at the next
// change. The error says why nothing is known at all.
func (i *Images) get(key string) (*object, <-chan struct{}, error) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	if i.seen {
		return i.objects[key], i.changed, nil
	}
	if i.trouble != nil {
		return nil, i.changed, i.trouble
	}
	return nil, i.changed, nixstore.Fail(nixstore.ErrUnavailable, "wait, it is asked again and again",
		"NixImages are not known yet: the API server has not answered")
}

// Nodes gives the nodes that have a closure, as far as the objects say, sorted.
func (i *Images) Nodes(root nixstore.StorePath) []string {
	i.mu.RLock()
	defer i.mu.RUnlock()
	nodes := map[string]struct{}{}
	for _, o := range i.objects {
		o.nodesOf(root, nodes)
	}
	return sortedKeys(nodes)
}

// Count gives how many objects are known.
func (i *Images) Count() int {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return len(i.objects)
}
