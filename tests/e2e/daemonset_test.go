//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	agentNamespace = "closured-system"
	agentPods      = "app.kubernetes.io/name=closured,app.kubernetes.io/component=agent"
)

// daemonSet is the agent as it is deployed, by deploy/base and what ./deploy
// changes of it.
type daemonSet struct{}

func (*daemonSet) wantsDriver() bool { return false }

func (*daemonSet) packages() string { return "/packages" }

// start installs it, or what is missing of it, by one command.
func (d *daemonSet) start(ctx context.Context) error {
	begin := time.Now()
	_, err := w.kube.CoreV1().Namespaces().Get(ctx, agentNamespace, metav1.GetOptions{})
	anew := apierrors.IsNotFound(err)
	for _, args := range [][]string{
		{"apply", "-k", "deploy"},
		{"rollout", "status", "-n", agentNamespace, "daemonset/closured", "--timeout=120s"},
	} {
		if out, err := kubectl(ctx, "", args...); err != nil {
			pods, _ := kubectl(ctx, "", "describe", "pods", "-n", agentNamespace)
			return fmt.Errorf("kubectl %s: %w\n%s\n%s\n%s", strings.Join(args, " "), err, out, pods, d.log(false))
		}
	}
	took := time.Since(begin)
	fmt.Printf("    the DaemonSet was ready after %s\n", took.Round(100*time.Millisecond))
	if anew {
		figure("install", "kubectl apply to Ready, image on the node: %s (bar: 60 s)", took.Round(100*time.Millisecond))
	}
	return wait(ctx, time.Minute, "the agent's process", func() error {
		pids, err := agentPIDs()
		if err == nil && len(pids) != 1 {
			err = fmt.Errorf("the node has the agents %v", pids)
		}
		return err
	})
}

// stop deletes the DaemonSet and waits for the end of its pod.
func (*daemonSet) stop(ctx context.Context) error {
	if out, err := kubectl(ctx, "", "delete", "-n", agentNamespace, "daemonset/closured", "--ignore-not-found"); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return wait(ctx, time.Minute, "the end of the agent", func() error {
		pods, err := w.kube.CoreV1().Pods(agentNamespace).List(ctx, metav1.ListOptions{LabelSelector: agentPods})
		if err == nil && len(pods.Items) > 0 {
			err = errors.New("its pod is there")
		}
		return err
	})
}

func (*daemonSet) log(all bool) string {
	tail := "--tail=30"
	if all {
		tail = "--tail=-1"
	}
	var texts []string
	for _, container := range []string{"agent", "nix-daemon"} {
		out, err := kubectl(context.Background(), "", "logs", "-n", agentNamespace, "daemonset/closured", "-c", container, tail)
		if err != nil {
			out = err.Error() + ": " + out
		}
		texts = append(texts, container+":\n"+out)
	}
	return strings.Join(texts, "\n")
}

func (*daemonSet) address(ctx context.Context) (string, error) {
	pod, err := agentPod(ctx)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(pod.Status.PodIP, "9858"), nil
}

// agentPod gives the DaemonSet's pod that runs.
func agentPod(ctx context.Context) (*corev1.Pod, error) {
	pods, err := w.kube.CoreV1().Pods(agentNamespace).List(ctx, metav1.ListOptions{LabelSelector: agentPods})
	if err != nil {
		return nil, err
	}
	for i, pod := range pods.Items {
		if pod.DeletionTimestamp == nil && isReady(&pod) {
			return &pods.Items[i], nil
		}
	}
	return nil, fmt.Errorf("of %d pods of the agent none is ready", len(pods.Items))
}

// close leaves it to the end of the cluster.
func (*daemonSet) close() error { return nil }
