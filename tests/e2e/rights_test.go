//go:build e2e

package e2e

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// TestRightsOfRunningPods compares what the processes, and the token that they
// have, can really do with the list that tests/deploy keeps.
func TestRightsOfRunningPods(t *testing.T) {
	deployed(t)
	want := allowed(t)
	pod, err := agentPod(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := w.kube.CoreV1().Pods(agentNamespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(all.Items) != 1 {
		t.Errorf("the namespace has %d pods (%v)", len(all.Items), err)
	}

	for _, section := range []struct {
		prefix string
		have   []string
	}{
		{"ClusterRole closured: ", roleOf(t)},
		{"container nix-daemon: capability ", capabilities(t, pod, "nix-daemon")},
		{"container agent: port ", ports(t, pod)},
		{"container agent: host path ", hostPaths(pod, "agent")},
		{"container nix-daemon: host path ", hostPaths(pod, "nix-daemon")},
	} {
		var listed []string
		for _, line := range want {
			if rest, ok := strings.CutPrefix(line, section.prefix); ok {
				listed = append(listed, rest)
			}
		}
		slices.Sort(listed)
		if len(listed) == 0 || !slices.Equal(listed, section.have) {
			t.Errorf("%s\nlisted:  %q\nreality: %q", section.prefix, listed, section.have)
		}
	}
	requireOwnNamespaces(t, pod)
	for _, pid := range processesOf(t, pod, "nix-daemon") {
		if dir := secrets(t, pid); dir != "" {
			t.Errorf("a token is in %s where builds run", dir)
		}
	}
}

// allowed gives what tests/deploy lists for deploy/base.
func allowed(t *testing.T) []string {
	t.Helper()
	_, text, found := strings.Cut(read(t, filepath.Join("..", "deploy", "testdata", "rights.txt")), "# base\n")
	if !found {
		t.Fatal("the list has no part of the base")
	}
	text, _, _ = strings.Cut(text, "\n# ")
	return strings.Split(text, "\n")
}

// roleOf gives what the agent's token can do that an account of no role cannot,
// in whatever namespace.
func roleOf(t *testing.T) []string {
	t.Helper()
	nobody, err := w.kube.CoreV1().ServiceAccounts(plain).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	agent, anybody := asAgent(t), asToken(t, nobody.Status.Token)
	var lines []string
	for _, namespace := range []string{agentNamespace, plain, metav1.NamespaceSystem} {
		common := rules(t, anybody, namespace)
		for _, line := range rules(t, agent, namespace) {
			if !slices.Contains(common, line) && !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// rules is `kubectl auth can-i --list`.
func rules(t *testing.T, client kubernetes.Interface, namespace string) []string {
	t.Helper()
	review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}
	review, err := client.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), review, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range review.Status.ResourceRules {
		group := strings.Join(r.APIGroups, ",")
		if group == "" {
			group = "core"
		}
		line := fmt.Sprintf("%s %s in %s %s", strings.Join(r.Verbs, ","), strings.Join(r.Resources, ","), group, strings.Join(r.ResourceNames, ","))
		lines = append(lines, strings.TrimSpace(line))
	}
	for _, r := range review.Status.NonResourceRules {
		lines = append(lines, fmt.Sprintf("%s %s", strings.Join(r.Verbs, ","), strings.Join(r.NonResourceURLs, ",")))
	}
	return lines
}

// capabilities gives what the processes of a container could ever have.
func capabilities(t *testing.T, pod *corev1.Pod, container string) []string {
	t.Helper()
	names := map[int]string{
		unix.CAP_CHOWN: "CHOWN", unix.CAP_DAC_OVERRIDE: "DAC_OVERRIDE", unix.CAP_FOWNER: "FOWNER",
		unix.CAP_SETGID: "SETGID", unix.CAP_SETUID: "SETUID", unix.CAP_SYS_ADMIN: "SYS_ADMIN",
	}
	var lines []string
	for _, pid := range processesOf(t, pod, container) {
		set, err := strconv.ParseUint(statusOf(t, pid, "CapBnd"), 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		for bit := range 64 {
			name := names[bit]
			if name == "" {
				name = strconv.Itoa(bit)
			}
			if set&(1<<bit) != 0 && !slices.Contains(lines, name) {
				lines = append(lines, name)
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// ports gives what listens in the pod's network, in the words of the list.
func ports(t *testing.T, pod *corev1.Pod) []string {
	t.Helper()
	const listens = "0A" // state TCP_LISTEN in /proc/net/tcp, see proc(5)
	pid := processesOf(t, pod, "agent")[0]
	var lines []string
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/net/%s", pid, table))) {
			fields := strings.Fields(line)
			if len(fields) < 4 || fields[0] == "sl" || strings.HasPrefix(table, "tcp") && fields[3] != listens {
				continue
			}
			_, port, _ := strings.Cut(fields[1], ":")
			number, err := hex.DecodeString(port)
			if err != nil || len(number) != 2 {
				t.Fatalf("%q: %v", line, err)
			}
			lines = append(lines, fmt.Sprintf("%d/%s, host port 0 of \"\"", int(number[0])<<8|int(number[1]), strings.ToUpper(table[:3])))
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// hostPaths gives what a container has of the node, but for the package set of
// these tests.
func hostPaths(pod *corev1.Pod, container string) []string {
	var lines []string
	for _, c := range pod.Spec.Containers {
		for _, m := range c.VolumeMounts {
			for _, v := range pod.Spec.Volumes {
				if c.Name != container || v.Name != m.Name || v.HostPath == nil || m.Name == "packages" {
					continue
				}
				propagation := corev1.MountPropagationNone
				if m.MountPropagation != nil {
					propagation = *m.MountPropagation
				}
				lines = append(lines, fmt.Sprintf("%s at %s, read-only %v, propagation %s", v.HostPath.Path, m.MountPath, m.ReadOnly, propagation))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// requireOwnNamespaces wants no process of the pod in a namespace of the node, in
// which this test is itself.
func requireOwnNamespaces(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	for _, container := range []string{"agent", "nix-daemon"} {
		for _, pid := range processesOf(t, pod, container) {
			for _, kind := range []string{"net", "pid", "ipc", "uts", "mnt"} {
				mine, err := os.Readlink("/proc/self/ns/" + kind)
				if err != nil {
					t.Fatal(err)
				}
				if its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind)); err != nil || its == mine {
					t.Errorf("process %d of %s has the node's namespace %s (%v)", pid, container, kind, err)
				}
			}
		}
	}
}
