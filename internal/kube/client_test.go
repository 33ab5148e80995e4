package kube_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/closured/closured/internal/kube"
)

func TestOpenWithoutACluster(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("KUBERNETES_SERVICE_PORT", "")
	if _, err := kube.Open(kube.Config{}); !errors.Is(err, kube.ErrNoCluster) {
		t.Errorf("outside a pod: %v", err)
	}
	if _, err := os.Stat("/var/run/secrets/kubernetes.io"); err == nil {
		t.Skip("this machine is a pod")
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	if _, err := kube.Open(kube.Config{}); !errors.Is(err, kube.ErrNoCluster) {
		t.Errorf("in a pod without a service account token: %v", err)
	}
}

func TestOpenNamesABrokenKubeconfig(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config")
	for _, text := range []string{"", "- no", "clusters: ["} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := kube.Open(kube.Config{Kubeconfig: path}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("a kubeconfig of %q: %v", text, err)
		}
	}
	if _, err := kube.Open(kube.Config{Kubeconfig: path + "-missing"}); err == nil {
		t.Error("a missing kubeconfig is no error")
	}
}

func TestOpenAsksNobody(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.client(t)
	if seen := s.requests(); len(seen) > 0 {
		t.Errorf("it asked %q", seen)
	}
}

func TestHostUsers(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	s := newServer(t)
	for name, value := range map[string]*bool{"own": &no, "hosts": &yes, "silent": nil} {
		s.pods["shop/"+name] = corev1.Pod{
			TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, Spec: corev1.PodSpec{HostUsers: value},
		}
	}
	c := s.client(t)
	for name, want := range map[string]struct{ known, hostUsers bool }{
		"own": {true, false}, "hosts": {true, true}, "silent": {}, "missing": {},
	} {
		known, hostUsers, err := c.HostUsers(t.Context(), "shop", name)
		if err != nil || known != want.known || hostUsers != want.hostUsers {
			t.Errorf("%s: %t, %t, %v", name, known, hostUsers, err)
		}
	}
	if s.agents[0] != "closured/test" {
		t.Errorf("the client calls itself %q", s.agents[0])
	}
}

func TestHostUsersAsksOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable)
		return true
	})
	if _, _, err := s.client(t).HostUsers(t.Context(), "shop", "redis"); err == nil || !strings.Contains(err.Error(), "shop/redis") {
		t.Errorf("without an answer: %v", err)
	}
	if n := len(s.requests()); n != 1 {
		t.Errorf("it asked %d times", n)
	}
}

func TestHostUsersOfAnAPIServerThatIsAway(t *testing.T) {
	t.Parallel()
	closed := newServer(t)
	c := closed.client(t)
	closed.Close()
	if _, _, err := c.HostUsers(t.Context(), "shop", "redis"); err == nil || strings.Contains(err.Error(), token) {
		t.Errorf("nobody listens: %v", err)
	}

	// Somebody listens, and never answers.
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c, err = kube.Open(kube.Config{Kubeconfig: writeKubeconfig(t, "https://"+l.Addr().String(), nil)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := c.HostUsers(ctx, "shop", "redis"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody answers: %v", err)
	}
}
