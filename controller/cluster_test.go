package controller_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller"
	"github.com/closured/closured/controller/buildjob"
	"github.com/closured/closured/controller/controllertest"
	"github.com/closured/closured/controller/report"
	"github.com/closured/closured/nixstore"
)

const (
	tools = "tools" // the namespace of the tests
	limit = 2 * time.Minute
	every = 50 * time.Millisecond
)

// world is a cluster with the CRD, and the part of everybody but the controller.
type world struct {
	*controllertest.Cluster
	client.Client
}

func newWorld(t *testing.T) *world {
	t.Helper()
	cluster := controllertest.Start(t)
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, batchv1.AddToScheme, rbacv1.AddToScheme, v1alpha1.AddToScheme} {
		must(t, add(scheme))
	}
	c, err := client.New(cluster.Config, client.Options{Scheme: scheme})
	must(t, err)
	w := &world{cluster, c}
	data, err := os.ReadFile("../deploy/components/niximage/closured.dev_niximages.yaml")
	must(t, err)
	crd := &unstructured.Unstructured{}
	must(t, yaml.Unmarshal(data, crd))
	must(t, w.Create(t.Context(), crd))
	w.namespace(t, tools)
	w.rights(t)
	w.eventually(t, "the kind is served", func(ctx context.Context) error {
		return w.List(ctx, &v1alpha1.NixImageList{})
	})
	return w
}

// robot is the user that controllers are.
const robot = "controller"

// rights gives the controllers what they need, and nothing else: all tests run
// with just that.
func (w *world) rights(t *testing.T) {
	t.Helper()
	rule := func(group string, resources []string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: verbs}
	}
	everywhere := []rbacv1.PolicyRule{
		rule("closured.dev", []string{"niximages"}, "get", "list", "watch"),
		rule("closured.dev", []string{"niximages/status"}, "patch"),
		rule("closured.dev", []string{"niximages/finalizers"}, "update"), // owner references that block, where that is enforced
		rule("batch", []string{"jobs"}, "list", "watch", "create", "patch", "delete"),
		rule("", []string{"pods"}, "list", "watch"),
		rule("", []string{"events"}, "list"),
		rule("events.k8s.io", []string{"events"}, "create", "patch"),
	}
	own := []rbacv1.PolicyRule{
		rule("coordination.k8s.io", []string{"leases"}, "get", "create", "update"),
		rule("", []string{"events"}, "create", "patch"), // of the Lease
	}
	name := metav1.ObjectMeta{Name: robot, Namespace: "default"}
	subjects := []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: robot}}
	for _, object := range []client.Object{
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: robot}, Rules: everywhere},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: robot}, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: robot}},
		&rbacv1.Role{ObjectMeta: name, Rules: own},
		&rbacv1.RoleBinding{ObjectMeta: name, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: robot}},
	} {
		must(t, w.Create(t.Context(), object))
	}
}

// namespace makes one with the strictest pod security.
func (w *world) namespace(t *testing.T, name string) {
	t.Helper()
	must(t, w.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls until check is content.
func (w *world) eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not in %s: %s: %v", limit, what, err)
		case <-time.After(every):
		}
	}
}

// options change how a test's controller runs.
type options struct {
	writes  *writes // nil: as many as it likes
	restart bool    // it begins anew when it ends by itself, as a pod does
}

// make makes a controller.
func (w *world) make(o options) (*controller.Controller, error) {
	api := rest.CopyConfig(w.Config)
	api.Impersonate.UserName = robot
	if o.writes != nil {
		api.Wrap(o.writes.wrap)
	}
	return controller.New(controller.Config{
		REST: api, Build: buildjob.Settings{Image: "closured:test"}, LeaderElection: true, Namespace: "default",
		Rules: controller.Rules{Backoff: time.Second, BackoffMax: 4 * time.Second},
	})
}

// start runs a controller until stop is called, or the test ends.
func (w *world) start(t *testing.T, o options) (c *controller.Controller, stop func()) {
	t.Helper()
	c, err := w.make(o)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		err := c.Run(ctx)
		for o.restart && ctx.Err() == nil {
			next, errNew := w.make(o)
			if err = errNew; err == nil {
				err = next.Run(ctx)
			}
		}
		done <- err
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !o.restart {
			t.Errorf("the controller ended: %v", err)
		}
	})
	t.Cleanup(stop)
	return c, stop
}

// relay runs a controller that is cut off after n writes, and then another one,
// until stop is called.
func (w *world) relay(t *testing.T, n int) (stop func()) {
	t.Helper()
	limited := writesOf(n)
	first, err := w.make(options{writes: limited})
	must(t, err)
	second, err := w.make(options{})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		short, end := context.WithCancel(ctx)
		go func() {
			defer end()
			select {
			case <-limited.cut:
			case <-ctx.Done():
			}
		}()
		_ = first.Run(short) // its errors are those of one that was cut off
		done <- second.Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the controller ended: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// writes counts the requests that change something, and cuts the controller off
// after some: what it has written by then is all that a killed one would have.
type writes struct {
	left atomic.Int64
	cut  chan struct{} // closed when the last was used
}

func writesOf(n int) *writes {
	w := &writes{cut: make(chan struct{})}
	w.left.Store(int64(n))
	return w
}

func (w *writes) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.Method == http.MethodGet || strings.Contains(req.URL.Path, "/leases") || strings.Contains(req.URL.Path, "/events") {
			return next.RoundTrip(req)
		}
		switch left := w.left.Add(-1); {
		case left < 0:
			return nil, errors.New("killed")
		case left == 0:
			defer close(w.cut)
		}
		return next.RoundTrip(req)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return r(req) }

