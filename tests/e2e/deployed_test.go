//go:build e2e

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// deployed skips the test where the agent is no DaemonSet.
func deployed(t *testing.T) *daemonSet {
	t.Helper()
	d, ok := w.agent.(*daemonSet)
	if !ok {
		t.Skip("the agent is a process of the node")
	}
	return d
}

// must runs kubectl.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := kubectl(t.Context(), "", args...)
	if err != nil {
		t.Fatalf("kubectl %q: %v\n%s", args, err, out)
	}
	return out
}

// TestRollingUpdate replaces the agent's pod under running pods.
func TestRollingUpdate(t *testing.T) {
	d := deployed(t)
	t.Cleanup(func() { requireClean(t) })
	pods := startSome(t, "rolling", 3)
	before := mustPIDs(t)
	must(t, "rollout", "restart", "-n", agentNamespace, "daemonset/closured")
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := mustPIDs(t); len(after) != 1 || len(before) != 1 || after[0] == before[0] {
		t.Errorf("the agent was process %v and is %v", before, after)
	}
	requireSame(t, pods)
	requireMounts(t, len(pods))
	pods = append(pods, start(t, newPod(plain, "rolling-after", attributes{"packages": "one"})))
	remove(t, pods...)
}

// TestUninstall: pods read on when everything of closured is gone from the
// cluster, go after it was installed again, and deploy/cleanup leaves nothing.
func TestUninstall(t *testing.T) {
	d := deployed(t)
	pods := startSome(t, "uninstall", 2)
	t.Cleanup(func() { restart(t) }) // for the tests that follow

	uninstall(t)
	requireSame(t, pods)
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	requireSame(t, pods)
	requireMounts(t, len(pods))
	remove(t, pods...)
	requireClean(t)

	if text := read(t, hostsFile); !strings.Contains(text, registryAt) {
		t.Errorf("%s says %q", hostsFile, text)
	}
	uninstall(t)
	overlay := filepath.Join("deploy", "cleanup")
	must(t, "apply", "-k", overlay)
	must(t, "rollout", "status", "-n", "closured-cleanup", "daemonset/closured-cleanup", "--timeout=90s")
	must(t, "delete", "-k", overlay)
	for _, dir := range []string{stateDir, filepath.Join(kubeletDir, "plugins", driverName)} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("in %s is left %v (%v)", dir, entries, err)
		}
	}
	if _, err := os.Lstat(filepath.Dir(hostsFile)); !os.IsNotExist(err) {
		t.Errorf("containerd still has %s (%v)", filepath.Dir(hostsFile), err)
	}
	if sockets, err := filepath.Glob(filepath.Join(kubeletDir, "plugins_registry", "*")); err != nil || len(sockets) > 0 {
		t.Errorf("kubelet's folder has %q (%v)", sockets, err)
	}
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	remove(t, start(t, newPod(plain, "installed-again", attributes{"packages": "one"})))
}

// uninstall takes away what start made and waits until its namespace is gone.
func uninstall(t *testing.T) {
	t.Helper()
	must(t, "delete", "-k", "deploy", "--ignore-not-found")
	err := wait(t.Context(), 2*time.Minute, "the end of the namespace", func() error {
		_, err := w.kube.CoreV1().Namespaces().Get(t.Context(), agentNamespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it is there"))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestMemoryHungryBuild: a build that takes all memory of its container is
// ended, and neither the agent nor running pods notice.
func TestMemoryHungryBuild(t *testing.T) {
	deployed(t)
	t.Cleanup(func() { requireClean(t) })
	pods := startSome(t, "beside-hungry", 1)
	before := mustPIDs(t)
	hungry := create(t, newPod(plain, "hungry", attributes{"packages": "hungry"}))
	t.Log(failedMount(t, hungry, 3*time.Minute, "hungry"))
	if after := mustPIDs(t); len(after) != 1 || after[0] != before[0] {
		t.Errorf("the agent was process %v and is %v", before, after)
	}
	requireSame(t, pods)
	remove(t, hungry)
	ready(t, create(t, newPod(plain, "after-hungry", attributes{"packages": "two"})), 3*time.Minute)
}

// TestDistributionsRuntime runs a pod by the runc of the distribution.
func TestDistributionsRuntime(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	const name = "distribution" // the handler's in cluster/conf.sh, too
	must(t, "delete", "runtimeclass", name, "--ignore-not-found")
	if out, err := kubectl(t.Context(), `{"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "`+name+`"}, "handler": "`+name+`"}`, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pod := newPod(plain, "distribution", attributes{"packages": "one"})
	handler := name
	pod.Spec.RuntimeClassName = &handler
	pod = start(t, pod)
	if says := in(t, pod, bin+"cat", "/nix/var/result/share/name"); says != "one" {
		t.Errorf("the pod reads %q", says)
	}
}
