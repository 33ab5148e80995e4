//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const chart = "../../deploy/chart/closured"

// helmValues are what ./deploy changes of the base, in the words of the chart.
const helmValues = `
image: {repository: localhost/closured, tag: e2e}
packageSet: /packages
nixConf: {substituters: "", trusted-public-keys: ""}
policy:
  rules:
  - namespaces: ["*"]
    sources: [storePath, packages, image]
agent:
  logLevel: %s
  extraVolumeMounts:
  - {name: packages, mountPath: /packages, readOnly: true}
extraVolumes:
- {name: packages, hostPath: {path: /var/lib/closured-packages, type: Directory}}
test:
  attributes: {packages: one}
  command: [/nix/var/result/bin/cat, /nix/var/result/share/name]
`

// TestHelm installs the chart instead of deploy/base, runs its test, upgrades it
// under running pods, which turns NixImage on, and takes it away from under them.
func TestHelm(t *testing.T) {
	d := deployed(t)
	if _, err := os.Stat(filepath.Join(w.dir, "bin", "helm")); err != nil {
		t.Skip("helm is not built: see cluster/build")
	}
	t.Cleanup(func() { requireClean(t) })
	uninstall(t)
	t.Cleanup(func() {
		ctx := context.Background()
		if out, err := runHelm(ctx, "info", "uninstall", "closured", "--ignore-not-found", "--wait"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if out, err := kubectl(ctx, "", "delete", "namespace", agentNamespace, "--ignore-not-found"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if out, err := kubectl(ctx, "", "delete", "--ignore-not-found", "-f", filepath.Join(componentDir, "closured.dev_niximages.yaml")); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		restart(t) // from deploy/base again
	})
	must(t, "create", "namespace", agentNamespace)
	must(t, "label", "namespace", agentNamespace, "pod-security.kubernetes.io/enforce=privileged")

	begin := time.Now()
	helm(t, "info", "install", "closured", chart, "--values", "-", "--wait", "--timeout", "3m")
	figure("helm install", "to Ready, image on the node: %s (bar: 60 s)", time.Since(begin).Round(100*time.Millisecond))
	if err := registered(t.Context()); err != nil {
		t.Fatal(err)
	}
	pods := startSome(t, "helm", 2)
	t.Log(helm(t, "info", "test", "closured", "--logs", "--timeout", "2m"))

	before := mustPIDs(t)
	makeCacheKey(t)
	helm(t, "debug", "upgrade", "closured", chart, "--values", "-", "--set", "nixImage.enabled=true", "--wait", "--timeout", "3m")
	err := wait(t.Context(), 2*time.Minute, "the upgraded agent", func() error {
		now, err := agentPIDs()
		if err == nil && (len(now) != 1 || now[0] == before[0]) {
			err = fmt.Errorf("the agent was process %v and is %v", before, now)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := registered(t.Context()); err != nil {
		t.Fatal(err)
	}
	requireSame(t, pods)
	pods = append(pods, start(t, newPod(plain, "helm-upgraded", attributes{"packages": "one"})))
	apply(t, describedObjectIn(plain, "helm", "contents: [one]"))
	must(t, "wait", "-n", plain, "--for=condition=Ready", "nixi/helm", "--timeout=5m")
	pods = append(pods, start(t, newPod(plain, "helm-described", attributes{"image": "helm"})))

	helm(t, "debug", "uninstall", "closured", "--wait")
	must(t, "get", "nixi", "-n", plain, "helm") // the kind stays, and all objects with it
	must(t, "delete", "-f", filepath.Join(componentDir, "closured.dev_niximages.yaml"))
	requireNoRelease(t)
	must(t, "delete", "namespace", agentNamespace)
	for _, pod := range pods[:2] {
		if says := in(t, pod, bin+"cat", "/nix/var/result/share/name"); says != "one" {
			t.Errorf("after uninstall pod %s reads %q", pod.Name, says)
		}
	}
	requireReadable(t, pods)
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	remove(t, pods...)
}

// requireNoRelease wants no object of the release in the cluster.
func requireNoRelease(t *testing.T) {
	t.Helper()
	kinds := strings.Fields(must(t, "api-resources", "--verbs=list", "-o", "name"))
	selector := "app.kubernetes.io/managed-by=Helm,app.kubernetes.io/instance=closured"
	err := wait(t.Context(), time.Minute, "the end of the release", func() error {
		out, err := kubectl(t.Context(), "", "get", strings.Join(kinds, ","), "-A", "--ignore-not-found", "-o", "name", "-l", selector)
		for line := range strings.SplitSeq(out, "\n") {
			if strings.Contains(line, "/") && !strings.HasPrefix(line, "Warning:") {
				err = errors.Join(err, fmt.Errorf("there is %s", line))
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// helm runs helm, which must succeed, and gives what it prints.
func helm(t *testing.T, logLevel string, args ...string) string {
	t.Helper()
	out, err := runHelm(t.Context(), logLevel, args...)
	if err != nil {
		pods, _ := kubectl(t.Context(), "", "describe", "pods", "-n", agentNamespace)
		t.Fatalf("helm %q: %v\n%s\n%s", args, err, out, pods)
	}
	return out
}

func runHelm(ctx context.Context, logLevel string, args ...string) (string, error) {
	args = append(args, "--namespace", agentNamespace, "--kubeconfig", filepath.Join(w.dir, "pki", "admin.kubeconfig"))
	cmd := exec.CommandContext(ctx, filepath.Join(w.dir, "bin", "helm"), args...)
	home := filepath.Join(w.dir, "run", "helm")
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	cmd.Stdin = strings.NewReader(fmt.Sprintf(helmValues, logLevel))
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
