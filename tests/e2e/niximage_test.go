//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNixImage goes the way of docs/niximage.md: the component is installed, an
// object names three packages, and two pods that came with it run what it
// describes, one out of the image and one with the volume. Then it changes, others
// fail, and all of it goes. The namespace enforces the standard "restricted".
func TestNixImage(t *testing.T) {
	deployed(t)
	t.Cleanup(func() { requireClean(t) })
	installNixImage(t)
	removeImages(t, describedImage+":v1", describedImage+":v2")

	begin := time.Now()
	apply(t, describedObject("three", "tag: v1", "contents: [curl, jq, one]", `config: {cmd: [/bin/sleep, "1000000"]}`))
	apply(t, describedPod("as-image", "image: "+describedImage+":v1", ""))
	apply(t, describedPod("as-volume", `image: localhost/busybox:1, command: [/bin/sleep, "1000000"], volumeMounts: [{name: nix, mountPath: /nix}]`,
		"volumes: [{name: nix, csi: {driver: "+driverName+", readOnly: true, volumeAttributes: {image: three}}}]"))
	must(t, "wait", "-n", describedNamespace, "--for=condition=Ready", "nixi/three", "--timeout=5m")
	readyAfter := time.Since(begin)
	must(t, "wait", "-n", describedNamespace, "--for=condition=Ready", "pod/as-image", "pod/as-volume", "--timeout=5m")
	figure("NixImage of three packages", "kubectl apply, with the build: object Ready %s, pods of its image and its volume Ready %s", ms(readyAfter), ms(time.Since(begin)))
	for pod, program := range map[string]string{"as-image": "/bin/jq", "as-volume": bin + "jq"} {
		if says := must(t, "exec", "-n", describedNamespace, pod, "--", program, "--version"); !strings.Contains(says, "jq-") {
			t.Errorf("in pod %s jq says %q", pod, says)
		}
	}
	first := requireServed(t, "v1")
	if id := must(t, "get", "pod", "-n", describedNamespace, "as-image", "-o", "jsonpath={.status.containerStatuses[0].imageID}"); !strings.HasSuffix(id, "@"+first) {
		t.Errorf("the pod runs %s, the status says %s", id, first)
	}

	apply(t, describedObject("three", "tag: v2", "contents: [curl, jq, two]"))
	awaitJSON(t, "three", "{.status.history[0].tag}", "v2")
	if second := requireServed(t, "v2"); second == first {
		t.Errorf("%s is the digest of other contents, too", second)
	}
	if digest, code := manifestOf(t, first); code != http.StatusOK || digest != first {
		t.Errorf("the version before is %q with code %d", digest, code)
	}

	t.Run("failures", describedFailures)
	must(t, "delete", "namespace", describedNamespace, "--timeout=3m")
	if _, code := manifestOf(t, "v2"); code != http.StatusNotFound {
		t.Errorf("a deleted image has the code %d", code)
	}
}

// describedFailures wants of objects that cannot be built that they say why.
func describedFailures(t *testing.T) {
	apply(t, describedObject("broken", "contents: [broken]"))
	apply(t, describedObject("refused", `expression: "(import <nixpkgs> {}).curl"`))
	const stalled = `{.status.conditions[?(@.type=="Stalled")].`
	awaitJSON(t, "broken", stalled+"reason}", "BuildFailed")
	awaitJSON(t, "broken", stalled+"message}", "frobnicate.h")
	awaitJSON(t, "refused", stalled+"reason}", "PolicyRefused")
	must(t, "delete", "nixi", "-n", describedNamespace, "broken", "refused")
	err := wait(t.Context(), time.Minute, "the end of the Jobs", func() error {
		jobs, err := w.kube.BatchV1().Jobs(describedNamespace).List(t.Context(), metav1.ListOptions{})
		if err == nil && len(jobs.Items) > 0 {
			err = fmt.Errorf("%d are there", len(jobs.Items))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
