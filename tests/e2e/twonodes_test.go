//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const otherNode = "node2"

// twoNodes skips the test on a cluster of one node.
func twoNodes(t *testing.T) {
	t.Helper()
	deployed(t)
	nodes, err := w.kube.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes.Items) != 2 {
		t.Skipf("the cluster has %d node; NODES=2 tests/e2e/up makes two", len(nodes.Items))
	}
}

// on has the scheduler place a pod on a node.
func on(node string, pod *corev1.Pod) *corev1.Pod {
	pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	return pod
}

// agentOn gives the agent's pod of a node when it is ready.
func agentOn(t *testing.T, node string) *corev1.Pod {
	t.Helper()
	var found *corev1.Pod
	err := wait(t.Context(), 3*time.Minute, "the agent of "+node, func() error {
		pods, err := w.kube.CoreV1().Pods(agentNamespace).List(t.Context(),
			metav1.ListOptions{LabelSelector: agentPods, FieldSelector: "spec.nodeName=" + node})
		if err != nil {
			return err
		}
		if len(pods.Items) != 1 || !isReady(&pods.Items[0]) {
			return fmt.Errorf("%d pods, or one that is not ready", len(pods.Items))
		}
		found = &pods.Items[0]
		driver, err := w.kube.StorageV1().CSINodes().Get(t.Context(), node, metav1.GetOptions{})
		if err == nil && (len(driver.Spec.Drivers) != 1 || driver.Spec.Drivers[0].Name != driverName) {
			err = fmt.Errorf("its drivers are %v", driver.Spec.Drivers)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// leftOn gives the pins and the folders of volumes of a node. What is mounted there
// only its own processes see.
func leftOn(node string) (roots, dirs []string, err error) {
	folder := filepath.Join(w.dir, node)
	roots, err = filepath.Glob(filepath.Join(folder, "state/nix/var/nix/gcroots/closured/volumes/*"))
	if err != nil {
		return nil, nil, err
	}
	dirs, err = filepath.Glob(filepath.Join(folder, "kubelet/pods/*/volumes/kubernetes.io~csi/*"))
	return roots, dirs, err
}

// TestTwoNodes: every node has its agent and its store; pods talk across nodes;
// what happens to one node's agent is nothing to the other node.
func TestTwoNodes(t *testing.T) {
	twoNodes(t)
	t.Cleanup(func() { requireClean(t) })
	agentOn(t, nodeName)
	agent := agentOn(t, otherNode)

	server := on(nodeName, newPod(plain, "server", attributes{"packages": "redis one"}))
	server.Spec.Containers[0].Command = []string{bin + "redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", "/tmp"}
	server = create(t, server)
	client := create(t, on(otherNode, newPod(plain, "client", attributes{"packages": "curl jq one"})))
	server, client = ready(t, server, 8*time.Minute), ready(t, client, 8*time.Minute) // both build
	in(t, server, bin+"redis-cli", "SET", "greeting", "hello from another node")
	requireGreeting(t, client, server)
	requireOwnStores(t, server, client)

	t.Cleanup(func() { releaseNode(t) })
	holdNode(t)
	requireGreeting(t, client, server) // the pod of the node without an agent runs on
	fresh := start(t, on(otherNode, newPod(plain, "fresh", attributes{"packages": "two"})))
	remove(t, fresh)
	if now := agentOn(t, otherNode); now.UID != agent.UID || restarts(now) != restarts(agent) {
		t.Errorf("the agent of %s was pod %s with %d restarts and is %s with %d", otherNode, agent.UID, restarts(agent), now.UID, restarts(now))
	}
	releaseNode(t)

	agentOn(t, nodeName)
	requireGreeting(t, client, server)
	requireSame(t, []*corev1.Pod{server, client})
	start(t, on(nodeName, newPod(plain, "back", attributes{"packages": "one"})))
	remove(t, server, client)
	requireNothingOn(t, otherNode)
}

// requireGreeting has the client ask the server for what it was told.
func requireGreeting(t *testing.T, client, server *corev1.Pod) {
	t.Helper()
	says := in(t, client, bin+"curl", "--silent", "--max-time", "10",
		"gopher://"+server.Status.PodIP+":6379/_GET%20greeting%0D%0AQUIT%0D%0A")
	if !strings.Contains(says, "hello from another node") {
		t.Errorf("GET said %q", says)
	}
}

// requireOwnStores wants each node to have what its pod needs, and not the other's.
func requireOwnStores(t *testing.T, server, client *corev1.Pod) {
	t.Helper()
	roots := map[string]string{
		nodeName:  rootOf(t, server),
		otherNode: in(t, client, bin+"jq", "-r", ".root", "/nix/var/closure.json"),
	}
	for node, root := range roots {
		for _, of := range []string{nodeName, otherNode} {
			_, err := os.Lstat(filepath.Join(w.dir, of, "state", root))
			if there := err == nil; there != (of == node) {
				t.Errorf("%s, of a pod on %s: in the store of %s: %t (%v)", root, node, of, there, err)
			}
		}
		if pins, dirs, err := leftOn(node); err != nil || len(pins) != 1 || len(dirs) != 1 {
			t.Errorf("%s has the pins %q and the folders %q (%v), want one each", node, pins, dirs, err)
		}
	}
}

// holdNode ends kubelet and the agent of the first node and keeps them away:
// without kubelet nobody starts the agent again.
func holdNode(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(kubeletHold(), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	kubelet, err := strconv.Atoi(read(t, filepath.Join(w.dir, "run", "kubelet.pid")))
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range slices.Concat([]int{kubelet}, mustPIDs(t)) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	err = wait(t.Context(), 30*time.Second, "the end of the agent", func() error {
		if pids, err := agentPIDs(); err != nil || len(pids) > 0 {
			return fmt.Errorf("there are %v (%v)", pids, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func kubeletHold() string { return filepath.Join(w.dir, "run", "kubelet.hold") }

// releaseNode lets kubelet start again, and with it the agent.
func releaseNode(t *testing.T) {
	t.Helper()
	if err := os.Remove(kubeletHold()); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	restart(t)
}

func restarts(pod *corev1.Pod) int32 {
	var n int32
	for _, c := range pod.Status.ContainerStatuses {
		n += c.RestartCount
	}
	return n
}

// requireNothingOn waits until no volume has left anything on a node.
func requireNothingOn(t *testing.T, node string) {
	t.Helper()
	err := wait(t.Context(), 2*time.Minute, "a clean "+node, func() error {
		roots, dirs, err := leftOn(node)
		if err == nil && len(roots)+len(dirs) > 0 {
			err = fmt.Errorf("there are the pins %q and the folders %q", roots, dirs)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
