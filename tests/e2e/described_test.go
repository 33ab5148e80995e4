//go:build e2e

package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	describedNamespace = "e2e-niximage"
	describedImage     = imageHost + "image/" + describedNamespace + "/three"
	componentDir       = "../../deploy/components/niximage"
)

// installNixImage adds the component to what is installed, until the test ends.
func installNixImage(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		ctx := context.Background()
		for _, args := range [][]string{
			{"namespace", describedNamespace, "--timeout=3m"},
			{"-f", filepath.Join(componentDir, "closured.dev_niximages.yaml")}, {"-f", filepath.Join(componentDir, "controller.yaml")},
			{"-f", filepath.Join(componentDir, "controller-rbac.yaml")}, {"-f", filepath.Join(componentDir, "agent-rbac.yaml")},
			{"-f", filepath.Join(componentDir, "networkpolicy.yaml")}, {"-f", filepath.Join(componentDir, "builds.yaml")},
			{"-f", filepath.Join(componentDir, "user-roles.yaml")},
		} {
			if out, err := kubectl(ctx, "", append([]string{"delete", "--ignore-not-found"}, args...)...); err != nil {
				t.Errorf("deleting %q: %v: %s", args, err, out)
			}
		}
		restart(t) // without the component
		_, _ = kubectl(ctx, "", "delete", "secret", "-n", agentNamespace, "closured-cache-key", "--ignore-not-found")
	})
	makeCacheKey(t)
	must(t, "apply", "-k", "deploy-niximage")
	must(t, "rollout", "status", "-n", agentNamespace, "daemonset/closured", "--timeout=120s")
	must(t, "rollout", "status", "-n", agentNamespace, "deployment/closured-controller", "--timeout=120s")
	apply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: "+describedNamespace+", labels: {pod-security.kubernetes.io/enforce: restricted}}}")
	must(t, "wait", "--for=create", "serviceaccount/default", "-n", describedNamespace, "--timeout=60s")
}

// makeCacheKey makes the key of the nodes by a running agent, when there is none.
func makeCacheKey(t *testing.T) {
	t.Helper()
	if out, _ := kubectl(t.Context(), "", "get", "secret", "-n", agentNamespace, "closured-cache-key", "-o", "name", "--ignore-not-found"); out != "" {
		return
	}
	key := must(t, "exec", "-n", agentNamespace, "daemonset/closured", "-c", "agent", "--", "closured-controller", "genkey", "closured-1")
	key = key[strings.LastIndexByte(key, '\n')+1:] // kubectl may say first which pod it took
	if out, err := kubectl(t.Context(), key, "create", "secret", "generic", "-n", agentNamespace, "closured-cache-key", "--from-file=key=/dev/stdin"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// apply applies objects.
func apply(t *testing.T, objects string) {
	t.Helper()
	if out, err := kubectl(t.Context(), objects, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v: %s\n%s", err, out, objects)
	}
}

func describedObject(name string, spec ...string) string {
	return describedObjectIn(describedNamespace, name, spec...)
}

// describedPod gives a pod as the standard "restricted" wants it.
func describedPod(name, container, more string) string {
	return describedPodIn(describedNamespace, name, container, more)
}

// awaitJSON waits until a field of an object holds some words.
func awaitJSON(t *testing.T, name, path, words string) {
	t.Helper()
	awaitJSONIn(t, describedNamespace, name, path, words)
}

// requireServed wants the node's registry to serve under the tag what the status
// says, and gives the digest.
func requireServed(t *testing.T, tag string) string {
	t.Helper()
	says := must(t, "get", "nixi", "-n", describedNamespace, "three", "-o", "jsonpath={.status.digest}")
	if digest, code := manifestOf(t, tag); code != http.StatusOK || digest != says {
		t.Errorf("%s is %q with code %d, and the status says %s", tag, digest, code, says)
	}
	return says
}

// manifestOf gives the digest of what the node's registry serves, and its code.
func manifestOf(t *testing.T, reference string) (digest string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	url := "http://" + registryAt + "/v2/" + strings.TrimPrefix(describedImage, imageHost) + "/manifests/" + reference
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(data)), res.StatusCode
}
