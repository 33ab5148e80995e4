//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// eventsOf gives the events of a pod as the API server has them.
func eventsOf(t *testing.T, pod *corev1.Pod) []corev1.Event {
	t.Helper()
	list, err := w.kube.CoreV1().Events(pod.Namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(pod.UID)})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// told wants exactly one event of the agent about the pod that has the type and
// reason and holds all the words, and gives its text.
func told(t *testing.T, pod *corev1.Pod, kind, reason string, words ...string) string {
	t.Helper()
	var found []string
	err := wait(t.Context(), 30*time.Second, "the event "+reason, func() error {
		found = nil
		for _, e := range eventsOf(t, pod) {
			if e.Reason == reason && e.Type == kind && containsAll(e.Message, words) {
				found = append(found, e.Message)
				if e.Source.Component != "closured" || e.Source.Host != nodeName {
					t.Errorf("the event comes from %+v", e.Source)
				}
			}
		}
		if len(found) == 0 {
			return fmt.Errorf("with %q there is none; the events are:\n%s", words, strings.Join(events(pod), "\n"))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
		return ""
	}
	if len(found) > 1 {
		t.Errorf("%s was told %d times: %q", reason, len(found), found)
	}
	t.Logf("%s %s: %s", kind, reason, found[0])
	return found[0]
}

// requireStory wants the agent's events of a build of two minutes and a half,
// from the beginning to the end, each once.
func requireStory(t *testing.T, pod *corev1.Pod, name string) {
	t.Helper()
	if _, ok := w.agent.(*daemonSet); !ok {
		return // it has no API server
	}
	told(t, pod, corev1.EventTypeNormal, "ClosureRealising", "volume nix", name)
	told(t, pod, corev1.EventTypeNormal, "ClosureProgress", "volume nix", "after 1m")
	told(t, pod, corev1.EventTypeNormal, "ClosureProgress", "volume nix", "after 2m")
	told(t, pod, corev1.EventTypeNormal, "ClosureReady", "volume nix", "-"+name+" is mounted after 2m", "2 paths", "MiB")
}

// TestAgentsEvents: what the agent itself tells the pods' people, and that it is
// silent where there is nothing to tell.
func TestAgentsEvents(t *testing.T) {
	deployed(t)
	t.Cleanup(func() { requireClean(t) })

	failing := create(t, newPod(plain, "told-of-failure", attributes{"packages": "broken"}))
	retried := wait(t.Context(), 2*time.Minute, "kubelet to try three times", func() error {
		for _, e := range eventsOf(t, failing) {
			if e.Reason == "FailedMount" && e.Count >= 3 {
				return nil
			}
		}
		return fmt.Errorf("the events are:\n%s", strings.Join(events(failing), "\n"))
	})
	if retried != nil {
		t.Fatal(retried)
	}
	told(t, failing, corev1.EventTypeWarning, "ClosureFailed", "volume nix", "broken-1.0", "next:", "log:", "cc -c main.c", "frobnicate.h: No such file")
	remove(t, failing)

	first := start(t, newPod(plain, "told-nothing-0", attributes{"packages": "one"}))
	second := start(t, newPod(plain, "told-nothing-1", attributes{"packages": "one"}))
	for _, e := range eventsOf(t, second) {
		if strings.HasPrefix(e.Reason, "Closure") {
			t.Errorf("a pod whose closure was there was told %s: %s", e.Reason, e.Message)
		}
	}
	remove(t, first, second)
	if dropped := metric(t, "closured_events_dropped_total"); dropped > 0 {
		t.Errorf("%.0f events were dropped", dropped)
	}
}

// TestCredentialsStayOut puts a secret wherever the author of a pod may, and looks
// for it wherever other people look.
func TestCredentialsStayOut(t *testing.T) {
	deployed(t)
	t.Cleanup(func() { requireClean(t) })
	canary := fmt.Sprintf("canary-%d-secret", time.Now().UnixNano()) // events of an earlier run stay
	for i, test := range []struct {
		attributes attributes
		word       string // of the failure
	}{
		{attributes{"flakeRef": "git+https://user:" + canary + "@git.invalid/repository#it"}, "PermissionDenied"},
		{attributes{"flakeRef": "https://git.invalid/it.tar.gz?access_token=" + canary + "#it"}, "PermissionDenied"},
		{attributes{"flakeRef": "path:" + flakeDir() + "?token=" + canary + "#flaked"}, "PermissionDenied"},
		{attributes{"nixExpr": `pkgs: let password = "` + canary + `"; in pkgs.missing`}, "missing"},
		{attributes{"nixExpr": `pkgs: throw "https://user:` + canary + `@git.invalid/"`}, "git.invalid"},
	} {
		pod := create(t, newPod(dev, fmt.Sprintf("canary-%d", i), test.attributes))
		t.Log(failedMount(t, pod, time.Minute, test.word))
		if test.word != "PermissionDenied" { // which kubelet's event says alone
			told(t, pod, corev1.EventTypeWarning, "ClosureFailed", test.word)
		}
		remove(t, pod)
	}
	misnamed := newPod(dev, "canary-misnamed", attributes{"packages": "one", "token": canary})
	_, err := w.kube.CoreV1().Pods(dev).Create(t.Context(), misnamed, metav1.CreateOptions{})
	if err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("admission says %v", err)
	}

	all, err := w.kube.CoreV1().Events(metav1.NamespaceAll).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{w.agent.log(true), page(t, "/metrics")}
	for _, e := range all.Items {
		texts = append(texts, e.Reason+": "+e.Message)
	}
	for _, text := range texts {
		if at := strings.Index(text, canary); at >= 0 {
			t.Errorf("the secret stands in …%s", text[max(0, at-300):min(len(text), at+100)])
		}
	}
	if !strings.Contains(texts[0], "canary-0") && !strings.Contains(texts[0], "[redacted]") {
		t.Error("the agent's log says nothing of the pods")
	}
}
