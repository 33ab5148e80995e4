//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// manifest gives a pod as people write it.
func manifest(namespace, name, attribute, value string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {namespace: %s, name: %s}
spec: %s
`, namespace, name, podSpec(attribute, value))
}

func podSpec(attribute, value string) string {
	return fmt.Sprintf(`{terminationGracePeriodSeconds: 1,
  containers: [{name: c, image: %q, command: [/nix/var/result/bin/sleep, "1000000"], volumeMounts: [{name: nix, mountPath: /nix}]}],
  volumes: [{name: nix, csi: {driver: csi.closured.dev, readOnly: true, volumeAttributes: {%s: %q}}}]}`,
		emptyImage, attribute, value)
}

// TestAdmission: what kubectl says to somebody whose pod cannot work, and that it
// says nothing to others.
func TestAdmission(t *testing.T) {
	deployed(t)
	t.Cleanup(func() { requireClean(t) })
	for _, test := range []struct {
		name, namespace, attribute, value string
		says                              []string // nil: admitted
	}{
		{"expression", plain, "nixExpr", "pkgs: pkgs.one", []string{"nixExpr are not allowed in this namespace", "next:", "packages", "closured.dev/any-source=true"}},
		{"flake", plain, "flakeRef", "github:NixOS/nixpkgs#hello", []string{"flakeRef and nixExpr are not allowed", "next:"}},
		{"misspelt", plain, "package", "one", []string{`no volume attribute "package"`, "next:", "packages"}},
		{"no-source", plain, "writable", "true", []string{"needs exactly one source", "next:"}},
		{"packages", plain, "packages", "one", nil},
		{"expression-allowed", dev, "nixExpr", "pkgs: pkgs.one", nil},
	} {
		name := "admission-" + test.name
		out, err := kubectl(t.Context(), manifest(test.namespace, name, test.attribute, test.value), "create", "-f", "-")
		if pod, missing := w.kube.CoreV1().Pods(test.namespace).Get(t.Context(), name, metav1.GetOptions{}); missing == nil {
			t.Cleanup(func() { remove(t, pod) })
			if test.says == nil {
				ready(t, pod, 90*time.Second)
			}
		}
		switch {
		case test.says == nil && err != nil:
			t.Errorf("%s: %v: %s", test.name, err, out)
		case test.says != nil && (err == nil || !containsAll(out, test.says)):
			t.Errorf("%s: want a refusal with %q, got %v: %s", test.name, test.says, err, out)
		default:
			t.Log(out)
		}
	}
	out, err := kubectl(t.Context(), `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other", "namespace": "`+plain+`"},
"spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "csi": {"driver": "other.example.com", "volumeAttributes": {"nixExpr": "x"}}}]}}`,
		"create", "--dry-run=server", "-f", "-")
	if err != nil {
		t.Errorf("a pod of another driver: %v: %s", err, out)
	}
}

// TestRefusedDeployment: who writes Deployments, of which this is the lower half, reads the same in an event.
func TestRefusedDeployment(t *testing.T) {
	deployed(t)
	out, err := kubectl(t.Context(), fmt.Sprintf(`
apiVersion: apps/v1
kind: ReplicaSet
metadata: {namespace: %s, name: refused}
spec:
  selector: {matchLabels: {app: refused}}
  template:
    metadata: {labels: {app: refused}}
    spec: %s
`, plain, strings.ReplaceAll(podSpec("nixExpr", "pkgs: pkgs.one"), "\n", " ")), "create", "-f", "-")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _, _ = kubectl(context.Background(), "", "delete", "-n", plain, "replicaset/refused") })
	made, err := w.kube.AppsV1().ReplicaSets(plain).Get(t.Context(), "refused", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = wait(t.Context(), time.Minute, "an event of the ReplicaSet", func() error {
		list, err := w.kube.CoreV1().Events(plain).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(made.UID)})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Reason == "FailedCreate" && containsAll(e.Message, []string{"not allowed in this namespace", "next:"}) {
				return nil
			}
		}
		return fmt.Errorf("of %d events none says it", len(list.Items))
	})
	if err != nil {
		t.Error(err)
	}
}
