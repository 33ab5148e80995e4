package registry_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry"
)

func TestFault50BadRequestsAreErrorsOfTheSpecification(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	redis := r.define(t, "redis")
	doc := r.manifest(t, "pkgs/redis", "latest")
	hash := strings.Repeat("0", 32)
	cases := []struct {
		name, path string
		status     int
		code, part string
	}{
		{"the root", "/", 404, "UNSUPPORTED", "nothing at"},
		{"another API", "/v1/pkgs/redis/manifests/latest", 404, "UNSUPPORTED", "nothing at"},
		{"the catalogue", "/v2/_catalog", 404, "UNSUPPORTED", "no catalogue"},
		{"a name alone", "/v2/pkgs/redis", 404, "UNSUPPORTED", ""},
		{"another end point", "/v2/pkgs/redis/signatures/latest", 404, "UNSUPPORTED", ""},
		{"another list", "/v2/pkgs/redis/tags/all", 404, "UNSUPPORTED", ""},
		{"no name", "/v2/manifests/latest", 404, "UNSUPPORTED", ""},
		{"an empty name", "/v2//manifests/latest", 400, "NAME_INVALID", "empty"},
		{"an upload", "/v2/pkgs/redis/blobs/uploads", 400, "DIGEST_INVALID", "uploads"},
		{"an upload with its slash", "/v2/pkgs/redis/blobs/uploads/", 404, "UNSUPPORTED", ""},

		{"a name in capitals", "/v2/pkgs/Redis/manifests/latest", 400, "NAME_INVALID", "lower-case"},
		{"a way out", "/v2/pkgs/../store/manifests/latest", 400, "NAME_INVALID", "separator"},
		{"a way out in code", "/v2/pkgs/%2e%2e%2fetc/manifests/latest", 400, "NAME_INVALID", ""},
		{"a way out as a reference", "/v2/pkgs/redis/manifests/..", 404, "MANIFEST_UNKNOWN", ""},
		{"a way out as a blob", "/v2/pkgs/redis/blobs/..%2f..%2fetc%2fpasswd", 404, "UNSUPPORTED", ""},
		{"a NUL", "/v2/pkgs/re%00dis/manifests/latest", 400, "NAME_INVALID", ""},
		{"a double slash", "/v2/pkgs//redis/manifests/latest", 400, "NAME_INVALID", "empty"},
		{"a separator at the end", "/v2/pkgs/redis-/manifests/latest", 400, "NAME_INVALID", "ends in a separator"},
		{"a separator at the beginning", "/v2/pkgs/.redis/manifests/latest", 400, "NAME_INVALID", "begins with a separator"},
		{"two dots inside", "/v2/pkgs/re..dis/manifests/latest", 400, "NAME_INVALID", "separator"},
		{"a name that is too long", "/v2/pkgs/" + strings.Repeat("a", 251) + "/manifests/latest", 400, "NAME_INVALID", "255"},
		{"a first word of nothing", "/v2/library/redis/manifests/latest", 404, "NAME_UNKNOWN", "store/<hash>"},
		{"a volume of a volume", "/v2/volume/volume/pkgs/redis/manifests/latest", 404, "NAME_UNKNOWN", ""},
		{"a volume of nothing", "/v2/volume/pkgs/manifests/latest", 404, "NAME_UNKNOWN", ""},
		{"a hash that is too short", "/v2/store/" + hash[1:] + "/manifests/latest", 404, "NAME_UNKNOWN", ""},
		{"a hash with a foreign letter", "/v2/store/e" + hash[1:] + "/manifests/latest", 404, "NAME_UNKNOWN", ""},
		{"a hash with a name", "/v2/store/" + redis.BaseName() + "/manifests/latest", 404, "NAME_UNKNOWN", ""},
		{"two hashes", "/v2/store/" + hash + "/" + hash + "/manifests/latest", 404, "NAME_UNKNOWN", ""},
		{"an unknown hash", "/v2/store/" + hash + "/manifests/latest", 404, "NAME_UNKNOWN", hash},
		{"an image without its name", "/v2/image/tools/manifests/latest", 404, "NAME_UNKNOWN", ""},
		{"an image of a namespace that cannot be", "/v2/image/a.b/c/manifests/latest", 404, "NAME_UNKNOWN", ""},
		{"an image, of which there are none", "/v2/image/tools/curl/manifests/v1", 404, "NAME_UNKNOWN", "knows no images"},
		{"the tags of an image, of which there are none", "/v2/image/tools/curl/tags/list", 404, "NAME_UNKNOWN", "knows no images"},
		{"a blob of an image, of which there are none", "/v2/image/tools/curl/blobs/" + absent, 404, "BLOB_UNKNOWN", "knows no images"},
		{"a package of nobody", "/v2/pkgs/nothing/manifests/latest", 404, "NAME_UNKNOWN", "nothing"},

		{"an empty reference", "/v2/pkgs/redis/manifests/", 404, "MANIFEST_UNKNOWN", ""},
		{"a tag that is too long", "/v2/pkgs/redis/manifests/" + strings.Repeat("a", 129), 404, "MANIFEST_UNKNOWN", ""},
		{"a digest that is too short", "/v2/pkgs/redis/manifests/sha256:00", 400, "DIGEST_INVALID", "right length"},
		{"a digest in capitals", "/v2/pkgs/redis/manifests/sha256:" + strings.Repeat("A", 64), 400, "DIGEST_INVALID", ""},
		{"a digest of another algorithm", "/v2/pkgs/redis/manifests/md5:" + strings.Repeat("0", 32), 400, "DIGEST_INVALID", "sha256"},
		{"a digest without its algorithm", "/v2/pkgs/redis/blobs/" + strings.Repeat("0", 64), 400, "DIGEST_INVALID", ""},
		{"a blob of another name", "/v2/pkgs/other/blobs/" + doc.Layers[0].Digest, 404, "BLOB_UNKNOWN", ""},
		{"a manifest of another name", "/v2/pkgs/other/manifests/" + doc.digest, 404, "MANIFEST_UNKNOWN", "no image of pkgs/other"},
		{"a manifest of the other form", "/v2/volume/pkgs/redis/manifests/" + doc.digest, 404, "MANIFEST_UNKNOWN", ""},
		{"a name for another host", "/v2/pkgs/redis/manifests/latest?ns=docker.io", 404, "NAME_UNKNOWN", "serves nix.internal"},
	}
	r.define(t, "other")
	r.restart(t, registry.Config{Host: "nix.internal"})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r.get(t, c.path).wantError(t, c.status, c.code, c.part)
			r.do(t, http.MethodHead, c.path).wantError(t, c.status, c.code, c.part)
		})
	}
}

