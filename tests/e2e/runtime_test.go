//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runtimeImages gives the part of containerd for images that kubelet uses.
func runtimeImages(t *testing.T) cri.ImageServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("unix:///run/containerd/containerd.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return cri.NewImageServiceClient(conn)
}

// pull has the runtime pull an image as kubelet would.
func pull(t *testing.T, reference string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	_, err := runtimeImages(t).PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: reference}})
	return err
}

// removeImages takes images away from the runtime, which may not have them.
func removeImages(t *testing.T, references ...string) {
	t.Helper()
	client := runtimeImages(t)
	for _, reference := range references {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		_, err := client.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: reference}})
		cancel()
		if err != nil {
			t.Errorf("removing %s: %v", reference, err)
		}
	}
}

// sizeOfImage gives the bytes of an image that the runtime has.
func sizeOfImage(t *testing.T, reference string) uint64 {
	t.Helper()
	status, err := runtimeImages(t).ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: reference}})
	if err != nil || status.GetImage() == nil {
		t.Fatalf("there is no image %s (%v)", reference, err)
	}
	return status.GetImage().GetSize()
}

// command runs a program of the node, which must succeed.
func command(t *testing.T, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestOtherClients: ctr, which is no kubelet, pulls by the host's name and by the
// registry's address, and runs what it pulled; skopeo copies it and buildah runs it, where they are.
func TestOtherClients(t *testing.T) {
	deployed(t)
	const name, byAddress, namespace = imageHost + "pkgs/one:latest", registryAt + "/pkgs/one:latest", "closured-e2e"
	ctr := func(args ...string) string {
		return command(t, filepath.Join(w.dir, "bin", "ctr"), append([]string{"-n", namespace}, args...)...)
	}
	ctr("namespaces", "create", namespace)
	t.Cleanup(func() {
		for _, args := range [][]string{{"images", "rm", "--sync", name, byAddress}, {"namespaces", "rm", namespace}} {
			if out, err := exec.Command(filepath.Join(w.dir, "bin", "ctr"), append([]string{"-n", namespace}, args...)...).CombinedOutput(); err != nil {
				t.Errorf("ctr %q: %v\n%s", args, err, out)
			}
		}
	})
	ctr("images", "pull", "--hosts-dir", certsDir, name)
	ctr("images", "pull", "--plain-http", byAddress)
	says := ctr("run", "--rm", "--runc-binary", filepath.Join(w.dir, "bin", "runc"), name, "closured-e2e-one", "/bin/cat", "/share/name")
	if says != "one" {
		t.Errorf("the container says %q", says)
	}

	t.Run("skopeo", func(t *testing.T) {
		skopeo, err := exec.LookPath("skopeo")
		if err != nil {
			t.Skip("it is not installed")
		}
		dir := t.TempDir()
		command(t, skopeo, "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+byAddress, "dir:"+dir)
		// Layers, configuration, manifest and version.
		if files, err := os.ReadDir(dir); err != nil || len(files) < 4 {
			t.Errorf("skopeo copied %v (%v)", files, err)
		}
	})
	t.Run("buildah", func(t *testing.T) {
		program, err := exec.LookPath("buildah")
		if err != nil {
			t.Skip("it is not installed")
		}
		dir := t.TempDir()
		buildah := func(args ...string) string {
			return command(t, program, append([]string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs"}, args...)...)
		}
		buildah("from", "--quiet", "--tls-verify=false", "--name", "e2e", "docker://"+byAddress)
		if says := buildah("run", "--isolation", "chroot", "e2e", "/bin/cat", "/share/name"); says != "one" {
			t.Errorf("the container says %q", says)
		}
		buildah("rm", "e2e")
	})
}

// collect runs Nix's collector in the container of the daemon.
const collect = `HOME=/run/closured TMPDIR=/var/lib/closured/tmp NIX_CONF_DIR=/run/closured/etc NIX_USER_CONF_FILES=/dev/null \
	NIX_STATE_DIR=/run/closured/state NIX_REMOTE="unix:///var/lib/closured/run/nix/socket?root=/var/lib/closured" nix-store --gc`

// TestPulledImageIsNotCollected: Nix's collector takes what no volume has and
// leaves what was pulled, which can be pulled again.
func TestPulledImageIsNotCollected(t *testing.T) {
	deployed(t)
	const reference = imageHost + "pkgs/two:latest"
	removeImages(t, reference)
	t.Cleanup(func() { removeImages(t, reference) })
	pod := start(t, newPod(plain, "pulled", attributes{"packages": "two"}))
	pulled := rootOf(t, pod)
	remove(t, pod)
	pod = start(t, newPod(plain, "unpulled", attributes{"packages": "nested.deep"}))
	other := rootOf(t, pod)
	remove(t, pod)
	requireClean(t)
	if err := pull(t, reference); err != nil {
		t.Fatal(err)
	}

	out := must(t, "exec", "-n", agentNamespace, "daemonset/closured", "-c", "nix-daemon", "--", "sh", "-c", collect)
	t.Log(out[strings.LastIndexByte(out, '\n')+1:])
	if _, err := os.Lstat(filepath.Join(stateDir, other)); !os.IsNotExist(err) {
		t.Errorf("%s, which nobody has, is still there (%v)", other, err)
	}
	if _, err := os.Lstat(filepath.Join(stateDir, pulled)); err != nil {
		t.Errorf("%s, of a pulled image: %v", pulled, err)
	}
	removeImages(t, reference)
	if err := pull(t, reference); err != nil {
		t.Error(err)
	}
}
