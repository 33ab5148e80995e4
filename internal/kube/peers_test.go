package kube_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPodIPsAreThoseOfRunningPods(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	pod := func(phase corev1.PodPhase, ip string, leaving bool) corev1.Pod {
		p := corev1.Pod{Status: corev1.PodStatus{Phase: phase, PodIP: ip}}
		if leaving {
			now := metav1.Now()
			p.DeletionTimestamp = &now
		}
		return p
	}
	s.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		q := r.URL.Query()
		if r.URL.Path != "/api/v1/namespaces/closured-system/pods" || q.Get("labelSelector") != "a=b,c=d" {
			return false
		}
		list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
		if q.Get("fieldSelector") == "spec.nodeName=node-b" {
			list.Items = []corev1.Pod{
				pod(corev1.PodRunning, "10.0.0.1", false), pod(corev1.PodRunning, "10.0.0.2", true),
				pod(corev1.PodPending, "10.0.0.3", false), pod(corev1.PodRunning, "", false),
			}
		}
		answer(w, http.StatusOK, list)
		return true
	})
	c := s.client(t)
	for node, want := range map[string][]string{"node-b": {"10.0.0.1"}, "node-c": nil} {
		if got, err := c.PodIPs(t.Context(), "closured-system", "a=b,c=d", node); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s has %v, %v", node, got, err)
		}
	}
	if _, err := c.PodIPs(t.Context(), "elsewhere", "a=b", "node-b"); err == nil || !strings.Contains(err.Error(), "node-b") {
		t.Errorf("a refusal: %v", err)
	}
}
