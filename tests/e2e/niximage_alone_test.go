//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// agentBeginsAlone restarts the agent while the API server is away, which told it
// what names of images stand for. The pod of one goes on, and its volume, asked
// for again as kubelet does, is there.
func agentBeginsAlone(t *testing.T) {
	apply(t, describedObject("alone", "contents: [one]"))
	awaitDescribed(t, "alone")
	apply(t, describedPod("alone", "image: "+busyboxImage+`, command: [/bin/sleep, "1000000"], volumeMounts: [{name: nix, mountPath: /nix}]`,
		"volumes: [{name: nix, csi: {driver: "+driverName+", readOnly: true, volumeAttributes: {image: alone}}}]"))
	must(t, "wait", "-n", describedNamespace, "--for=condition=Ready", "pod/alone", "--timeout=3m")
	pod, err := w.kube.CoreV1().Pods(describedNamespace).Get(t.Context(), "alone", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	address, err := w.agent.address(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	back := takeServerAway(t)
	if err := kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = wait(t.Context(), 3*time.Minute, "the agent to be ready without an API server", func() error {
		return get(t.Context(), "http://"+address+"/readyz")
	})
	if err != nil {
		t.Fatal(err)
	}
	requireReadable(t, []*corev1.Pod{pod})
	if err := publishAgain(t, pod, mountOf(pod)); err != nil {
		t.Errorf("a volume that is mounted is asked for again: %v", err)
	}
	t.Logf("another volume of the image: %v", publishAgain(t, pod, otherMountOf(pod)))
	back(t.Context())
	restart(t)
	requireReadable(t, []*corev1.Pod{pod})
	if out, err := try(t, pod, "", "true"); err != nil {
		t.Errorf("the pod does not run: %v: %s", err, out)
	}
	must(t, "delete", "-n", describedNamespace, "pod/alone", "nixi/alone")
}

// otherMountOf gives the folder of a volume that the pod does not have.
func otherMountOf(pod *corev1.Pod) string {
	return filepath.Join(filepath.Dir(filepath.Dir(mountOf(pod))), "other", "mount")
}

// publishAgain asks the agent for a volume as kubelet does, at its own target or
// at another one, which it is taken from again.
func publishAgain(t *testing.T, pod *corev1.Pod, target string) error {
	t.Helper()
	var volume struct {
		ID string `json:"volumeHandle"`
	}
	data, err := os.ReadFile(filepath.Join(filepath.Dir(mountOf(pod)), "vol_data.json"))
	if err == nil {
		err = json.Unmarshal(data, &volume)
	}
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix://"+filepath.Join(kubeletDir, "plugins", driverName, "csi.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	node := csi.NewNodeClient(conn)
	if target != mountOf(pod) {
		volume.ID += "-other"
		if err := os.Mkdir(filepath.Dir(target), 0o750); err != nil { // kubelet does so
			t.Fatal(err)
		}
		defer func() {
			_, err := node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: volume.ID, TargetPath: target})
			if err := errors.Join(err, os.Remove(filepath.Dir(target))); err != nil {
				t.Error(err)
			}
		}()
	}
	_, err = node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: volume.ID, TargetPath: target, Readonly: true,
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		},
		VolumeContext: map[string]string{
			"image": "alone", "csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.name": pod.Name, "csi.storage.k8s.io/pod.uid": string(pod.UID),
			"csi.storage.k8s.io/pod.namespace": pod.Namespace, "csi.storage.k8s.io/serviceAccount.name": "default",
		},
	})
	return err
}
