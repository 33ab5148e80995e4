//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// volumeMounts gives the mount points of CSI volumes of pods that the node sees.
func volumeMounts() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var points []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text()) // proc(5): the fifth is the mount point
		if len(fields) > 4 && strings.HasPrefix(fields[4], kubeletDir+"/pods/") && strings.Contains(fields[4], "/volumes/kubernetes.io~csi/") {
			points = append(points, fields[4])
		}
	}
	return points, lines.Err()
}

// pins gives the names of the volumes' pins.
func pins() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(stateDir, "nix/var/nix/gcroots/closured/volumes"))
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// folders gives the folders of CSI volumes below kubelet's pods.
func folders() ([]string, error) {
	return filepath.Glob(filepath.Join(kubeletDir, "pods", "*", "volumes", "kubernetes.io~csi", "*"))
}

// count gives mounts, pins and folders of volumes.
func count() (mounts, roots, dirs int, err error) {
	m, err := volumeMounts()
	if err != nil {
		return 0, 0, 0, err
	}
	p, err := pins()
	if err != nil {
		return 0, 0, 0, err
	}
	f, err := folders()
	return len(m), len(p), len(f), err
}

// requireClean waits until no volume has left anything. kubelet takes a pod's
// folder away in its next round.
func requireClean(t *testing.T) {
	t.Helper()
	err := wait(context.Background(), 2*time.Minute, "a clean node", func() error {
		mounts, roots, dirs, err := count()
		if err == nil && mounts+roots+dirs > 0 {
			err = fmt.Errorf("%d mounts, %d pins and %d folders of volumes are there", mounts, roots, dirs)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// mountOf gives the folder of a pod's volume as the node sees it.
func mountOf(pod *corev1.Pod) string {
	return filepath.Join(kubeletDir, "pods", string(pod.UID), "volumes", "kubernetes.io~csi", "nix", "mount")
}

// rootOf gives the store path that a pod's volume is the closure of.
func rootOf(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	root, err := os.Readlink(filepath.Join(mountOf(pod), "var", "result"))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// get asks for an HTTP resource of the node and wants 200.
func get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, res.Status, body)
	}
	return err
}
