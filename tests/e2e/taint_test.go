//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	startupTaint = "closured.dev/agent-not-ready"
	keptTaint    = "e2e.closured.dev/kept"
	agentAccount = "system:serviceaccount:" + agentNamespace + ":closured"
)

// TestStartupTaint: a pod is not placed on a node whose agent is not ready yet.
// The agent takes its own taint away, may do so on its own node only, and may
// change nothing else of any node.
func TestStartupTaint(t *testing.T) {
	d := deployed(t)
	t.Cleanup(func() { requireClean(t) })
	t.Cleanup(func() {
		out, err := kubectl(context.Background(), "", "delete", "-k", "../../deploy/components/startup-taint", "--ignore-not-found")
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		_, _ = kubectl(context.Background(), "", "taint", "node", nodeName, startupTaint+"-", keptTaint+"-")
		restart(t) // without the component
	})
	if err := d.stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	must(t, "taint", "node", nodeName, startupTaint+"=:NoSchedule", keptTaint+"=:PreferNoSchedule")
	pod := create(t, newPod(plain, "tainted", attributes{"packages": "one"}))
	err := wait(t.Context(), time.Minute, "the scheduler to refuse the node", func() error {
		now, err := w.kube.CoreV1().Pods(plain).Get(t.Context(), pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range now.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable && strings.Contains(c.Message, "untolerated taint") {
				return nil
			}
		}
		return fmt.Errorf("its conditions are %+v", now.Status.Conditions)
	})
	if err != nil {
		t.Fatal(err)
	}

	must(t, "apply", "-k", "deploy-taint")
	must(t, "rollout", "status", "-n", agentNamespace, "daemonset/closured", "--timeout=120s")
	ready(t, pod, 2*time.Minute)
	if keys := taints(t); slices.Contains(keys, startupTaint) || !slices.Contains(keys, keptTaint) {
		t.Errorf("the node has the taints %q", keys)
	}
	remove(t, pod)

	// For what follows the agent's taint is there again; nothing of it is kept.
	must(t, "taint", "node", nodeName, startupTaint+"=:NoSchedule")
	t.Run("rights", agentChangesNothingElse)
}

func taints(t *testing.T) []string {
	t.Helper()
	node, err := w.kube.CoreV1().Nodes().Get(t.Context(), nodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, taint := range node.Spec.Taints {
		keys = append(keys, taint.Key)
	}
	return keys
}

// agentChangesNothingElse asks with the agent's own token, and only asks.
func agentChangesNothingElse(t *testing.T) {
	other := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "other"}, // not of Linux: no agent is placed there
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: startupTaint, Effect: corev1.TaintEffectNoSchedule}}},
	}
	if _, err := w.kube.CoreV1().Nodes().Create(t.Context(), other, metav1.CreateOptions{}); ignoreExists(err) != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.kube.CoreV1().Nodes().Delete(context.Background(), other.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	agent := asAgent(t)
	try := func(node, change string) error {
		_, err := agent.CoreV1().Nodes().Patch(t.Context(), node, types.MergePatchType, []byte(change),
			metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	const kept = `{"key":"` + keptTaint + `","effect":"PreferNoSchedule"}`
	const less = `"spec":{"taints":[` + kept + `]}`
	const own = `{"key":"` + startupTaint + `","effect":"NoSchedule"}`
	// An admission policy needs a moment to become known.
	err := wait(t.Context(), time.Minute, "the admission policy", func() error {
		if try(nodeName, `{"metadata":{"labels":{"mine":"yes"}}}`) == nil {
			return errors.New("it refuses nothing")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := try(nodeName, `{`+less+`}`); err != nil {
		t.Errorf("the agent may not remove its taint: %v", err)
	}
	for _, test := range []struct{ name, node, change, says string }{
		{"another node", "other", `{"spec":{"taints":null}}`, "its own node only"},
		{"another taint removed", nodeName, `{"spec":{"taints":[` + own + `]}}`, "change no other"},
		{"all taints removed", nodeName, `{"spec":{"taints":null}}`, "change no other"},
		{"a taint added", nodeName, `{"spec":{"taints":[` + kept + `,{"key":"mine","effect":"NoExecute"}]}}`, "change no other"},
		{"a label", nodeName, `{"metadata":{"labels":{"mine":"yes"}},` + less + `}`, "nothing of a node but its taints"},
		{"an annotation", nodeName, `{"metadata":{"annotations":{"mine":"yes"}},` + less + `}`, "nothing of a node but its taints"},
		{"a finalizer", nodeName, `{"metadata":{"finalizers":["e2e.closured.dev/mine"]},` + less + `}`, "nothing of a node but its taints"},
		{"an owner", nodeName, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Namespace","name":"gone","uid":"1"}]},` + less + `}`, "nothing of a node but its taints"},
		{"cordoned", nodeName, `{"spec":{"unschedulable":true,"taints":[` + kept + `]}}`, "nothing of a node but its taints"},
	} {
		if err := try(test.node, test.change); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: want %q, got %v", test.name, test.says, err)
		}
	}
	if err := agent.CoreV1().Nodes().Delete(t.Context(), nodeName, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err == nil {
		t.Error("the agent may delete its node")
	}
	if _, err := agent.CoreV1().Nodes().Patch(t.Context(), nodeName, types.MergePatchType, []byte(`{"status":{"phase":"Running"}}`),
		metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}, "status"); err == nil {
		t.Error("the agent may write the status of its node")
	}
	// The same account, but no token that was made for a pod of this node.
	out, err := kubectl(t.Context(), "", "--as="+agentAccount, "patch", "node", nodeName, "--type=merge", "--dry-run=server",
		"-p", `{"spec":{"taints":[`+kept+`]}}`)
	if err == nil || !strings.Contains(out, "closured-own-node") {
		t.Errorf("without a node in the token: %v, %s", err, out)
	}
}
