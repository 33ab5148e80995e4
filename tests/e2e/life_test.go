//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestKubeletRestart: running pods read on, kubelet publishes their volumes
// again, and they can be deleted.
func TestKubeletRestart(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	pods := startSome(t, "kubelet", 3)
	pidFile := filepath.Join(w.dir, "run", "kubelet.pid")
	before := read(t, pidFile)
	pid, err := strconv.Atoi(before)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	err = wait(t.Context(), time.Minute, "another kubelet", func() error {
		if now := read(t, pidFile); now == before {
			return fmt.Errorf("process %s", now)
		}
		return get(t.Context(), "http://127.0.0.1:10248/healthz")
	})
	if err != nil {
		t.Fatal(err)
	}
	requireSame(t, pods)
	again := start(t, newPod(plain, "kubelet-after", attributes{"packages": "one"}))
	requireSame(t, pods)
	requireMounts(t, len(pods)+1)
	remove(t, append(pods, again)...)
}

// TestAgentRestarts: SIGTERM and SIGKILL, once each and in a row.
func TestAgentRestarts(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	pods := startSome(t, "restart", 3)
	for round, end := range []func() error{
		func() error { return w.agent.stop(t.Context()) },
		func() error { return kill(t.Context()) },
		func() error { return kill(t.Context()) },
	} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
		requireSame(t, pods)
		restart(t)
		requireSame(t, pods)
		requireMounts(t, len(pods))
		pods = append(pods, start(t, newPod(plain, fmt.Sprintf("restart-after-%d", round), attributes{"packages": "one"})))
	}
	remove(t, pods...)
}

// TestAgentIsDown: while it is down pods read on and new ones wait; pods that
// were deleted go, and those that wait start, when it is back.
func TestAgentIsDown(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	pods := startSome(t, "down", 3)
	if err := w.agent.stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { restart(t) })
	waiting := create(t, newPod(plain, "down-waiting", attributes{"packages": "two"}))
	if err := w.kube.CoreV1().Pods(plain).Delete(t.Context(), pods[0].Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log(failedMount(t, waiting, time.Minute))
	time.Sleep(downFor(t))
	requireSame(t, pods[1:])
	restart(t)
	ready(t, waiting, 4*time.Minute)
	requireSame(t, pods[1:])
	remove(t, pods...)
}

// downFor is how long the agent is away: five minutes, or $E2E_DOWN_FOR. kubelet's
// own waits grow meanwhile.
func downFor(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("E2E_DOWN_FOR")
	if text == "" {
		return 5 * time.Minute
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// restart starts the agent again, unless Kubernetes does it, and waits until it
// is ready.
func restart(t *testing.T) {
	t.Helper()
	ctx := context.Background() // also after a test's own has ended
	if err := w.agent.start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := registered(ctx); err != nil {
		t.Fatal(err)
	}
}

func mustPIDs(t *testing.T) []int {
	t.Helper()
	pids, err := agentPIDs()
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

// startSome starts pods of one closure. Their containers read from it all the time
// and end when they cannot.
func startSome(t *testing.T, prefix string, n int) []*corev1.Pod {
	t.Helper()
	pods := make([]*corev1.Pod, n)
	for i := range pods {
		pod := newPod(plain, fmt.Sprintf("%s-%d", prefix, i), attributes{"packages": "one"})
		pod.Spec.Containers[0].Command = []string{bin + "sh", "-c", "while [ \"$(" + bin + "cat /nix/var/result/share/name)\" = one ]; do " + bin + "sleep 0.3; done"}
		pods[i] = create(t, pod)
	}
	for i := range pods {
		pods[i] = ready(t, pods[i], 2*time.Minute)
	}
	return pods
}

// requireSame wants each pod to be ready, never restarted, and able to start a
// program out of its volume.
func requireSame(t *testing.T, pods []*corev1.Pod) {
	t.Helper()
	for _, pod := range pods {
		// A kubelet that has just started does not know its pods yet.
		err := wait(t.Context(), 30*time.Second, "a command in the pod", func() error {
			if out, err := try(t, pod, "", bin+"true"); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
		if err != nil {
			t.Errorf("pod %s: %v", pod.Name, err)
		}
		now, err := w.kube.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if s := now.Status.ContainerStatuses; !isReady(now) || len(s) != 1 || s[0].RestartCount != 0 {
			t.Errorf("pod %s is not as it was: %+v", pod.Name, s)
		}
	}
}

// requireMounts wants that many volumes, each mounted once and pinned once.
func requireMounts(t *testing.T, want int) {
	t.Helper()
	mounts, roots, _, err := count()
	if err != nil || mounts != want || roots != want {
		t.Errorf("%d mounts and %d pins (%v), want %d of each", mounts, roots, err, want)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}
