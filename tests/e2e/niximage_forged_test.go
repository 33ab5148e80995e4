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
	"k8s.io/apimachinery/pkg/types"
)

// describedForged tries with all rights that Kubernetes gives to have an object
// believe that another path was built: the API server refuses each way. The build
// pod that is tampered with waits for a node that there is not.
func describedForged(t *testing.T) {
	const name = "forged"
	apply(t, describedObject(name, "contents: [one]", "build: {nodeSelector: {there: is-none}}"))
	apply(t, describedPod("ordinary", "image: localhost/busybox:1, command: [sleep, \"1000000\"]", ""))
	t.Cleanup(func() {
		if out, err := kubectl(context.Background(), "", "delete", "-n", describedNamespace, "nixi/"+name, "pod/ordinary", "--ignore-not-found"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	pod := buildPod(t, name)
	const report = `{"root":"/nix/store/00000000000000000000000000000000-none"}`
	forged := fmt.Sprintf("metadata: {namespace: %s, name: forged-by-hand, labels: {app.kubernetes.io/managed-by: closured-controller, closured.dev/niximage: %s, batch.kubernetes.io/job-name: %s}, ownerReferences: [{apiVersion: batch/v1, kind: Job, name: %[3]s, uid: %s, controller: true}]}",
		describedNamespace, name, pod.Labels["batch.kubernetes.io/job-name"], pod.OwnerReferences[0].UID)
	spec := func(indent string) string {
		text := describedSpec(indent, "image: localhost/busybox:1, command: [sh, -c, 'echo hello']", "restartPolicy: Never")
		return strings.TrimSuffix(text, "---\n")
	}
	template := "\nspec:\n  template:\n    metadata: {labels: {app.kubernetes.io/managed-by: closured-controller}}\n    spec:\n" + spec("      ")
	const byController = "are made by closured's controller"
	for _, test := range []struct{ what, object, word string }{
		{"pod", "apiVersion: v1\nkind: Pod\n" + forged + "\nspec:\n" + spec("  "), "made for the Jobs of closured's controller only"},
		{"Job", "apiVersion: batch/v1\nkind: Job\n" + forged + template, byController},
		{"Job of such pods", "apiVersion: batch/v1\nkind: Job\nmetadata: {namespace: " + describedNamespace + ", name: forged-by-hand}" + template, byController},
	} {
		out, err := kubectl(t.Context(), test.object, "create", "-f", "-")
		requireForbidden(t, "creating a "+test.what, out, err, test.word)
	}

	for _, test := range []struct{ what, pod, subresource, patch, word string }{
		{"labelling a pod", "ordinary", "", `{"metadata": {"labels": {"app.kubernetes.io/managed-by": "closured-controller", "closured.dev/niximage": "forged"}}}`, "becomes a build pod"},
		{"another image", pod.Name, "", `{"spec": {"containers": [{"name": "report", "image": "localhost/busybox:1"}]}}`, "keeps its images"},
		{"another object's build", pod.Name, "", `{"metadata": {"labels": {"closured.dev/niximage": "three"}}}`, "ceases to be one"},
		{"a further container", pod.Name, "ephemeralcontainers", `{"spec": {"ephemeralContainers": [{"name": "x", "image": "localhost/busybox:1", "targetContainerName": "report", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}}`, "no further containers"},
		{"a report", pod.Name, "status", `{"status": {"containerStatuses": [{"name": "report", "image": "x", "imageID": "x", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0, "message": ` +
			fmt.Sprintf("%q", report) + `}}}]}}`, "said by kubelet only"},
	} {
		var sub []string
		if test.subresource != "" {
			sub = []string{test.subresource}
		}
		_, err := w.kube.CoreV1().Pods(describedNamespace).Patch(t.Context(), test.pod, types.StrategicMergePatchType, []byte(test.patch), metav1.PatchOptions{}, sub...)
		requireForbidden(t, test.what, "", err, test.word)
	}
	out, err := kubectl(t.Context(), "", "exec", "-n", describedNamespace, pod.Name, "--", "sh")
	requireForbidden(t, "a command in the build pod", out, err, "nobody runs commands in a build pod")
	out, err = kubectl(t.Context(), "", "patch", "nixi", "-n", describedNamespace, name, "--subresource=status", "--type=merge", "-p", `{"status": {"reference": "x"}}`)
	requireForbidden(t, "writing the status", out, err, "writes the status of a NixImage, and nobody else")
	if o := objectOf(t, describedNamespace, name); o.Status.Reference != "" || len(o.Status.Images) > 0 {
		t.Errorf("the object says %+v", o.Status)
	}
	// What a user may: read, and have it begin anew.
	must(t, "delete", "pod", "-n", describedNamespace, pod.Name)
}

// requireForbidden wants a refusal with a word.
func requireForbidden(t *testing.T, what, out string, err error, word string) {
	t.Helper()
	if err == nil || !strings.Contains(out+err.Error(), word) {
		t.Errorf("%s: want a refusal with %q, got %v: %s", what, word, err, out)
	}
}

// buildPod waits for the build pod of an object.
func buildPod(t *testing.T, name string) corev1.Pod {
	t.Helper()
	var pod corev1.Pod
	err := wait(t.Context(), 2*time.Minute, "the build pod of "+name, func() error {
		list, err := w.kube.CoreV1().Pods(describedNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "closured.dev/niximage=" + name})
		if err == nil && len(list.Items) != 1 {
			err = fmt.Errorf("there are %d", len(list.Items))
		}
		if err == nil {
			pod = list.Items[0]
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}
