//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// restricted is the label of namespaces that enforce the strictest standard.
const restricted = "pod-security.kubernetes.io/enforce: restricted"

// namespace makes one with labels and objects, which is gone after the test with
// all that is in it.
func namespace(t *testing.T, name, labels, objects string) {
	t.Helper()
	t.Cleanup(func() {
		if out, err := kubectl(context.Background(), "", "delete", "namespace", name, "--ignore-not-found", "--timeout=3m"); err != nil {
			t.Errorf("deleting the namespace %s: %v: %s", name, err, out)
		}
	})
	apply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: "+name+", labels: {"+labels+"}}}\n"+objects)
	must(t, "wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=60s")
}

func describedObjectIn(namespace, name string, spec ...string) string {
	return fmt.Sprintf("apiVersion: closured.dev/v1alpha1\nkind: NixImage\nmetadata: {name: %s, namespace: %s}\nspec:\n  %s\n",
		name, namespace, strings.Join(spec, "\n  "))
}

// describedPodIn gives a pod as the standard "restricted" wants it.
func describedPodIn(namespace, name, container, more string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s}\nspec:\n%s", name, namespace, describedSpec("  ", container, more))
}

// describedDeployment gives a Deployment of one such pod.
func describedDeployment(name, container, more string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
%[3]s`, name, describedNamespace, describedSpec("      ", container, more))
}

func describedSpec(indent, container, more string) string {
	spec := fmt.Sprintf(`terminationGracePeriodSeconds: 0
securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
containers:
- {name: main, %s, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}
%s`, container, more)
	return indent + strings.ReplaceAll(strings.TrimSpace(spec), "\n", "\n"+indent) + "\n---\n"
}

// awaitJSONIn waits until a field of an object holds some words.
func awaitJSONIn(t *testing.T, namespace, name, path, words string) {
	t.Helper()
	err := wait(t.Context(), 3*time.Minute, path+" of "+name, func() error {
		out, err := kubectl(t.Context(), "", "get", "nixi", "-n", namespace, name, "-o", "jsonpath="+path)
		if err == nil && !strings.Contains(out, words) {
			err = fmt.Errorf("it is %q, want %q", out, words)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// nixImage is what the tests read of an object.
type nixImage struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Status   struct {
		Reference string `json:"reference"`
		Digest    string `json:"digest"`
		Size      string `json:"size"`
		Images    []struct {
			System    string `json:"system"`
			StorePath string `json:"storePath"`
			Digest    string `json:"digest"`
			Node      string `json:"node"`
		} `json:"images"`
		History []struct {
			Digest string `json:"digest"`
			Tag    string `json:"tag"`
		} `json:"history"`
		Conditions []metav1.Condition `json:"conditions"`
	} `json:"status"`
	bytes int // of the whole object as JSON
}

// objectOf reads an object as it is now.
func objectOf(t *testing.T, namespace, name string) nixImage {
	t.Helper()
	text := must(t, "get", "nixi", "-n", namespace, name, "-o", "json", "--show-managed-fields")
	var o nixImage
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	o.bytes = len(text)
	return o
}

// condition gives one of the conditions, which may be missing.
func (o nixImage) condition(kind string) metav1.Condition {
	for _, c := range o.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return metav1.Condition{}
}

// told logs the conditions as kubectl shows them, and the events: what
// docs/niximage.md quotes.
func (o nixImage) told(t *testing.T) {
	t.Helper()
	for _, c := range o.Status.Conditions {
		t.Logf("%s: %s is %s, %s: %s", o.Metadata.Name, c.Type, c.Status, c.Reason, c.Message)
	}
	for _, e := range eventsOfObject(t, o) {
		t.Log(e)
	}
}

// eventsOfObject gives the events of an object, one line each, each at most as long
// as events may be.
func eventsOfObject(t *testing.T, o nixImage) []string {
	t.Helper()
	list, err := w.kube.CoreV1().Events(o.Metadata.Namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(o.Metadata.UID)})
	if err != nil {
		t.Fatal(err)
	}
	lines := make([]string, 0, len(list.Items))
	for _, e := range list.Items {
		const most = 1024 // of events.k8s.io
		if len(e.Message) > most {
			t.Errorf("an event of %s has %d bytes", o.Metadata.Name, len(e.Message))
		}
		lines = append(lines, fmt.Sprintf("%s %s: %s", e.Type, e.Reason, e.Message))
	}
	return lines
}

// requireStalled waits until an object says that something has to change, and
// wants it and an event to say why.
func requireStalled(t *testing.T, namespace, name, reason string, words ...string) nixImage {
	t.Helper()
	var o nixImage
	err := wait(t.Context(), 4*time.Minute, name+" to be stalled by "+reason, func() error {
		o = objectOf(t, namespace, name)
		c := o.condition("Stalled")
		if c.Status != metav1.ConditionTrue || c.Reason != reason || !containsAll(c.Message, words) {
			return fmt.Errorf("it is %s, %s: %s; want %q", c.Status, c.Reason, c.Message, words)
		}
		for _, e := range eventsOfObject(t, o) {
			if strings.HasPrefix(e, "Warning "+reason+": ") && containsAll(e, words) {
				return nil
			}
		}
		return fmt.Errorf("none of the events says so: %q", eventsOfObject(t, o))
	})
	if err != nil {
		t.Fatal(err)
	}
	o.told(t)
	return o
}

// requireReady waits until an object is ready.
func requireReady(t *testing.T, namespace, name string) nixImage {
	t.Helper()
	if out, err := kubectl(t.Context(), "", "wait", "-n", namespace, "--for=condition=Ready", "nixi/"+name, "--timeout=5m"); err != nil {
		objectOf(t, namespace, name).told(t)
		t.Fatalf("%s is not ready: %v: %s", name, err, out)
	}
	return objectOf(t, namespace, name)
}
