package registry_test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// absent is a well-formed digest that nothing has.
const absent = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

// TestConformanceOfPull goes through what the OCI distribution specification 1.1
// asks of the category pull, each end point by GET and HEAD.
func TestConformanceOfPull(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.define(t, "redis")
	doc := r.manifest(t, "pkgs/redis", "latest")
	const base = "/v2/pkgs/redis"
	layer := doc.Layers[0].Digest
	for _, c := range []struct {
		name, path string
		status     int
		digest     string
	}{
		{"the base", "/v2/", http.StatusOK, ""},
		{"the base without its slash", "/v2", http.StatusOK, ""},
		{"a manifest by its tag", base + "/manifests/latest", http.StatusOK, doc.digest},
		{"a manifest by its digest", base + "/manifests/" + doc.digest, http.StatusOK, doc.digest},
		{"an unknown tag", base + "/manifests/v2", http.StatusNotFound, ""},
		{"the tag that the suite calls nonexistent", base + "/manifests/.INVALID_MANIFEST_NAME", http.StatusNotFound, ""},
		{"an unknown manifest", base + "/manifests/" + absent, http.StatusNotFound, ""},
		{"the configuration", base + "/blobs/" + doc.Config.Digest, http.StatusOK, doc.Config.Digest},
		{"a layer", base + "/blobs/" + layer, http.StatusOK, layer},
		{"an unknown blob", base + "/blobs/" + absent, http.StatusNotFound, ""},
		{"a manifest as a blob", base + "/blobs/" + doc.digest, http.StatusNotFound, ""},
		{"a blob as a manifest", base + "/manifests/" + layer, http.StatusNotFound, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := r.get(t, c.path).wantStatus(t, c.status)
			head := r.do(t, http.MethodHead, c.path).wantStatus(t, c.status)
			if head.body != "" || head.ContentLength != int64(len(got.body)) {
				t.Errorf("HEAD says %d bytes and sends %q; GET sends %d", head.ContentLength, head.body, len(got.body))
			}
			if got.Header.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
				t.Error("the version of the protocol is missing")
			}
			for _, name := range []string{"Content-Type", "Docker-Content-Digest", "Etag"} {
				if head.Header.Get(name) != got.Header.Get(name) {
					t.Errorf("%s is %q for HEAD and %q for GET", name, head.Header.Get(name), got.Header.Get(name))
				}
			}
			if got.Header.Get("Docker-Content-Digest") != c.digest {
				t.Errorf("the digest is %q, want %q", got.Header.Get("Docker-Content-Digest"), c.digest)
			}
			if c.digest != "" && digestOf(got.body) != c.digest {
				t.Errorf("the body has the digest %s", digestOf(got.body))
			}
		})
	}
}

func TestAManifestHasTheTypeThatItSays(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.define(t, "redis")
	for _, accept := range []string{"", "*/*", "application/vnd.docker.distribution.manifest.v2+json", "text/html;q=0.5, broken/"} {
		got := r.get(t, "/v2/pkgs/redis/manifests/latest", "Accept", accept).wantStatus(t, http.StatusOK)
		var doc struct {
			MediaType string `json:"mediaType"`
		}
		if err := json.Unmarshal([]byte(got.body), &doc); err != nil || doc.MediaType != got.Header.Get("Content-Type") {
			t.Errorf("the type is %q, and the document says %q", got.Header.Get("Content-Type"), doc.MediaType)
		}
	}
}

func TestConformanceOfTagLists(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.define(t, "redis")
	for query, want := range map[string]string{
		"": `["latest"]`, "?n=0": `[]`, "?n=1": `["latest"]`, "?n=4294967296": `["latest"]`, "?n=9999999999": `["latest"]`,
		"?last=a": `["latest"]`, "?last=latest": `[]`, "?last=z&n=3": `[]`, "?last=%00": `["latest"]`,
	} {
		got := r.get(t, "/v2/pkgs/redis/tags/list"+query).wantStatus(t, http.StatusOK)
		if want := `{"name":"pkgs/redis","tags":` + want + `}`; got.body != want || got.Header.Get("Link") != "" {
			t.Errorf("%s gave %s and the link %q, want %s", query, got.body, got.Header.Get("Link"), want)
		}
	}
	for _, n := range []string{"-1", "x", "1.5", "0x10", "+1", "99999999999", "1%202"} {
		r.get(t, "/v2/pkgs/redis/tags/list?n="+n).wantError(t, http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "size of a page")
	}
	r.get(t, "/v2/pkgs/nothing/tags/list").wantError(t, http.StatusNotFound, "NAME_UNKNOWN", "nothing")
}

