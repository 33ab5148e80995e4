//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// manyAtRest describes many objects at once; E2E_NIXIMAGES says how many. When all
// are ready, nothing writes any more, and there is nothing to do.
func manyAtRest(t *testing.T) {
	const span = time.Minute
	objects := manyObjects(t)
	apply(t, describedObject("seed", "contents: [one]"))
	images, _, _ := unstructured.NestedSlice(awaitDescribed(t, "seed")[0].Object, "status", "images")
	path, _, _ := unstructured.NestedString(images[0].(map[string]any), "storePath")
	var all strings.Builder
	for i := range objects - 1 { // and the seed
		all.WriteString(describedObject(fmt.Sprintf("many-%d", i), "storePaths: {x86_64-linux: "+path+"}") + "---\n")
	}
	begin := time.Now()
	apply(t, all.String())
	applied := time.Since(begin)
	awaitDescribed(t)
	figure("many NixImages", "%d at once: applied in %s, all Ready and without Jobs after %s", objects, applied.Round(100*time.Millisecond), time.Since(begin).Round(100*time.Millisecond))
	awaitNone(t, "pods")

	pod := onlyController(t)
	pid := controllerPID(t, pod)
	versions, writes, rounds := describedVersions(t), controllerWrites(t, pod), controllerRounds(t, pod)
	used := processor(t, pid)
	time.Sleep(span)
	used = processor(t, pid) - used
	if now := describedVersions(t); len(now) < objects || !maps.Equal(now, versions) {
		t.Errorf("at rest %v became %v", versions, now)
	}
	if now := controllerWrites(t, pod); now != writes {
		t.Errorf("%.0f writes at rest", now-writes)
	}
	if now := controllerRounds(t, pod); now != rounds {
		t.Errorf("%.0f reconciliations at rest", now-rounds)
	}
	share := 100 * used.Seconds() / span.Seconds()
	const mib = 1 << 20
	memory, agent := memoryOf(t, pid), memoryOf(t, mustPIDs(t)[0])
	figure("NixImages at rest", "%d of them: 0 writes and reconciliations in %s, controller %.2f %% of a core, with its Lease and probes, %.1f MiB resident (bar: 64), at most %.1f; agent %.1f MiB resident",
		objects, span, share, float64(memory)/mib, float64(procStatus(t, pid, "VmHWM"))/mib, float64(agent)/mib)
	if memory >= 64*mib {
		t.Errorf("%d bytes are resident, want less than 64 MiB", memory)
	}
	if share >= 1 {
		t.Errorf("%.2f %% of a core, want less than 1", share)
	}
	begin = time.Now()
	must(t, "delete", "nixi", "-n", describedNamespace, "--all", "--wait=true")
	figure("many NixImages deleted", "%d after %s", objects, time.Since(begin).Round(100*time.Millisecond))
}

func manyObjects(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("E2E_NIXIMAGES"))
	if err != nil || n < 1 {
		n = 30
	}
	return n
}

// describedVersions gives the version of each object in the API server.
func describedVersions(t *testing.T) map[string]string {
	t.Helper()
	list, err := described(t, "niximages").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for _, o := range list.Items {
		versions[o.GetName()] = o.GetResourceVersion()
	}
	return versions
}

// controllerWrites gives how often the controller has written something but its
// Lease, the only thing that it updates by PUT.
func controllerWrites(t *testing.T, pod *corev1.Pod) float64 {
	t.Helper()
	return controllerSum(t, pod, `rest_client_requests_total\{.*method="(?:POST|PATCH|DELETE)"`)
}

// controllerRounds gives how often the controller has looked at an object.
func controllerRounds(t *testing.T, pod *corev1.Pod) float64 {
	t.Helper()
	return controllerSum(t, pod, `controller_runtime_reconcile_total\{controller="niximage"`)
}

// controllerSum gives the sum of the metrics whose lines begin as the expression
// says. One that was never counted is a mistake.
func controllerSum(t *testing.T, pod *corev1.Pod, expression string) float64 {
	t.Helper()
	lines, err := controllerMetrics(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, line := range regexp.MustCompile(`(?m)^`+expression+`.*\} (\S+)$`).FindAllStringSubmatch(lines, -1) {
		n, err := strconv.ParseFloat(line[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	if sum == 0 {
		t.Fatalf("pod %s has never counted %s", pod.Name, expression)
	}
	return sum
}
