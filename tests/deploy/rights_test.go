package deploy

import (
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

var update = flag.Bool("update", false, "write testdata/rights.txt anew")

const golden = "testdata/rights.txt"

// TestRightsDoNotGrow compares what the objects ask for with a list that somebody
// has read. A right that is new or gone fails; look at it, then run the test with
// -update and say in the commit why.
func TestRightsDoNotGrow(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for _, source := range []struct {
		name    string
		objects []object
	}{
		{"base", kustomize(t, "base")},
		{"overlays/k3s", kustomize(t, "overlays/k3s")},
		{"overlays/rke2", kustomize(t, "overlays/rke2")},
		{"overlays/crio", kustomize(t, "overlays/crio")},
		{"overlays/nixos", kustomize(t, "overlays/nixos")},
		{"base and components/startup-taint", kustomize(t, "../tests/deploy/testdata/startup-taint")},
		{"base and components/no-registry", kustomize(t, "../tests/deploy/testdata/no-registry")},
		{"overlays/niximage", kustomize(t, niximage)},
		{"cleanup", kustomize(t, "cleanup")},
		{"overlays/k3s/cleanup", kustomize(t, "overlays/k3s/cleanup")},
		{"overlays/rke2/cleanup", kustomize(t, "overlays/rke2/cleanup")},
		{"chart", chart(t, nil)},
		{"chart with NixImage", chart(t, withNixImage(nil))},
	} {
		fmt.Fprintf(&b, "# %s\n%s\n", source.name, strings.Join(rights(t, source.objects), "\n"))
	}
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(b.String(), "\n")); diff != "" {
		t.Errorf("rights (-read by somebody +asked for now):\n%s", diff)
	}
}

// rights lists what objects ask for, a line each, sorted.
func rights(t *testing.T, objects []object) []string {
	t.Helper()
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for _, o := range objects {
		switch o["kind"] {
		case "ClusterRole", "Role":
			for _, rule := range items(o, "rules") {
				add("%s: %s %s in %s %s", id(o), words(rule["verbs"]), words(rule["resources"]), words(rule["apiGroups"]), words(rule["resourceNames"]))
			}
		case "ClusterRoleBinding", "RoleBinding":
			for _, s := range items(o, "subjects") {
				add("%s: %v to %v %v/%v", id(o), at(o, "roleRef", "name"), s["kind"], s["namespace"], s["name"])
			}
		case "Namespace":
			add("%s: pod security %v", id(o), at(o, "metadata", "labels", "pod-security.kubernetes.io/enforce"))
		}
	}
	for _, pod := range pods(t, objects) {
		podRights(pod, add)
	}
	sort.Strings(lines)
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return lines
}

func podRights(pod corev1.PodSpec, add func(string, ...any)) {
	for name, set := range map[string]bool{"hostNetwork": pod.HostNetwork, "hostPID": pod.HostPID, "hostIPC": pod.HostIPC} {
		if set {
			add("pod: %s", name)
		}
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		add("pod: a token in every container")
	}
	add("pod: priority %q", pod.PriorityClassName)
	for _, c := range append(append([]corev1.Container{}, pod.InitContainers...), pod.Containers...) {
		containerRights(pod, c, add)
	}
}

func containerRights(pod corev1.PodSpec, c corev1.Container, add func(string, ...any)) {
	s := c.SecurityContext
	if s == nil {
		s = &corev1.SecurityContext{}
	}
	yes := func(b *bool) bool { return b != nil && *b }
	add("container %s: privileged %v, escalation %v, read-only root %v", c.Name, yes(s.Privileged),
		s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation, yes(s.ReadOnlyRootFilesystem))
	if s.Capabilities != nil {
		for _, capability := range s.Capabilities.Add {
			add("container %s: capability %s", c.Name, capability)
		}
		add("container %s: drops %v", c.Name, s.Capabilities.Drop)
	}
	if s.SeccompProfile != nil {
		add("container %s: seccomp %s", c.Name, s.SeccompProfile.Type)
	}
	if s.AppArmorProfile != nil {
		add("container %s: AppArmor %s", c.Name, s.AppArmorProfile.Type)
	}
	for _, p := range c.Ports {
		add("container %s: port %d/%s, host port %d of %q", c.Name, p.ContainerPort, p.Protocol, p.HostPort, p.HostIP)
	}
	for _, m := range c.VolumeMounts {
		for _, v := range pod.Volumes {
			if v.Name != m.Name {
				continue
			}
			propagation := corev1.MountPropagationNone
			if m.MountPropagation != nil {
				propagation = *m.MountPropagation
			}
			switch {
			case v.HostPath != nil:
				add("container %s: host path %s at %s, read-only %v, propagation %s", c.Name, v.HostPath.Path, m.MountPath, m.ReadOnly, propagation)
			case v.Projected != nil:
				add("container %s: token at %s", c.Name, m.MountPath)
			case v.Secret != nil:
				add("container %s: secret %s", c.Name, v.Secret.SecretName)
			}
		}
	}
}

func words(v any) string {
	list, _ := v.([]any)
	out := make([]string, len(list))
	for i, e := range list {
		out[i] = fmt.Sprint(e)
		if out[i] == "" {
			out[i] = "core"
		}
	}
	return strings.Join(out, ",")
}
