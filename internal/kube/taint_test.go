package kube_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/closured/closured/internal/kube"
	"github.com/closured/closured/internal/logtest"
)

const key = "closured.dev/agent-not-ready"

func taint(key string, effect corev1.TaintEffect) corev1.Taint {
	return corev1.Taint{Key: key, Effect: effect}
}

func TestUntaintTakesTheKeyAndNothingElse(t *testing.T) {
	t.Parallel()
	ours, oursToo := taint(key, corev1.TaintEffectNoSchedule), taint(key, corev1.TaintEffectNoExecute)
	a, b := taint("a", corev1.TaintEffectNoSchedule), taint(key+"-too", corev1.TaintEffectNoSchedule)
	for name, row := range map[string]struct {
		have, want []corev1.Taint
		removed    bool
		patches    int
	}{
		"no taint":                 {nil, nil, false, 0},
		"taints of others":         {[]corev1.Taint{a, b}, []corev1.Taint{a, b}, false, 0},
		"the only one":             {[]corev1.Taint{ours}, []corev1.Taint{}, true, 1},
		"the first":                {[]corev1.Taint{ours, a, b}, []corev1.Taint{a, b}, true, 1},
		"the last":                 {[]corev1.Taint{a, b, ours}, []corev1.Taint{a, b}, true, 1},
		"two effects among others": {[]corev1.Taint{a, ours, b, oursToo}, []corev1.Taint{a, b}, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.taints = row.have
			removed, err := s.client(t).Untaint(t.Context(), "node-a", key)
			if err != nil || removed != row.removed {
				t.Fatalf("removed %t, %v", removed, err)
			}
			if diff := cmp.Diff(row.want, s.taints); diff != "" {
				t.Errorf("taints (-want +got):\n%s", diff)
			}
			if n := strings.Count(strings.Join(s.requests(), "\n"), "PATCH"); n != row.patches {
				t.Errorf("%d patches", n)
			}
		})
	}
}

func TestUntaintLeavesTaintsThatChangedMeanwhile(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	other := taint("other", corev1.TaintEffectNoSchedule)
	s.taints = []corev1.Taint{taint(key, corev1.TaintEffectNoSchedule)}
	s.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && len(s.taints) == 1 {
			s.taints = []corev1.Taint{other, s.taints[0]} // somebody was faster
		}
		return false
	})
	c := s.client(t)
	if removed, err := c.Untaint(t.Context(), "node-a", key); err == nil || removed {
		t.Errorf("removed %t, %v", removed, err)
	}
	if len(s.taints) != 2 {
		t.Errorf("left are %v", s.taints)
	}
	if removed, err := c.Untaint(t.Context(), "node-a", key); err != nil || !removed {
		t.Errorf("the second time: removed %t, %v", removed, err)
	}
	if diff := cmp.Diff([]corev1.Taint{other}, s.taints); diff != "" {
		t.Errorf("taints (-want +got):\n%s", diff)
	}
}

func TestUntaintOfANodeThatIsNotThere(t *testing.T) {
	t.Parallel()
	if _, err := newServer(t).client(t).Untaint(t.Context(), "node-b", key); err == nil || !strings.Contains(err.Error(), "node-b") {
		t.Errorf("a missing node: %v", err)
	}
}

func TestNewUntainterTellsEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := kube.NewUntainter(kube.UntainterConfig{})
	for _, want := range []string{"Client", "Node", "Key", "Ready"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nothing is said about %s: %v", want, err)
		}
	}
}

func TestTheTaintGoesWhenTheNodeIsReady(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.taints = []corev1.Taint{taint(key, corev1.TaintEffectNoSchedule)}
	failing := 2
	s.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch || failing == 0 {
			return false
		}
		failing--
		refuse(w, http.StatusConflict, "Conflict")
		return true
	})
	var asked atomic.Int32
	log := &logtest.Buffer{}
	u, err := kube.NewUntainter(kube.UntainterConfig{
		Client: s.client(t), Node: "node-a", Key: key, Log: log.Logger(slog.LevelDebug),
		Ready: func() error {
			if asked.Add(1) == 1 {
				if len(s.requests()) > 0 {
					t.Error("it asked the API server before the node was ready")
				}
				return errors.New("not yet")
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	eventually(t, "the taint is gone", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.taints) == 0
	})
	eventually(t, "that is told", func() bool { return strings.Contains(log.String(), "start-up taint is removed") })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if text := log.String(); strings.Count(text, `"level":"WARN"`) != 1 || strings.Contains(text, token) {
		t.Errorf("the log: %s", text)
	}
}
