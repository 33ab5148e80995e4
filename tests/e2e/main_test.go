//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	driverName = "csi.closured.dev"
	nodeName   = "node1"
	stateDir   = "/var/lib/closured"
	kubeletDir = "/var/lib/kubelet"
)

// Namespaces: what the default rules of a policy allow, and everything.
const (
	plain = "e2e"
	dev   = "dev-e2e"
	free  = "free-e2e" // everything for admission, the default rules for the agent
)

// world is what all tests share: the cluster and its agent.
type world struct {
	dir    string // $CLUSTER_DIR
	config *rest.Config
	kube   kubernetes.Interface
	agent  agent
}

var w world

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	w.dir = os.Getenv("CLUSTER_DIR")
	if w.dir == "" {
		return 1, fmt.Errorf("CLUSTER_DIR is not set: start these tests by tests/e2e/run")
	}
	var err error
	if w.config, err = clientcmd.BuildConfigFromFlags("", filepath.Join(w.dir, "pki", "admin.kubeconfig")); err != nil {
		return 1, err
	}
	w.config.QPS, w.config.Burst = 200, 400
	if w.kube, err = kubernetes.NewForConfig(w.config); err != nil {
		return 1, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if w.agent, err = newAgent(ctx); err != nil {
		return 1, err
	}
	if err := prepare(ctx); err != nil {
		return 1, err
	}
	code := m.Run()
	if code != 0 {
		fmt.Fprintf(os.Stderr, "the end of the agent's log:\n%s\n", w.agent.log(false))
	}
	return code, errors.Join(writeFigures(), w.agent.close())
}

// prepare makes the objects that every test needs, and starts the agent.
func prepare(ctx context.Context) error {
	no, none := false, storagev1.NoneFSGroupPolicy
	yes := true
	driver := &storagev1.CSIDriver{
		ObjectMeta: metav1.ObjectMeta{Name: driverName},
		Spec: storagev1.CSIDriverSpec{
			AttachRequired: &no, PodInfoOnMount: &yes, FSGroupPolicy: &none, RequiresRepublish: &no, StorageCapacity: &no,
			VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral},
		},
	}
	if w.agent.wantsDriver() {
		if _, err := w.kube.StorageV1().CSIDrivers().Create(ctx, driver, metav1.CreateOptions{}); ignoreExists(err) != nil {
			return err
		}
	}
	for name, label := range map[string]string{plain: "false", dev: "true", free: "true"} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"closured.dev/any-source": label}}}
		if _, err := w.kube.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); ignoreExists(err) != nil {
			return err
		}
	}
	if err := w.agent.start(ctx); err != nil {
		return err
	}
	for _, name := range []string{plain, dev, free} {
		err := wait(ctx, time.Minute, "the service account of "+name, func() error {
			_, err := w.kube.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
			return err
		})
		if err != nil {
			return err
		}
	}
	return registered(ctx)
}

// registered waits until kubelet knows the driver.
func registered(ctx context.Context) error {
	return wait(ctx, time.Minute, "the driver on the node", func() error {
		node, err := w.kube.StorageV1().CSINodes().Get(ctx, nodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, d := range node.Spec.Drivers {
			if d.Name == driverName {
				return nil
			}
		}
		return fmt.Errorf("the node has %d drivers, not %s", len(node.Spec.Drivers), driverName)
	})
}

func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// wait calls try until it gives nil, and tells the last error after limit.
func wait(ctx context.Context, limit time.Duration, what string, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s: %w", limit, what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
