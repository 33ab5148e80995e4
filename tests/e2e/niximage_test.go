//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNixImage goes the way of docs/niximage.md, with one installation of the
// component. What is measured runs first and alone; what mostly waits runs at
// once. Nothing of it is left.
func TestNixImage(t *testing.T) {
	deployed(t)
	t.Cleanup(func() { requireClean(t) })
	installNixImage(t)
	removeImages(t, describedImage+":v1", describedImage+":v2")
	t.Cleanup(func() { removeImages(t, describedImage+":v1", describedImage+":v2") })

	t.Run("note", describedNote)
	t.Run("scenarios", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T){
			"failures": describedFailures, "policy": describedPolicy, "systems": describedSystems, "quota": describedQuota, "limits": describedLimits,
			"later": describedLater, "oddities": describedOddities, "wrongly": describedWrongly, "specs": describedSpecs, "forged": describedForged,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t)
			})
		}
	})
	must(t, "delete", "nixi", "-n", describedNamespace, "--all")
	requireNoJobs(t, describedNamespace)
	must(t, "delete", "namespace", describedNamespace, "--timeout=3m")
	if _, code := manifestOf(t, "v2"); code != http.StatusNotFound {
		t.Errorf("a deleted image has the code %d", code)
	}
}

// requireNoJobs waits until a namespace has neither Jobs nor pods of builds.
func requireNoJobs(t *testing.T, namespace string) {
	t.Helper()
	err := wait(t.Context(), 2*time.Minute, "the end of the builds", func() error {
		jobs, err := w.kube.BatchV1().Jobs(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		pods, err := w.kube.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "closured.dev/niximage"})
		if err != nil {
			return err
		}
		if n := len(jobs.Items) + len(pods.Items); n > 0 {
			return fmt.Errorf("%d Jobs and pods are there", n)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
