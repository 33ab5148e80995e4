//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// idles is a container's program that needs nothing but bash.
const idles = `exec 3<> <(:); read -u 3`

// describedNote goes the way that the kind was made for: somebody applies a list of
// packages and two Deployments, looks on, and changes the list later.
func describedNote(t *testing.T) {
	warm := ready(t, create(t, newPod(plain, "warm-note", attributes{"packages": "curl jq bash one"})), 8*time.Minute) // builds
	remove(t, warm)
	rows := watchObjects(t)

	begin := time.Now()
	apply(t, describedObject("three", "tag: v1", "contents: [curl, jq, bash]", "historyLimit: 1", "config: {entrypoint: [/bin/bash, -c]}")+"---\n"+
		describedDeployment("as-image", "image: "+describedImage+":v1, args: ['"+idles+"']", "")+
		describedDeployment("as-volume", "image: "+emptyImage+", command: ["+bin+"bash, -c, '"+idles+"'], volumeMounts: [{name: nix, mountPath: /nix}]",
			"volumes: [{name: nix, csi: {driver: "+driverName+", readOnly: true, volumeAttributes: {image: three}}}]"))
	first := requireReady(t, describedNamespace, "three")
	readyAfter := time.Since(begin)
	must(t, "rollout", "status", "-n", describedNamespace, "deployment/as-volume", "--timeout=5m")
	volumeAfter := time.Since(begin)
	must(t, "rollout", "status", "-n", describedNamespace, "deployment/as-image", "--timeout=5m")
	figure("NixImage of curl, jq and bash", "kubectl apply of it and two Deployments, packages in the node's store: object Ready %s, pod of its volume %s, of its image %s (bar: 20 s)",
		ms(readyAfter), ms(volumeAfter), ms(time.Since(begin)))
	requireRows(t, rows(), first)
	requirePrograms(t, "as-image", "/bin/")
	requirePrograms(t, "as-volume", bin)
	requireWide(t, first)
	requireSameDigest(t, first, "v1")

	t.Run("update", func(t *testing.T) { describedUpdate(t, first) })
}

// watchObjects runs `kubectl get nixi -w`; what it gives ends that, and gives its
// output.
func watchObjects(t *testing.T) func() string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, filepath.Join(w.dir, "bin", "kube"), "kubectl", "--kubeconfig", filepath.Join(w.dir, "pki", "admin.kubeconfig"),
		"--cache-dir", filepath.Join(w.dir, "run", "kubectl"), "get", "nixi", "-n", describedNamespace, "-w")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
	t.Cleanup(stop)
	return func() string {
		stop()
		return out.String()
	}
}

// requireRows wants kubectl's rows to tell the object's story step by step.
func requireRows(t *testing.T, rows string, o nixImage) {
	t.Helper()
	t.Logf("kubectl get nixi -w:\n%s", rows)
	var steps []string
	for line := range strings.Lines(rows) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != o.Metadata.Name {
			continue
		}
		steps = append(steps, strings.Join(fields[1:len(fields)-1], " ")) // without name and age
	}
	want := []string{"", "False", "True " + o.Status.Reference + " " + o.Status.Size}
	if steps = slices.Compact(steps); !slices.Equal(steps, want) {
		t.Errorf("the rows are %q, want %q", steps, want)
	}
	if o.Status.Reference != describedImage+":v1" || !strings.HasSuffix(o.Status.Size, " MiB") {
		t.Errorf("reference and size are %q and %q", o.Status.Reference, o.Status.Size)
	}
}

// requireWide wants `-o wide` to show digest, node and reason.
func requireWide(t *testing.T, o nixImage) {
	t.Helper()
	wide := must(t, "get", "nixi", "-n", describedNamespace, "-o", "wide")
	t.Logf("kubectl get nixi -o wide:\n%s", wide)
	head, row, _ := strings.Cut(wide, "\n")
	if got := strings.Fields(head); !slices.Equal(got, []string{"NAME", "READY", "REFERENCE", "SIZE", "AGE", "DIGEST", "NODE", "REASON"}) {
		t.Errorf("the columns are %q", got)
	}
	if !strings.HasSuffix(strings.Join(strings.Fields(row), " "), o.Status.Digest+" "+nodeName+" Available") {
		t.Errorf("the row is %q", row)
	}
	if all := must(t, "get", "all", "-n", describedNamespace); !strings.Contains(all, "niximage.closured.dev/three") {
		t.Errorf("kubectl get all says nothing of the object:\n%s", all)
	}
}

