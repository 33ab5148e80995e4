//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
	t.Logf("%d pods were ready after %s", manyPods, time.Since(begin).Round(time.Second))
	requireMounts(t, manyPods)

	begin = time.Now()
	remove(t, pods...)
	t.Logf("they were gone after %s", time.Since(begin).Round(time.Second))
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
		closure = append(closure, timeToReady(t, pod))
		pod = busybox(newPod(plain, fmt.Sprintf("empty-%d", i), nil))
		pod.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
		empty = append(empty, timeToReady(t, pod))
	}
	slices.Sort(closure)
	slices.Sort(empty)
	t.Logf("created to Ready, median of %d (slowest): closure %s (%s), emptyDir %s (%s)", rounds,
		ms(closure[rounds/2]), ms(closure[rounds-1]), ms(empty[rounds/2]), ms(empty[rounds-1]))
}

func ms(d time.Duration) string { return d.Round(time.Millisecond).String() }

// timeToReady makes a pod, gives the time until it is seen ready, and takes it away.
func timeToReady(t *testing.T, pod *corev1.Pod) time.Duration {
	t.Helper()
	watch, err := w.kube.CoreV1().Pods(pod.Namespace).Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + pod.Name})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	begin := time.Now()
	made := create(t, pod)
	limit := time.After(time.Minute)
	for {
		select {
		case event := <-watch.ResultChan():
			now, ok := event.Object.(*corev1.Pod)
			if !ok || !isReady(now) {
				continue
			}
			took := time.Since(begin)
			remove(t, made)
			return took
		case <-limit:
			t.Fatalf("pod %s is not ready", pod.Name)
		}
	}
}

// TestAtRest measures the agent alone when nothing happens.
func TestAtRest(t *testing.T) {
	requireClean(t)
	pids := mustPIDs(t)
	if len(pids) != 1 {
		t.Fatalf("the node has the agents %v", pids)
	}
	const span = 20 * time.Second
	before := processor(t, pids[0])
	time.Sleep(span)
	used := processor(t, pids[0]) - before
	share := 100 * used.Seconds() / span.Seconds()
	memory := memoryOf(t, pids[0])
	t.Logf("at rest: %.1f MiB resident, %.2f %% of a core", float64(memory)/(1<<20), share)
	if memory >= 64<<20 {
		t.Errorf("%d bytes are resident, want less than 64 MiB", memory)
	}
	if share >= 1 {
		t.Errorf("%.2f %% of a core, want less than 1", share)
	}
}

// processor gives the processor time of a process, by proc(5), stat.
func processor(t *testing.T, pid int) time.Duration {
	t.Helper()
	text := read(t, fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	var ticks int
	for _, field := range fields[11:13] { // utime and stime, the 14th and 15th of all
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100 // USER_HZ is 100 everywhere
}

func memoryOf(t *testing.T, pid int) int64 {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/status", pid))) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
