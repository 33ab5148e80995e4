//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// asToken gives a client that has a bearer token and nothing else.
func asToken(t *testing.T, bearer string) kubernetes.Interface {
	t.Helper()
	config := rest.AnonymousClientConfig(w.config)
	config.BearerToken = bearer
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// asAgent gives a client with the very token that the agent uses now.
func asAgent(t *testing.T) kubernetes.Interface {
	t.Helper()
	pids := mustPIDs(t)
	if len(pids) != 1 {
		t.Fatalf("the node has the agents %v", pids)
	}
	dir := secrets(t, pids[0])
	if dir == "" {
		t.Fatal("the agent has no token")
	}
	return asToken(t, read(t, filepath.Join("/proc", strconv.Itoa(pids[0]), "root", dir, "token")))
}

// secrets gives where a process has the token of a service account, or "".
func secrets(t *testing.T, pid int) string {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/mountinfo", pid))) {
		if fields := strings.Fields(line); strings.HasSuffix(fields[4], "/secrets/kubernetes.io/serviceaccount") {
			return fields[4]
		}
	}
	return ""
}

// processesOf gives the processes of a container, by their cgroup.
func processesOf(t *testing.T, pod *corev1.Pod, container string) []int {
	t.Helper()
	id := ""
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == container {
			_, id, _ = strings.Cut(s.ContainerID, "://")
		}
	}
	if id == "" {
		t.Fatalf("pod %s has no container %s that runs", pod.Name, container)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		groups, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cgroup"))
		if err == nil && strings.Contains(string(groups), id) {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		t.Fatalf("container %s of pod %s has no process", container, pod.Name)
	}
	return pids
}

// statusOf gives one field of a process's status, see proc(5).
func statusOf(t *testing.T, pid int, field string) string {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/status", pid))) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	t.Fatalf("process %d has no %s", pid, field)
	return ""
}
