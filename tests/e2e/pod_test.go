//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	emptyImage   = "localhost/empty:1"   // holds nothing but /tmp
	busyboxImage = "localhost/busybox:1" // has a shell, wherever the volume is
	bin          = "/nix/var/result/bin/"
)

// attributes are those of a volume.
type attributes map[string]string

// newPod gives a pod with one container of an empty image, whose command comes
// out of the volume "nix" at /nix.
func newPod(namespace, name string, a attributes) *corev1.Pod {
	yes, grace := true, int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			RestartPolicy:                 corev1.RestartPolicyAlways,
			Containers: []corev1.Container{{
				Name: "c", Image: emptyImage, Command: []string{bin + "sleep", "1000000"},
				VolumeMounts: []corev1.VolumeMount{{Name: "nix", MountPath: "/nix"}},
			}},
			Volumes: []corev1.Volume{{Name: "nix", VolumeSource: corev1.VolumeSource{
				CSI: &corev1.CSIVolumeSource{Driver: driverName, ReadOnly: &yes, VolumeAttributes: a},
			}}},
		},
	}
}

// busybox makes the pod's container one of the busybox image, for closures that
// have no sleep.
func busybox(pod *corev1.Pod) *corev1.Pod {
	pod.Spec.Containers[0].Image = busyboxImage
	pod.Spec.Containers[0].Command = []string{"sleep", "1000000"}
	return pod
}

// create makes the pod and sees to it that it, and all it left, is gone after the test.
func create(t *testing.T, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	made, err := w.kube.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if now, err := w.kube.CoreV1().Pods(pod.Namespace).Get(context.Background(), pod.Name, metav1.GetOptions{}); err == nil && now.UID == made.UID && t.Failed() {
			t.Logf("events of %s:\n%s", pod.Name, strings.Join(events(made), "\n"))
		}
		remove(t, made)
	})
	return made
}

// start is create and ready.
func start(t *testing.T, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	return ready(t, create(t, pod), 90*time.Second)
}

// ready waits until the pod is ready and gives it as it is then.
func ready(t *testing.T, pod *corev1.Pod, limit time.Duration) *corev1.Pod {
	t.Helper()
	var now *corev1.Pod
	err := wait(t.Context(), limit, "pod "+pod.Name, func() (err error) {
		now, err = w.kube.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
		if err == nil && !isReady(now) {
			err = errors.New("it is " + string(now.Status.Phase))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return now
}

func isReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// remove deletes a pod and waits until it is gone. It may be gone already.
func remove(t *testing.T, pods ...*corev1.Pod) {
	t.Helper()
	ctx := context.Background() // also after a test's own has ended
	for _, pod := range pods {
		if err := w.kube.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	}
	for _, pod := range pods {
		err := wait(ctx, 2*time.Minute, "the end of pod "+pod.Name, func() error {
			now, err := w.kube.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
			switch {
			case apierrors.IsNotFound(err) || err == nil && now.UID != pod.UID:
				return nil
			case err == nil:
				err = errors.New("it is there")
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// kubectl runs kubectl and gives what it prints on both streams.
func kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	args = append([]string{
		"kubectl", "--kubeconfig", filepath.Join(w.dir, "pki", "admin.kubeconfig"),
		"--cache-dir", filepath.Join(w.dir, "run", "kubectl"),
	}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(w.dir, "bin", "kube"), args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// try runs a command in a container of the pod ("" is the first).
func try(t *testing.T, pod *corev1.Pod, container string, command ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if container == "" {
		container = pod.Spec.Containers[0].Name
	}
	return kubectl(ctx, "", append([]string{"exec", "-n", pod.Namespace, pod.Name, "-c", container, "--"}, command...)...)
}

// in runs a command in the pod's first container, which must succeed.
func in(t *testing.T, pod *corev1.Pod, command ...string) string {
	t.Helper()
	out, err := try(t, pod, "", command...)
	if err != nil {
		t.Fatalf("%s in pod %s: %v\n%s", strings.Join(command, " "), pod.Name, err, out)
	}
	return out
}

// events gives the events of a pod, one line each.
func events(pod *corev1.Pod) []string {
	list, err := w.kube.CoreV1().Events(pod.Namespace).List(context.Background(),
		metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(pod.UID)})
	if err != nil {
		return []string{err.Error()}
	}
	lines := make([]string, 0, len(list.Items))
	for _, e := range list.Items {
		lines = append(lines, fmt.Sprintf("%s %s: %s", e.Type, e.Reason, e.Message))
	}
	return lines
}

// failedMount waits for a FailedMount event of the pod that holds all the words,
// and gives it.
func failedMount(t *testing.T, pod *corev1.Pod, limit time.Duration, words ...string) string {
	t.Helper()
	return event(t, pod, limit, append([]string{"FailedMount"}, words...)...)
}

// event waits for an event of the pod that holds all the words, and gives it.
func event(t *testing.T, pod *corev1.Pod, limit time.Duration, words ...string) string {
	t.Helper()
	var found string
	err := wait(t.Context(), limit, "an event with "+strings.Join(words, ", "), func() error {
		lines := events(pod)
		for _, line := range lines {
			if containsAll(line, words) {
				found = line
				return nil
			}
		}
		return fmt.Errorf("the events are:\n%s", strings.Join(lines, "\n"))
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func containsAll(s string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(s, word) {
			return false
		}
	}
	return true
}