// requirePrograms wants a Deployment's pod to have the three programs.
func requirePrograms(t *testing.T, deployment, folder string) {
	t.Helper()
	for program, word := range map[string]string{"curl": "curl 7.", "jq": "jq-1.", "bash": "GNU bash, version 5."} {
		if says := must(t, "exec", "-n", describedNamespace, "deployment/"+deployment, "--", folder+program, "--version"); !strings.Contains(says, word) {
			t.Errorf("in the pod of %s %s says %q", deployment, program, says)
		}
	}
}

// requireSameDigest wants one digest in the status, from the node's registry, in
// the pod, and computed of what another client pulls, as crane does.
func requireSameDigest(t *testing.T, o nixImage, tag string) {
	t.Helper()
	if served := requireServed(t, tag); served != o.Status.Digest {
		t.Errorf("the registry serves %s, the status says %s", served, o.Status.Digest)
	}
	id := must(t, "get", "pod", "-n", describedNamespace, "-l", "app=as-image", "-o", "jsonpath={.items[*].status.containerStatuses[0].imageID}")
	if !strings.HasSuffix(id, "@"+o.Status.Digest) {
		t.Errorf("the pod runs %s, the status says %s", id, o.Status.Digest)
	}
	begin := time.Now()
	image := remoteImage(t, "image/"+describedNamespace+"/three:"+tag)
	digest, bytes := recompute(t, image)
	if digest != o.Status.Digest {
		t.Errorf("what was pulled has the digest %s, the status says %s", digest, o.Status.Digest)
	}
	figure("NixImage pulled by another client", "go-containerregistry, as crane: %.0f MB in %s, each layer hashed again; the digest is that of the status",
		float64(bytes)/1e6, ms(time.Since(begin)))
}

// remoteImage pulls an image from the node's registry as crane would.
func remoteImage(t *testing.T, repository string) v1.Image {
	t.Helper()
	ref, err := name.ParseReference(registryAt+"/"+repository, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// recompute gives the digest of a manifest whose layers and configuration were
// read and hashed, and how many bytes all have.
func recompute(t *testing.T, image v1.Image) (digest string, size int64) {
	t.Helper()
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) == 0 || len(layers) != len(manifest.Layers) {
		t.Fatalf("%d layers (%v), and %d in the manifest", len(layers), err, len(manifest.Layers))
	}
	for i, layer := range layers {
		r, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		n, err := io.Copy(sum, r)
		_ = r.Close()
		manifest.Layers[i].Digest = v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sum.Sum(nil))}
		manifest.Layers[i].Size = n
		if err != nil {
			t.Fatal(err)
		}
		size += n
	}
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	manifest.Config.Digest, manifest.Config.Size = v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(config))}, int64(len(config))

	// What was computed stands in the manifest, or that is another one's.
	raw, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	var says v1.Manifest
	if err := json.Unmarshal(raw, &says); err != nil {
		t.Fatal(err)
	}
	for i, d := range append(says.Layers, says.Config) {
		if got := append(manifest.Layers, manifest.Config)[i]; got.Digest != d.Digest || got.Size != d.Size {
			t.Errorf("blob %d is %s with %d bytes, the manifest says %s with %d", i, got.Digest, got.Size, d.Digest, d.Size)
		}
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(raw)), size
}

