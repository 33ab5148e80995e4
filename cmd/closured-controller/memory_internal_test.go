package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller/controllertest"
)

// asProgram has the test binary be the program, so that a test can run that
// without building it.
const asProgram = "CLOSURED_CONTROLLER_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestMemoryWithTwoHundredObjects looks at the program while all of them are
// being built: then it keeps 200 objects, Jobs and pods.
func TestMemoryWithTwoHundredObjects(t *testing.T) {
	const (
		objects = 200
		barKiB  = 64 << 10
		limit   = 3 * time.Minute
	)
	cluster := controllertest.Start(t)
	c := newClient(t, cluster.Config)
	pid := startProgram(t, cluster.Config)
	for i := range objects {
		must(t, c.Create(t.Context(), &v1alpha1.NixImage{
			ObjectMeta: metav1.ObjectMeta{Name: "image-" + strconv.Itoa(i), Namespace: "default"},
			Spec:       v1alpha1.NixImageSpec{Contents: []v1alpha1.PackageName{"curl", "jq", "bash"}},
		}))
	}
	end := time.Now().Add(limit)
	for made := 0; made < objects; {
		var jobs batchv1.JobList
		must(t, c.List(t.Context(), &jobs))
		made = len(jobs.Items)
		if time.Now().After(end) {
			t.Fatalf("%d Jobs after %s", made, limit)
		}
		time.Sleep(100 * time.Millisecond)
	}
	peak := peakKiB(t, pid)
	t.Logf("%d objects: at most %d KiB of memory", objects, peak)
	if peak > barKiB && !raced {
		t.Errorf("%d KiB are more than %d", peak, barKiB)
	}
}

// startProgram runs the controller until the test ends, and then sees it stop.
func startProgram(t *testing.T, api *rest.Config) int {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:  map[string]*clientcmdapi.Cluster{"c": {Server: api.Host, InsecureSkipTLSVerify: true}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"u": {Token: api.BearerToken}},
		Contexts:  map[string]*clientcmdapi.Context{"c": {Cluster: "c", AuthInfo: "u"}}, CurrentContext: "c",
	}, kubeconfig))
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "--build-image=closured:test", "--kubeconfig="+kubeconfig,
		"--leader-election-namespace=default", "--health-address=", "--metrics-address=")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var log strings.Builder
	cmd.Stderr = &log
	must(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		// Ended by its signal, it ends well.
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 0 {
			t.Errorf("the controller ended: %v\n%s", err, log.String())
		}
	})
	return cmd.Process.Pid
}

func newClient(t *testing.T, api *rest.Config) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, batchv1.AddToScheme, v1alpha1.AddToScheme} {
		must(t, add(scheme))
	}
	c, err := client.New(api, client.Options{Scheme: scheme})
	must(t, err)
	data, err := os.ReadFile("../../deploy/components/niximage/closured.dev_niximages.yaml")
	must(t, err)
	crd := &unstructured.Unstructured{}
	must(t, yaml.Unmarshal(data, crd))
	must(t, c.Create(t.Context(), crd))
	for end := time.Now().Add(time.Minute); c.List(t.Context(), &v1alpha1.NixImageList{}) != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the kind is not served")
		}
	}
	return c
}

func peakKiB(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			must(t, err)
			return kib
		}
	}
	t.Fatal("there is no VmHWM")
	return 0
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