func TestConformanceOfReferrers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.define(t, "redis")
	doc := r.manifest(t, "pkgs/redis", "latest")
	const base = "/v2/pkgs/redis/referrers/"
	for _, c := range []struct {
		name, path, filtered string
		count                int
	}{
		{"all of the image", base + doc.digest, "", 1},
		{"those of the right type", base + doc.digest + "?artifactType=application/spdx%2Bjson", "artifactType", 1},
		{"those of another type", base + doc.digest + "?artifactType=application/x", "artifactType", 0},
		{"those of an unknown digest", base + absent, "", 0},
		{"those of an unknown digest of another algorithm", base + "sha512:" + strings.Repeat("0", 128), "", 0},
	} {
		got := r.get(t, c.path).wantStatus(t, http.StatusOK)
		var list struct {
			MediaType string       `json:"mediaType"`
			Manifests []descriptor `json:"manifests"`
		}
		if err := json.Unmarshal([]byte(got.body), &list); err != nil || !strings.Contains(got.body, `"manifests":[`) {
			t.Fatalf("%s: %q, %v", c.name, got.body, err)
		}
		if list.MediaType != got.Header.Get("Content-Type") || got.Header.Get("Oci-Filters-Applied") != c.filtered || len(list.Manifests) != c.count {
			t.Errorf("%s: %s with %v", c.name, got.body, got.Header)
		}
		for _, d := range list.Manifests {
			r.checkReferrer(t, doc, d.Digest, d.Size, d.ArtifactType)
		}
	}
	bill := base + r.referrer(t, doc)
	if got := r.get(t, bill).wantStatus(t, http.StatusOK); !strings.Contains(got.body, `"manifests":[]`) {
		t.Errorf("the bill of materials has referrers: %s", got.body)
	}
	r.get(t, base+"sha256:short").wantError(t, http.StatusBadRequest, "DIGEST_INVALID", "sha256:short")
	r.get(t, base+"latest").wantError(t, http.StatusBadRequest, "DIGEST_INVALID", "latest")
}

// referrer gives the digest of the one referrer of an image.
func (r *rig) referrer(tb testing.TB, doc document) string {
	tb.Helper()
	var list struct {
		Manifests []descriptor `json:"manifests"`
	}
	got := r.get(tb, "/v2/pkgs/redis/referrers/"+doc.digest)
	if err := json.Unmarshal([]byte(got.body), &list); err != nil || len(list.Manifests) != 1 {
		tb.Fatalf("the referrers are %q, %v", got.body, err)
	}
	return list.Manifests[0].Digest
}

// checkReferrer pulls a referrer under the same name, with all that it holds.
func (r *rig) checkReferrer(t *testing.T, image document, digest string, size int64, artifactType string) {
	t.Helper()
	if got := r.get(t, "/v2/pkgs/redis/manifests/"+digest); int64(len(got.body)) != size || digestOf(got.body) != digest {
		t.Errorf("the referrer has %d bytes, want %d", len(got.body), size)
	}
	bill := r.manifest(t, "pkgs/redis", digest)
	if bill.Subject.Digest != image.digest || bill.ArtifactType != artifactType {
		t.Errorf("the referrer is %+v", bill)
	}
	for _, blob := range []string{bill.Config.Digest, bill.Layers[0].Digest} {
		if got := r.get(t, "/v2/pkgs/redis/blobs/"+blob).wantStatus(t, http.StatusOK); digestOf(got.body) != blob {
			t.Errorf("the blob %s of the referrer is %q", blob, got.body)
		}
	}
}

// TestOfficialConformance runs the suite of the specification, when there is one:
// the program of distribution-spec/conformance since its version 1.2.
func TestOfficialConformance(t *testing.T) {
	program := os.Getenv("OCI_CONFORMANCE")
	if program == "" {
		t.Skip("needs the OCI conformance suite: set OCI_CONFORMANCE to the program that `go build` makes of github.com/opencontainers/distribution-spec/conformance")
	}
	r := newRig(t)
	r.define(t, "redis")
	doc := r.manifest(t, "pkgs/redis", "latest")
	bill := r.referrer(t, doc)
	blobs := []string{doc.Config.Digest}
	for _, l := range doc.Layers {
		blobs = append(blobs, l.Digest)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Dir = t.TempDir() // it writes its report here
	cmd.Env = append(os.Environ(),
		"OCI_REGISTRY="+r.server.Listener.Addr().String(), "OCI_TLS=disabled", "OCI_REPO1=pkgs/redis", "OCI_REPO2=volume/pkgs/redis",
		"OCI_API_PUSH=false", "OCI_API_BLOBS_DELETE=false", "OCI_API_MANIFESTS_DELETE=false", "OCI_API_TAGS_DELETE=false",
		"OCI_RO_DATA_TAGS=latest", "OCI_RO_DATA_MANIFESTS="+doc.digest+" "+bill,
		"OCI_RO_DATA_BLOBS="+strings.Join(blobs, " "), "OCI_RO_DATA_REFERRERS="+doc.digest)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	// Only its summary judges: the program ends well whatever it finds, and badly
	// when it writes its report about an end point that nobody asked for.
	if !strings.Contains(string(out), "OCI Conformance Result: Pass") {
		t.Errorf("the suite failed: %v", err)
	}
}
