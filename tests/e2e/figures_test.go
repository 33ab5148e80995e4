//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	manyPods = 100
	rounds   = 20
)

// TestManyPods: a node full of pods, all deleted at once.
func TestManyPods(t *testing.T) {
	begin := time.Now()
	pods := make([]*corev1.Pod, manyPods)
	for i := range pods {
		name := []string{"one", "two", "ready"}[i%3]
		pods[i] = create(t, newPod(plain, fmt.Sprintf("many-%d", i), attributes{"packages": name}))
	}
	for i := range pods {
		pods[i] = ready(t, pods[i], 10*time.Minute)
	}
	created := time.Since(begin)
	requireMounts(t, manyPods)

	begin = time.Now()
	remove(t, pods...)
	figure("100 pods", "created to all Ready %s, deleted to all gone %s", created.Round(time.Second), time.Since(begin).Round(time.Second))
	requireClean(t)
	err := wait(t.Context(), 2*time.Minute, "the end of the pods' folders", func() error {
		for _, pod := range pods {
			if _, err := os.Lstat(filepath.Join(kubeletDir, "pods", string(pod.UID))); !os.IsNotExist(err) {
				return fmt.Errorf("that of pod %s is there: %v", pod.Name, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestTimeToReady compares a pod with a closure that is on the node with the
// same pod with an emptyDir, by turns.
func TestTimeToReady(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	start(t, newPod(plain, "warm", attributes{"packages": "many"}))
	var closure, empty []time.Duration
	for i := range rounds {
		pod := busybox(newPod(plain, fmt.Sprintf("closure-%d", i), attributes{"packages": "many"}))
		took, pod := timeToReady(t, pod)
		remove(t, pod)
		closure = append(closure, took)
		pod = busybox(newPod(plain, fmt.Sprintf("empty-%d", i), nil))
		pod.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
		took, pod = timeToReady(t, pod)
		remove(t, pod)
		empty = append(empty, took)
	}
	a, slowestA := median(closure)
	b, slowestB := median(empty)
	figure("created to Ready", "median of %d (slowest): closure of 1,500 paths on the node %s (%s), emptyDir %s (%s), ratio %s",
		rounds, ms(a), ms(slowestA), ms(b), ms(slowestB), ratio(a, b))
}

// TestFirstPod compares the first pod of a closure of 1,500 paths that is in the
// store, for which the view is made, with the second one, which shares it.
func TestFirstPod(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	const closures = 10 // of the package firsts
	all := ready(t, create(t, newPod(plain, "firsts", attributes{"packages": "firsts"})), 5*time.Minute)
	var first, second []time.Duration
	var making, sharing time.Duration // what the agent itself needed for all
	for i := range closures {
		root := in(t, all, bin+"readlink", fmt.Sprintf("/nix/var/result/share/first-%d", i))
		begin := publishing(t)
		took, one := timeToReady(t, busybox(newPod(plain, fmt.Sprintf("first-%d", i), attributes{"storePath": root})))
		first = append(first, took)
		made, views := publishing(t), metric(t, "closured_views")
		took, two := timeToReady(t, busybox(newPod(plain, fmt.Sprintf("second-%d", i), attributes{"storePath": root})))
		second = append(second, took)
		making, sharing = making+made-begin, sharing+publishing(t)-made
		if now := metric(t, "closured_views"); now > views {
			t.Errorf("with the second pod of a closure there are %.0f views, with the first there were %.0f", now, views)
		}
		remove(t, one, two)
	}
	a, slowestA := median(first)
	b, slowestB := median(second)
	figure("first pod of a closure", "created to Ready, 1,500 paths in the store, median of %d (slowest): first %s (%s), second %s (%s), ratio %s, %s more (bar: 100 ms)",
		closures, ms(a), ms(slowestA), ms(b), ms(slowestB), ratio(a, b), ms(a-b))
	figure("first publish of a closure", "by the agent's own clock, mean of %d: first %s, second %s, %s more",
		closures, ms(making/closures), ms(sharing/closures), ms((making-sharing)/closures))
}

// publishing gives the time that all volumes took that were published.
func publishing(t *testing.T) time.Duration {
	t.Helper()
	return time.Duration(metric(t, `closured_publish_seconds_sum{result="OK"}`) * float64(time.Second))
}

func ms(d time.Duration) string { return d.Round(time.Millisecond).String() }

// median gives the median and the longest of some durations, which it sorts.
func median(d []time.Duration) (middle, longest time.Duration) {
	slices.Sort(d)
	return d[len(d)/2], d[len(d)-1]
}

// timeToReady makes a pod and gives the time until it is seen ready.
func timeToReady(t *testing.T, pod *corev1.Pod) (time.Duration, *corev1.Pod) {
	t.Helper()
	watch, err := w.kube.CoreV1().Pods(pod.Namespace).Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + pod.Name})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	begin := time.Now()
	made := create(t, pod)
	limit := time.After(3 * time.Minute)
	for {
		select {
		case event, open := <-watch.ResultChan():
			now, ok := event.Object.(*corev1.Pod)
			switch {
			case !open: // the API server ends watches when it likes
				return time.Since(begin), ready(t, made, time.Minute)
			case ok && now.UID == made.UID && isReady(now):
				return time.Since(begin), now
			}
		case <-limit:
			t.Fatalf("pod %s is not ready", pod.Name)
		}
	}
}
