//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSubPaths: a folder of a volume can be mounted alone, and no subPath leads
// out of the closure, makes something in it, or shows what is on the node.
func TestSubPaths(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	whole := start(t, newPod(plain, "whole", attributes{"packages": "one"}))
	store := describe(t, filepath.Join(stateDir, "nix", "store"))

	pod := busybox(newPod(plain, "sub-store", attributes{"packages": "one"}))
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "nix", MountPath: "/nix/store", SubPath: "store"}}
	pod = start(t, pod)
	if says := in(t, pod, "cat", rootOf(t, whole)+"/share/name"); says != "one" {
		t.Errorf("the pod reads %q", says)
	}
	if names := strings.Fields(in(t, pod, "ls", "/nix/store")); len(names) != 2 {
		t.Errorf("the pod sees %q", names)
	}
	if out, err := try(t, pod, "", "touch", "/nix/store/new"); err == nil {
		t.Errorf("the pod wrote into the store: %s", out)
	}
	remove(t, pod)

	for name, m := range map[string]corev1.VolumeMount{
		"sub-result":  {SubPath: "var/result"}, // an absolute link, of which the node's own /nix is not meant
		"sub-new":     {SubPath: "store/new/folder"},
		"sub-climb":   {SubPathExpr: "$(UP)/$(UP)/$(UP)"},
		"sub-climber": {SubPathExpr: "store/$(UP)/$(UP)/.."},
	} {
		pod := busybox(newPod(plain, name, attributes{"packages": "one"}))
		m.Name, m.MountPath = "nix", "/sub"
		pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{m}
		pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "UP", Value: ".."}}
		made, err := w.kube.CoreV1().Pods(plain).Create(t.Context(), pod, metav1.CreateOptions{})
		if err != nil {
			t.Logf("%s: %v", name, err)
			continue
		}
		t.Cleanup(func() { remove(t, made) })
		t.Logf("%s: %s", name, refusedContainer(t, made))
		remove(t, made)
	}
	if after := describe(t, filepath.Join(stateDir, "nix", "store")); after != store {
		t.Errorf("the store was\n%s\nand is\n%s", store, after)
	}
}

// TestSubPathOfAPlantedLink: what a pod puts into its writable volume leads its
// other containers nowhere.
func TestSubPathOfAPlantedLink(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	no := false
	pod := busybox(newPod(plain, "planted", attributes{"packages": "one", "writable": "true", "sizeLimit": "16Mi"}))
	pod.Spec.Volumes[0].CSI.ReadOnly = &no
	first := pod.Spec.Containers[0]
	first.Name = "planter"
	first.Command = []string{"sh", "-c", "ln -s / /nix/root && ln -s ../../../../../.. /nix/up"}
	pod.Spec.InitContainers = []corev1.Container{first}
	second := pod.Spec.Containers[0]
	second.Name = "d"
	second.VolumeMounts = []corev1.VolumeMount{{Name: "nix", MountPath: "/host", SubPath: "up"}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "nix", MountPath: "/host", SubPath: "root"}}
	pod.Spec.Containers = append(pod.Spec.Containers, second)
	pod = create(t, pod)
	t.Log(refusedContainer(t, pod))
	now, err := w.kube.CoreV1().Pods(plain).Get(t.Context(), pod.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range now.Status.ContainerStatuses {
		if s.State.Running != nil {
			t.Errorf("container %s runs", s.Name)
		}
	}
}

// refusedContainer waits until kubelet says that it does not start a container of
// the pod, and gives its words. No container may run.
func refusedContainer(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	said := ""
	err := wait(t.Context(), 90*time.Second, "kubelet to refuse a container of pod "+pod.Name, func() error {
		for _, line := range events(pod) {
			if strings.HasPrefix(line, "Warning Failed: ") || strings.Contains(line, "CreateContainerConfigError") {
				said = line
				return nil
			}
		}
		if now, err := w.kube.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{}); err == nil && isReady(now) {
			return errors.New("the pod runs")
		}
		return fmt.Errorf("the events are:\n%s", strings.Join(events(pod), "\n"))
	})
	if err != nil {
		t.Error(err)
	}
	return said
}
