//go:build privileged

package integration_test

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
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// image pulls the manifest of a repository of the node's registry.
func (n node) image(ctx context.Context, repository string) (v1.Image, error) {
	ref, err := name.ParseReference(n.Registry()+"/"+repository, name.Insecure)
	if err != nil {
		return nil, err
	}
	return remote.Image(ref, remote.WithContext(ctx), remote.WithJobs(1))
}

// pull is image for those that must succeed.
func (n node) pull(repository string) v1.Image {
	n.t.Helper()
	image, err := n.image(n.t.Context(), repository)
	if err != nil {
		n.t.Fatalf("pulling %s: %v", repository, err)
	}
	return image
}

// digestOf pulls the manifest of a repository and gives its digest.
func (n node) digestOf(repository string) string {
	n.t.Helper()
	digest, err := n.pull(repository).Digest()
	if err != nil {
		n.t.Fatal(err)
	}
	return digest.String()
}

// unpack writes all layers of an image, one over the other, as root does. The
// digest of each is checked on the way.
func unpack(t *testing.T, image v1.Image, dir string) {
	t.Helper()
	makeDir(t, dir)
	files := mutate.Extract(image)
	tar := exec.CommandContext(t.Context(), "tar", "--extract", "--preserve-permissions", "--numeric-owner", "--directory", dir)
	tar.Stdin = files
	out, err := tar.CombinedOutput()
	if closed := files.Close(); err == nil {
		err = closed
	}
	if err != nil {
		t.Fatalf("unpacking the image: %v\n%s", err, out)
	}
}

// largestLayer gives the layer of the image with the most bytes.
func largestLayer(t *testing.T, image v1.Image) v1.Descriptor {
	t.Helper()
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var largest v1.Descriptor
	for _, d := range manifest.Layers {
		if d.Size > largest.Size {
			largest = d
		}
	}
	return largest
}

// reply is an answer of the registry, read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// request sends one request to the registry.
func (n node) request(method, path string) reply {
	n.t.Helper()
	res := n.open(n.t.Context(), method, path)
	defer func() { _ = res.Body.Close() }() // it was read
	body, err := io.ReadAll(res.Body)
	if err != nil {
		n.t.Fatalf("%s %s: %v", method, path, err)
	}
	return reply{res.StatusCode, res.Header, body}
}

// open is request for a body that the caller reads and closes; headers come in pairs.
func (n node) open(ctx context.Context, method, path string, headers ...string) *http.Response {
	n.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.Registry()+path, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		n.t.Fatalf("%s %s: %v", method, path, err)
	}
	return res
}

// requireError checks an answer that is an error of the specification, and gives its text.
func requireError(t *testing.T, r reply, status int, code string) string {
	t.Helper()
	got, text, err := errorOf(r.body)
	if err != nil || r.status != status || got != code {
		t.Errorf("the answer is %d %s, want %d %s: %s", r.status, got, status, code, r.body)
	}
	return text
}

// errorOf reads the body of an error.
func errorOf(body []byte) (code, text string, err error) {
	var doc struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return "", "", err
	}
	if len(doc.Errors) != 1 {
		return "", "", fmt.Errorf("%d errors", len(doc.Errors))
	}
	return doc.Errors[0].Code, doc.Errors[0].Message, nil
}

// requireBlobs reads every layer of an image as go-containerregistry does, which
// compares size and digest.
func requireBlobs(t *testing.T, image v1.Image) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		r, err := layer.Compressed()
		if err != nil {
			t.Errorf("opening a layer: %v", err)
			continue
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Errorf("reading a layer: %v", err)
		}
		_ = r.Close()
	}
}

// hashOf gives the hash part of a store path.
func hashOf(path string) string { return filepath.Base(path)[:32] }

// sha256Of gives a digest as OCI writes it.
func sha256Of(parts ...[]byte) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256(bytes.Join(parts, nil)))
}
