//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestNothingButTheNode: the API server is away, and no network leads anywhere.
// Pods run on while the agent crashes and comes back, and then kubelet does. When
// the API server is back, all is as it was.
func TestNothingButTheNode(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	pods := startSome(t, "alone", 3)
	address, err := w.agent.address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	back := takeServerAway(t)

	if err := kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p, ok := w.agent.(*process); ok {
		if err := p.start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	err = wait(t.Context(), 2*time.Minute, "the agent to be ready without an API server", func() error {
		return get(t.Context(), "http://"+address+"/readyz")
	})
	if err != nil {
		t.Fatal(err)
	}
	requireReadable(t, pods)
	crashKubelet(t)
	requireReadable(t, pods)
	requireMounts(t, len(pods))

	back(t.Context())
	restart(t)
	requireSame(t, pods)
	requireMounts(t, len(pods))
	remove(t, append(pods, start(t, newPod(plain, "alone-after", attributes{"packages": "one"})))...)
}

// takeServerAway ends the API server until back is called, or the test ends.
func takeServerAway(t *testing.T) (back func(context.Context)) {
	t.Helper()
	hold := filepath.Join(w.dir, "run", "apiserver.hold")
	back = func(ctx context.Context) {
		if err := errors.Join(os.RemoveAll(hold), serverIsBack(ctx)); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(hold, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // also after a failure
		back(context.Background())
		restart(t)
	})
	crashServer(t)
	return back
}

// crashServer ends the API server by SIGKILL. It comes back by itself.
func crashServer(t *testing.T) {
	t.Helper()
	// It is no process of the node.
	if err := os.WriteFile(filepath.Join(w.dir, "run", "kill"), []byte("apiserver\n"), 0); err != nil {
		t.Fatal(err)
	}
	err := wait(t.Context(), 30*time.Second, "the end of the API server", func() error {
		if _, err := w.kube.Discovery().ServerVersion(); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// crashKubelet ends kubelet by SIGKILL. It comes back by itself.
func crashKubelet(t *testing.T) {
	t.Helper()
	pid, err := strconv.Atoi(read(t, filepath.Join(w.dir, "run", "kubelet.pid")))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	err = wait(t.Context(), 20*time.Second, "the end of kubelet", func() error {
		if err := syscall.Kill(pid, 0); err == nil {
			return fmt.Errorf("process %d is there", pid)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// serverIsBack waits for the API server, and for kubelet.
func serverIsBack(ctx context.Context) error {
	return wait(ctx, 3*time.Minute, "the API server and kubelet", func() error {
		if out, err := kubectl(ctx, "", "get", "--raw", "/readyz"); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return get(ctx, "http://127.0.0.1:10248/healthz")
	})
}

// requireReadable wants the volumes of pods to be readable, without asking the
// API server.
func requireReadable(t *testing.T, pods []*corev1.Pod) {
	t.Helper()
	for _, pod := range pods {
		data, err := os.ReadFile(inVolume(t, pod, "share/name"))
		if err != nil || string(data) != "one\n" {
			t.Errorf("the volume of pod %s gives %q (%v)", pod.Name, data, err)
		}
	}
}
