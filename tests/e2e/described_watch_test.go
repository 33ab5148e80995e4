//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

const (
	controllerPods = "app.kubernetes.io/name=closured,app.kubernetes.io/component=controller"
	builtFor       = "closured.dev/niximage" // label of build Jobs and pods
)

// described gives access to a kind of objects in the namespace of NixImages.
func described(t *testing.T, kind string) dynamic.ResourceInterface {
	t.Helper()
	client, err := dynamic.NewForConfig(w.config)
	if err != nil {
		t.Fatal(err)
	}
	resource := map[string]schema.GroupVersionResource{
		"niximages": {Group: "closured.dev", Version: "v1alpha1", Resource: kind},
		"jobs":      {Group: "batch", Version: "v1", Resource: kind},
		"pods":      {Version: "v1", Resource: kind},
	}[kind]
	return client.Resource(resource).Namespace(describedNamespace)
}

// lister lists and watches a kind's objects.
func lister(t *testing.T, kind string) *cache.ListWatch {
	t.Helper()
	objects := described(t, kind)
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return objects.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return objects.Watch(ctx, o)
		},
	}
}

// watchDescribed tells of each change of a kind's objects from now on.
func watchDescribed(t *testing.T, kind string) watch.Interface {
	t.Helper()
	list, err := described(t, kind).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	events, err := watchtools.NewRetryWatcherWithContext(t.Context(), list.GetResourceVersion(), lister(t, kind))
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// jobsSeen are all Jobs that were made.
type jobsSeen struct {
	mu   sync.Mutex                    // guards made
	made map[string]map[types.UID]bool // by what they build
}

// watchJobs notes each Job until the test ends. It lists them anew when a new API
// server knows nothing of what the old one said last.
func watchJobs(t *testing.T) *jobsSeen {
	t.Helper()
	j := &jobsSeen{made: map[string]map[types.UID]bool{}}
	note := func(object any) {
		if job, ok := object.(*unstructured.Unstructured); ok {
			j.note(job)
		}
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lister(t, "jobs"), ObjectType: &unstructured.Unstructured{},
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: note, UpdateFunc: func(_, now any) { note(now) }},
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		informer.RunWithContext(t.Context())
	}()
	t.Cleanup(func() { <-ended }) // the test's context has ended
	err := wait(t.Context(), time.Minute, "the watch of Jobs", func() error {
		if !informer.HasSynced() {
			return errors.New("it has not begun")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func (j *jobsSeen) note(job *unstructured.Unstructured) {
	labels, owner := job.GetLabels(), types.UID("")
	for _, o := range job.GetOwnerReferences() {
		owner = o.UID
	}
	key := strings.Join([]string{labels[builtFor], string(owner), labels["closured.dev/system"], labels["closured.dev/build"],
		"round " + labels["closured.dev/round"], "attempt " + labels["closured.dev/attempt"]}, " ")
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.made[key] == nil {
		j.made[key] = map[types.UID]bool{}
	}
	j.made[key][job.GetUID()] = true
}

// of gives how many Jobs were made of some objects.
func (j *jobsSeen) of(names ...string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for key, made := range j.made {
		if name, _, _ := strings.Cut(key, " "); slices.Contains(names, name) {
			n += len(made)
		}
	}
	return n
}

// requireOnce wants one Job at most for one thing, and no second attempt.
func (j *jobsSeen) requireOnce(t *testing.T) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	for key, made := range j.made {
		if len(made) != 1 || !strings.HasSuffix(key, " attempt 0") {
			t.Errorf("%d Jobs were made of %s", len(made), key)
		}
	}
	if len(j.made) == 0 {
		t.Error("no Jobs were seen")
	}
}

// awaitDescribed waits until the objects with the names, or all objects, are ready
// in their present generation and have no Jobs, and gives them.
func awaitDescribed(t *testing.T, names ...string) []unstructured.Unstructured {
	t.Helper()
	limit := 4 * time.Minute
	if len(names) == 0 {
		limit *= 4
	}
	var found []unstructured.Unstructured
	err := wait(t.Context(), limit, "the objects to be ready", func() error {
		list, err := described(t, "niximages").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		jobs, err := w.kube.BatchV1().Jobs(describedNamespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		found = slices.DeleteFunc(list.Items, func(o unstructured.Unstructured) bool { return len(names) > 0 && !slices.Contains(names, o.GetName()) })
		problems := []error{}
		for i := range found {
			problems = append(problems, isDescribedReady(&found[i]))
		}
		for _, job := range jobs.Items {
			if len(names) == 0 || slices.Contains(names, job.Labels[builtFor]) {
				problems = append(problems, errors.New("the Job "+job.Name+" is there"))
			}
		}
		if len(found) < len(names) {
			problems = append(problems, fmt.Errorf("there are %d objects", len(found)))
		}
		return errors.Join(problems...)
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// isDescribedReady is nil when the object is ready in its present generation.
func isDescribedReady(o *unstructured.Unstructured) error {
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == "Ready" && c["status"] == "True" && c["observedGeneration"] == o.GetGeneration() {
			return nil
		}
	}
	return fmt.Errorf("%s in generation %d: %v", o.GetName(), o.GetGeneration(), conditions)
}

// awaitNone waits until there is no object of the kind.
func awaitNone(t *testing.T, kind string) {
	t.Helper()
	err := wait(t.Context(), 3*time.Minute, "the end of all "+kind, func() error {
		list, err := described(t, kind).List(t.Context(), metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d are there, as %s", len(list.Items), list.Items[0].GetName())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tell writes what one of the packages "moving" and "slowly" does when it is built.
func tell(t *testing.T, name, script string) {
	t.Helper()
	file := filepath.Join(w.dir, "packages", name+".sh")
	if err := os.WriteFile(file+".new", []byte(": closured-e2e-"+name+"\n"+script+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// salt is something that was never built before.
func salt() string { return "salt-" + strings.ToLower(rand.Text()) }

// awaitBuild waits until a package is being built, and gives the processes.
func awaitBuild(t *testing.T, name string) (pids []int) {
	t.Helper()
	err := wait(t.Context(), 2*time.Minute, "the build of "+name, func() error {
		if pids = builders(t, name); len(pids) == 0 {
			return errors.New("nothing builds")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

// controllers gives the controller's pods that are ready.
func controllers(t *testing.T) []corev1.Pod {
	t.Helper()
	pods, err := w.kube.CoreV1().Pods(agentNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: controllerPods})
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil || !isReady(&p) })
}

// onlyController gives the pod of the only controller, as soon as it runs.
func onlyController(t *testing.T) (pod *corev1.Pod) {
	t.Helper()
	err := wait(t.Context(), 2*time.Minute, "the controller", func() error {
		pods := controllers(t)
		if len(pods) != 1 {
			return fmt.Errorf("%d are ready", len(pods))
		}
		pod = &pods[0]
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// controllerPID gives the controller's process.
func controllerPID(t *testing.T, pod *corev1.Pod) int {
	t.Helper()
	pids := processesOf(t, pod, "controller")
	if len(pids) != 1 || !strings.Contains(read(t, fmt.Sprintf("/proc/%d/cmdline", pids[0])), "closured-controller") {
		t.Fatalf("in pod %s run the processes %v", pod.Name, pids)
	}
	return pids[0]
}

// leaseHolder gives who leads: the name of a pod, "_" and what is of one process.
func leaseHolder(ctx context.Context) (string, error) {
	lease, err := w.kube.CoordinationV1().Leases(agentNamespace).Get(ctx, "closured-controller", metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil {
		return "", err
	}
	return *lease.Spec.HolderIdentity, nil
}

// controllerMetrics gives the lines of a controller's metrics.
func controllerMetrics(ctx context.Context, pod *corev1.Pod) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+pod.Status.PodIP+":9860/metrics", nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

func controllerMetric(ctx context.Context, pod *corev1.Pod, name string) (float64, error) {
	lines, err := controllerMetrics(ctx, pod)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(lines) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(text), 64)
		}
	}
	return 0, fmt.Errorf("pod %s has no metric %s", pod.Name, name)
}