// image makes an object of the given spec.
func (w *world) image(t *testing.T, name string, spec v1alpha1.NixImageSpec) *v1alpha1.NixImage {
	t.Helper()
	image := &v1alpha1.NixImage{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: tools}, Spec: spec}
	must(t, w.Create(t.Context(), image))
	return image
}

// job waits for the one Job of an object that nothing has come of yet, for a
// system that contains the word.
func (w *world) job(t *testing.T, image *v1alpha1.NixImage, system string, attempt string) *batchv1.Job {
	t.Helper()
	var found *batchv1.Job
	w.eventually(t, "a Job of "+image.Name, func(ctx context.Context) error {
		var jobs batchv1.JobList
		if err := w.List(ctx, &jobs, client.InNamespace(tools), client.MatchingLabels{
			buildjob.LabelImage: image.Name, buildjob.LabelSystem: system, buildjob.LabelAttempt: attempt,
		}); err != nil {
			return err
		}
		open := 0
		for i, job := range jobs.Items {
			if len(job.Status.Conditions) == 0 && (job.Spec.Suspend == nil || !*job.Spec.Suspend) {
				open, found = open+1, &jobs.Items[i]
			}
		}
		if open != 1 {
			return fmt.Errorf("%d Jobs are open, of %d", open, len(jobs.Items))
		}
		return nil
	})
	return found
}

// pod makes the pod of a Job, as the Job controller would.
func (w *world) pod(t *testing.T, job *batchv1.Job, node string) *corev1.Pod {
	t.Helper()
	template := job.Spec.Template.DeepCopy()
	template.Labels[batchv1.JobNameLabel] = job.Name
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: job.Name + "-x", Namespace: job.Namespace, Labels: template.Labels,
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))},
	}, Spec: template.Spec}
	pod.Spec.NodeName = node
	must(t, w.Create(t.Context(), pod))
	return pod
}

const (
	root   = "/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-curl-8.1.2"
	node   = "node-a"
	digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
)

func goodReport(system, digest string) report.Report {
	return report.Report{
		Root: nixstore.MustParseStorePath(root), System: system, Digest: digest,
		ManifestSize: 500, Size: 123456789, Paths: 12, Node: node,
	}
}

// finish ends a Job with a report, as kubelet and the Job controller would.
func (w *world) finish(t *testing.T, job *batchv1.Job, r report.Report) {
	t.Helper()
	w.report(t, w.pod(t, job, node), r)
}

// report ends a pod with a report. The clock of its node is an hour behind.
func (w *world) report(t *testing.T, pod *corev1.Pod, r report.Report) {
	t.Helper()
	message, err := r.Encode()
	must(t, err)
	code, phase := int32(0), corev1.PodSucceeded
	if r.Failure != "" {
		code, phase = 1, corev1.PodFailed
	}
	pod.Status.Phase = phase
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "report", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Message: string(message), Reason: "Completed", FinishedAt: metav1.NewTime(time.Now().Add(-time.Hour))},
	}}}
	must(t, w.Status().Update(t.Context(), pod))
}

// event makes one, as kubelet would.
func (w *world) event(t *testing.T, of client.Object, kind, reason, note string) {
	t.Helper()
	now := metav1.Now()
	must(t, w.Create(t.Context(), &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: of.GetName() + "-", Namespace: of.GetNamespace()},
		InvolvedObject: corev1.ObjectReference{Kind: kind, Namespace: of.GetNamespace(), Name: of.GetName(), UID: of.GetUID()},
		Reason:         reason, Message: note, Type: corev1.EventTypeWarning, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: "kubelet"},
	}))
}

// is waits until a condition has a status and a reason, and gives the object.
func (w *world) is(t *testing.T, image *v1alpha1.NixImage, condition, status, reason string) *v1alpha1.NixImage {
	t.Helper()
	now := &v1alpha1.NixImage{}
	w.eventually(t, image.Name+" is "+condition+"="+status+" "+reason, func(ctx context.Context) error {
		if err := w.Get(ctx, client.ObjectKeyFromObject(image), now); err != nil {
			return err
		}
		c := meta.FindStatusCondition(now.Status.Conditions, condition)
		if c == nil || string(c.Status) != status || c.Reason != reason || c.ObservedGeneration != now.Generation {
			return fmt.Errorf("generation %d: %+v", now.Generation, now.Status.Conditions)
		}
		return nil
	})
	return now
}

func says(t *testing.T, image *v1alpha1.NixImage, condition string, words ...string) {
	t.Helper()
	c := meta.FindStatusCondition(image.Status.Conditions, condition)
	for _, word := range words {
		if !strings.Contains(c.Message, word) {
			t.Errorf("%s says %q, which lacks %q", condition, c.Message, word)
		}
	}
}

// jobs gives how many Jobs an object has had, by the audit log: each was made once.
func (w *world) jobsMade(t *testing.T) map[string]int {
	t.Helper()
	made := map[string]int{}
	data, err := os.ReadFile(w.AuditLog)
	must(t, err)
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, `"verb":"create"`) && strings.Contains(line, `"resource":"jobs"`) && strings.Contains(line, `"code":201`) {
			_, rest, _ := strings.Cut(line, `"resource":"jobs"`)
			_, rest, _ = strings.Cut(rest, `"name":"`)
			name, _, _ := strings.Cut(rest, `"`)
			made[name]++
		}
	}
	return made
}
