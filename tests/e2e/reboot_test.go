//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestReboot has two halves, since a reboot ends the tests, too: ./run starts
// them again, with E2E_REBOOT saying which half it is.
func TestReboot(t *testing.T) {
	const pods = 3
	switch os.Getenv("E2E_REBOOT") {
	case "before":
		deployed(t)
		for i := range pods {
			made, err := w.kube.CoreV1().Pods(plain).Create(t.Context(), newPod(plain, fmt.Sprintf("reboot-%d", i), attributes{"packages": "one"}), metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			ready(t, made, time.Minute)
		}
		requireMounts(t, pods)
	case "after":
		deployed(t)
		all := make([]*corev1.Pod, pods)
		for i := range all {
			pod := newPod(plain, fmt.Sprintf("reboot-%d", i), nil)
			err := wait(t.Context(), 3*time.Minute, "pod "+pod.Name+" to start again", func() (err error) {
				all[i], err = w.kube.CoreV1().Pods(plain).Get(t.Context(), pod.Name, metav1.GetOptions{})
				if err == nil && (!isReady(all[i]) || all[i].Status.ContainerStatuses[0].RestartCount == 0) {
					err = fmt.Errorf("it is as before the reboot, or not ready")
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if says := in(t, all[i], bin+"cat", "/nix/var/result/share/name"); says != "one" {
				t.Errorf("the pod reads %q", says)
			}
		}
		requireMounts(t, pods)
		remove(t, all...)
		requireClean(t)
	default:
		t.Skip("run by tests/e2e/run around a reboot")
	}
}
