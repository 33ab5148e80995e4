//go:build privileged

package integration_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/tests/agent"
)

// TestClientsPull pulls by the clients of containers/image that are installed,
// whose code is that of podman and CRI-O.
func TestClientsPull(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{PackageSet: packageSet(t, sourceSet), Args: offline()})
	t.Run("skopeo copies to a folder", func(t *testing.T) {
		t.Parallel()
		n := n.as(t)
		to := filepath.Join(t.TempDir(), "copy")
		run(t, "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+n.Registry()+"/pkgs/hello", "dir:"+to)
		manifest, err := os.ReadFile(filepath.Join(to, "manifest.json"))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := sha256Of(manifest), n.digestOf("pkgs/hello"); got != want {
			t.Errorf("skopeo has the manifest %s, want %s", got, want)
		}
		requireCopies(t, to, manifest)
	})
	t.Run("skopeo lists tags and inspects", func(t *testing.T) {
		t.Parallel()
		n := n.as(t)
		if out := run(t, "skopeo", "list-tags", "--tls-verify=false", "docker://"+n.Registry()+"/pkgs/hello"); !strings.Contains(out, `"latest"`) {
			t.Errorf("the tags are %s", out)
		}
		if out := run(t, "skopeo", "inspect", "--tls-verify=false", "docker://"+n.Registry()+"/pkgs/hello"); !strings.Contains(out, n.digestOf("pkgs/hello")) {
			t.Errorf("the image is described as %s", out)
		}
	})
	t.Run("buildah makes a container", func(t *testing.T) {
		t.Parallel()
		n := n.as(t)
		dir := nixtest.StateDir(t)
		storage := []string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs"}
		run(t, "buildah", append(storage, "from", "--tls-verify=false", "--name", "pulled", n.Registry()+"/pkgs/hello")...)
		at := strings.TrimSpace(run(t, "buildah", append(storage, "mount", "pulled")...))
		t.Cleanup(func() { _ = exec.Command("buildah", append(storage, "umount", "pulled")...).Run() })
		v := agent.Packages(1, "hello")
		n.publish(v)
		if diff := cmp.Diff(withoutTop(describeTree(t, n.Target(v))), withoutTop(describeTree(t, filepath.Join(at, "nix")))); diff != "" {
			t.Errorf("the container differs from the volume (-volume +container):\n%.3000s", diff)
		}
		n.unpublish(v)
	})
}

// run runs a client, or skips the test where it is not installed.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("needs %s in PATH (Debian package %[1]s)", program)
	}
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// requireCopies checks that a folder holds each blob of a manifest, by its digest.
func requireCopies(t *testing.T, dir string, manifest []byte) {
	t.Helper()
	type blob struct {
		Digest string `json:"digest"`
	}
	var doc struct {
		Config blob   `json:"config"`
		Layers []blob `json:"layers"`
	}
	if err := json.Unmarshal(manifest, &doc); err != nil {
		t.Fatal(err)
	}
	for _, b := range append(doc.Layers, doc.Config) {
		data, err := os.ReadFile(filepath.Join(dir, strings.TrimPrefix(b.Digest, "sha256:")))
		if err != nil || sha256Of(data) != b.Digest {
			t.Errorf("the blob %s is of %s (%v)", b.Digest, sha256Of(data), err)
		}
	}
}