func TestAMirrorIsAskedInTheNameOfItsHost(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, registry.Config{Host: "nix.internal"})
	r.define(t, "redis")
	r.get(t, "/v2/pkgs/redis/manifests/latest?ns=nix.internal").wantStatus(t, http.StatusOK)
	r.get(t, "/v2/pkgs/redis/manifests/latest?ns=NIX.internal&unknown=1").wantStatus(t, http.StatusOK)
}

func TestPushesAreRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, "BREW"} {
		for _, path := range []string{
			"/v2/", "/v2/pkgs/redis/blobs/uploads/", "/v2/pkgs/redis/manifests/latest", "/v2/pkgs/redis/blobs/" + absent, "/v2/x",
		} {
			got := r.do(t, method, path)
			got.wantError(t, http.StatusMethodNotAllowed, "UNSUPPORTED", "takes nothing")
			if got.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s allows %q", method, path, got.Header.Get("Allow"))
			}
		}
	}
	if r.store.Count("build", nixstore.StorePath{}) != 0 {
		t.Error("something was built")
	}
}

func TestThePolicyRefusesPulls(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.define(t, "redis")
	doc := r.manifest(t, "pkgs/redis", "latest")
	r.policy.refuse(nixstore.Fail(nixstore.ErrForbidden, "ask the operator", "not for you"))
	for _, path := range []string{
		"manifests/latest", "manifests/" + doc.digest, "blobs/" + doc.Config.Digest, "tags/list", "referrers/" + doc.digest,
	} {
		r.get(t, "/v2/pkgs/redis/"+path).wantError(t, http.StatusForbidden, "DENIED", "not for you")
	}
	r.get(t, "/v2/").wantStatus(t, http.StatusOK)
}

// FuzzRequests asks for anything. Whatever it is, the answer is one of the
// protocol, and nothing is made of it.
func FuzzRequests(f *testing.F) {
	r := newRig(f)
	r.define(f, "redis")
	doc := r.manifest(f, "pkgs/redis", "latest")
	for _, path := range []string{
		"/v2/", "/v2/pkgs/redis/manifests/latest", "/v2/pkgs/redis/manifests/" + doc.digest, "/v2/pkgs/redis/blobs/" + doc.Config.Digest,
		"/v2/pkgs/redis/tags/list", "/v2/pkgs/redis/referrers/" + doc.digest, "/v2/store/0123456789abcdfghijklmnpqrsvwxyz/manifests/latest",
		"/v2/image/a/b/manifests/v1", "/v2/volume/pkgs/redis/tags/list", "/v2/_catalog", "/v2/pkgs/../manifests/x", "//", "\x00", "/v2/%2e%2e/blobs/x",
	} {
		f.Add(http.MethodGet, path, "n=1&last=x&ns=y", "bytes=0-1", `"x"`)
	}
	f.Add(http.MethodPut, "/v2/pkgs/redis/blobs/"+doc.Config.Digest, "n=-1", "bytes=-5", "*")
	handler := r.registry.Handler()
	statuses := map[int]bool{200: true, 206: true, 304: true, 400: true, 404: true, 405: true, 416: true}
	f.Fuzz(func(t *testing.T, method, path, query, span, condition string) {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
		req.Method, req.URL.Path, req.URL.RawQuery = method, path, query
		req.Header.Set("Range", span)
		req.Header.Set("If-None-Match", condition)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		if !statuses[w.Code] || w.Code >= 400 && !strings.HasPrefix(w.Body.String(), `{"errors":[{"code":"`) {
			t.Errorf("%q %q gave %d: %s", method, path, w.Code, w.Body)
		}
		if strings.Contains(w.Body.String(), r.dir) {
			t.Errorf("%q tells where things are: %s", path, w.Body)
		}
	})
}