// describedUpdate changes the contents, and rolls the Deployments; then once more,
// so that the first version goes.
func describedUpdate(t *testing.T, first nixImage) {
	begin := time.Now()
	patchObject(t, "three", `{"spec": {"tag": "v2", "contents": ["curl", "jq", "bash", "two"]}}`)
	awaitJSON(t, "three", "{.status.history[0].tag}", "v2")
	second := requireReady(t, describedNamespace, "three")
	readyAfter := time.Since(begin)
	if second.Status.Digest == first.Status.Digest {
		t.Error("other contents have the same digest")
	}
	old := must(t, "get", "pods", "-n", describedNamespace, "-l", "app=as-volume", "-o", "jsonpath={.items[*].metadata.uid}")
	const file = "/nix/var/result/share/name" // of the package two
	if out, err := kubectl(t.Context(), "", "exec", "-n", describedNamespace, "deployment/as-volume", "--", bin+"bash", "-c", "echo $(<"+file+")"); err == nil && strings.Contains(out, "two") {
		t.Error("a pod that runs has the new closure")
	}

	must(t, "set", "image", "-n", describedNamespace, "deployment/as-image", "main="+describedImage+":v2")
	must(t, "rollout", "restart", "-n", describedNamespace, "deployment/as-volume")
	for deployment, file := range map[string]string{"as-image": "/share/name", "as-volume": file} {
		must(t, "rollout", "status", "-n", describedNamespace, "deployment/"+deployment, "--timeout=5m")
		awaitOnePod(t, deployment)
		if says := must(t, "exec", "-n", describedNamespace, "deployment/"+deployment, "--", strings.TrimSuffix(file, "share/name")+"bin/bash", "-c", "echo $(<"+file+")"); !strings.HasSuffix(says, "two") {
			t.Errorf("the new pod of %s reads %q", deployment, says)
		}
	}
	figure("NixImage updated", "kubectl patch of the contents: object Ready %s, both Deployments rolled %s", ms(readyAfter), ms(time.Since(begin)))
	if now := must(t, "get", "pods", "-n", describedNamespace, "-l", "app=as-volume", "-o", "jsonpath={.items[*].metadata.uid}"); now == old {
		t.Error("the pod of the volume is the same")
	}
	requireSameDigest(t, second, "v2")
	requireOldVersion(t, first)

	patchObject(t, "three", `{"spec": {"tag": "v3", "config": {"labels": {"third": "yes"}}}}`)
	awaitJSON(t, "three", "{.status.history[0].tag}", "v3")
	third := requireReady(t, describedNamespace, "three")
	if h := third.Status.History; len(h) != 2 || h[0].Tag != "v3" || h[1].Digest != second.Status.Digest {
		t.Errorf("with historyLimit 1 the history is %+v", h)
	}
	if digest, code := manifestOf(t, second.Status.Digest); code != http.StatusOK || digest != second.Status.Digest {
		t.Errorf("the version before is %q with code %d", digest, code)
	}
	if _, code := manifestOf(t, "v1"); code != http.StatusNotFound {
		t.Errorf("the tag of a version that is gone has the code %d", code)
	}
}

// requireOldVersion wants a pod by digest of a version before to start, pulled anew.
func requireOldVersion(t *testing.T, o nixImage) {
	t.Helper()
	reference := strings.TrimSuffix(describedImage+":v1", ":v1") + "@" + o.Status.Digest
	removeImages(t, reference, describedImage+":v1")
	t.Cleanup(func() { removeImages(t, reference) })
	apply(t, describedPod("by-digest", "image: '"+reference+"', args: ['"+idles+"']", ""))
	must(t, "wait", "-n", describedNamespace, "--for=condition=Ready", "pod/by-digest", "--timeout=3m")
	if says := must(t, "exec", "-n", describedNamespace, "by-digest", "--", "/bin/bash", "-c", "[ -e /share/name ] || echo before"); says != "before" {
		t.Errorf("the pod of the version before says %q", says)
	}
	must(t, "delete", "pod", "-n", describedNamespace, "by-digest")
}

// awaitOnePod waits until the pods of earlier rollouts are gone.
func awaitOnePod(t *testing.T, deployment string) {
	t.Helper()
	err := wait(t.Context(), 2*time.Minute, "the end of the old pods", func() error {
		names := strings.Fields(must(t, "get", "pods", "-n", describedNamespace, "-l", "app="+deployment, "-o", "jsonpath={.items[*].metadata.name}"))
		if len(names) != 1 {
			return fmt.Errorf("there are %q", names)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func patchObject(t *testing.T, name, patch string) {
	t.Helper()
	must(t, "patch", "nixi", "-n", describedNamespace, name, "--type=merge", "-p", patch)
}
