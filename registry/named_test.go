package registry_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/closured/closured/internal/ociindex"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry"
	"github.com/closured/closured/registry/closureimage"
)

// catalogue is a registry.Named with the tags of images.
type catalogue struct {
	mu     sync.Mutex // guards what follows
	images map[string]registry.Description
	asked  []string
}

func (c *catalogue) set(key string, d registry.Description) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.images == nil {
		c.images = map[string]registry.Description{}
	}
	c.images[key] = d
}

func (c *catalogue) Resolve(_ context.Context, namespace, name, reference string) (registry.Description, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := namespace + "/" + name + ":" + reference
	c.asked = append(c.asked, key)
	d, ok := c.images[key]
	if !ok {
		return d, nixstore.Fail(nixstore.ErrNotFound, "look at the NixImage", "there is no %s", key)
	}
	return d, nil
}

func (c *catalogue) Tags(_ context.Context, namespace, name string) ([]string, error) {
	tags, _, err := c.list(namespace, name)
	return tags, err
}

func (c *catalogue) Versions(_ context.Context, namespace, name string) ([]registry.Description, error) {
	_, versions, err := c.list(namespace, name)
	return versions, err
}

// list gives the tags, and what is known by digests.
func (c *catalogue) list(namespace, name string) (tags []string, versions []registry.Description, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := false
	for key, d := range c.images {
		reference, ok := strings.CutPrefix(key, namespace+"/"+name+":")
		known = known || ok
		switch {
		case ok && strings.Contains(reference, ":"):
			versions = append(versions, d)
		case ok:
			tags = append(tags, reference)
		}
	}
	if !known {
		return nil, nil, nixstore.Fail(nixstore.ErrNotFound, "look at the NixImage", "there is no image %s/%s", namespace, name)
	}
	return tags, versions, nil
}

func packages(names ...string) nixstore.Source {
	return nixstore.Source{Kind: nixstore.SourcePackages, Packages: names}
}

func TestDescribedImages(t *testing.T) {
	t.Parallel()
	named := &catalogue{}
	cfg := registry.Config{Named: named}
	r := newRigWith(t, cfg)
	r.define(t, "redis")
	named.set("tools/redis:v1", registry.Description{Source: packages("redis")})
	named.set("tools/redis:v2", registry.Description{
		Source: packages("redis"), Settings: closureimage.Settings{Entrypoint: []string{"/bin/redis"}, User: "1000"},
	})
	one, two := r.manifest(t, "image/tools/redis", "v1"), r.manifest(t, "image/tools/redis", "v2")
	if one.digest == two.digest || one.Layers[0] != two.Layers[0] {
		t.Errorf("the images are %+v and %+v", one, two)
	}
	var config struct {
		Config struct {
			User       string   `json:"User"`
			Entrypoint []string `json:"Entrypoint"`
		} `json:"config"`
	}
	body := r.get(t, "/v2/image/tools/redis/blobs/"+two.Config.Digest).body
	if err := json.Unmarshal([]byte(body), &config); err != nil || config.Config.User != "1000" || !slices.Equal(config.Config.Entrypoint, []string{"/bin/redis"}) {
		t.Errorf("the configuration is %s, %v", body, err)
	}
	for path, want := range map[string]string{"": `["v1","v2"]`, "?last=v1": `["v2"]`, "?n=1": `["v1"]`, "?n=1&last=v1": `["v2"]`} {
		got := r.get(t, "/v2/image/tools/redis/tags/list"+path).wantStatus(t, http.StatusOK)
		if want := `{"name":"image/tools/redis","tags":` + want + `}`; got.body != want {
			t.Errorf("%s gave %s, want %s", path, got.body, want)
		}
		link := ""
		if path == "?n=1" {
			link = `</v2/image/tools/redis/tags/list?last=v1&n=1>; rel="next"`
		}
		if got.Header.Get("Link") != link {
			t.Errorf("%s gave the link %q", path, got.Header.Get("Link"))
		}
	}
	r.get(t, "/v2/image/tools/redis/manifests/latest").wantError(t, http.StatusNotFound, "NAME_UNKNOWN", "there is no tools/redis:latest")
	r.get(t, "/v2/image/tools/curl/blobs/"+absent).wantError(t, http.StatusNotFound, "BLOB_UNKNOWN", "no image tools/curl")
	r.get(t, "/v2/image/tools/curl/tags/list").wantError(t, http.StatusNotFound, "NAME_UNKNOWN", "no image tools/curl")
	r.manifest(t, "volume/image/tools/redis", "v2")

	// After a restart the description is asked by the digest, and blobs by the tags.
	r.restart(t, cfg)
	for _, l := range two.Layers {
		r.get(t, "/v2/image/tools/redis/blobs/"+l.Digest).wantStatus(t, http.StatusOK)
	}
	r.get(t, "/v2/image/tools/redis/blobs/"+two.Config.Digest).wantStatus(t, http.StatusOK)
	r.restart(t, cfg)
	r.get(t, "/v2/image/tools/redis/manifests/"+two.digest).wantStatus(t, http.StatusOK)
	r.get(t, "/v2/image/tools/redis/manifests/"+absent).wantError(t, http.StatusNotFound, "MANIFEST_UNKNOWN", "pull it by its tag")
	if !slices.Contains(named.asked, "tools/redis:"+two.digest) {
		t.Errorf("the description was asked for by %v only", named.asked)
	}
}

func TestADescriptionThatCannotBeMade(t *testing.T) {
	t.Parallel()
	named := &catalogue{}
	r := newRigWith(t, registry.Config{Named: named})
	r.define(t, "redis")
	named.set("tools/bad:v1", registry.Description{Source: packages("redis"), Settings: closureimage.Settings{Env: []string{"no value"}}})
	r.get(t, "/v2/image/tools/bad/manifests/v1").wantError(t, http.StatusBadRequest, "NAME_INVALID", "NAME=value")
	named.set("tools/loop:v1", registry.Description{Source: nixstore.Source{Kind: nixstore.SourceImage, Image: "tools/loop"}})
	r.get(t, "/v2/image/tools/loop/manifests/v1").wantError(t, http.StatusBadRequest, "NAME_INVALID", "knows no images")
}

func TestAnIndexOfSeveralSystems(t *testing.T) {
	t.Parallel()
	named := &catalogue{}
	cfg := registry.Config{Named: named}
	r := newRigWith(t, cfg)
	r.define(t, "redis")
	named.set("tools/redis:v1", registry.Description{Source: packages("redis")})
	own := r.manifest(t, "image/tools/redis", "v1").digest
	document := func(digest string) []byte {
		raw, err := ociindex.Of(
			ociindex.Image{System: nixstore.System(), Digest: digest, Size: 1},
			ociindex.Image{System: map[bool]string{true: "aarch64-linux", false: "x86_64-linux"}[nixstore.System() == "x86_64-linux"], Digest: absent, Size: 2},
		)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	named.set("tools/redis:v2", registry.Description{Source: packages("redis"), Index: document(own)})
	got := r.get(t, "/v2/image/tools/redis/manifests/v2").wantStatus(t, http.StatusOK)
	if got.body != string(document(own)) || got.Header.Get("Content-Type") != "application/vnd.oci.image.index.v1+json" {
		t.Errorf("the tag gave %s: %s", got.Header.Get("Content-Type"), got.body)
	}
	digest := got.Header.Get("Docker-Content-Digest")
	named.set("tools/redis:"+digest, registry.Description{Source: packages("redis"), Index: document(own)})
	r.restart(t, cfg)
	if again := r.get(t, "/v2/image/tools/redis/manifests/"+digest).wantStatus(t, http.StatusOK); again.body != got.body {
		t.Errorf("the digest gave %s", again.body)
	}
	if m := r.manifest(t, "image/tools/redis", own); m.digest != own || len(m.Layers) == 0 {
		t.Errorf("the image in it is %+v", m)
	}
	if m := r.manifest(t, "volume/image/tools/redis", "v2"); len(m.Layers) == 0 {
		t.Errorf("the volume is %+v", m)
	}
	r.get(t, "/v2/image/tools/redis/manifests/"+absent).wantError(t, http.StatusNotFound, "MANIFEST_UNKNOWN", "pull it by its tag")

	named.set("tools/redis:v3", registry.Description{Source: packages("redis"), Index: document("sha256:" + strings.Repeat("b", 64))})
	r.get(t, "/v2/image/tools/redis/manifests/v3").wantError(t, http.StatusInternalServerError, "UNKNOWN", "its index does not list")
}

func TestAnImageThatIsAnotherOneHereIsNotServed(t *testing.T) {
	t.Parallel()
	named := &catalogue{}
	r := newRigWith(t, registry.Config{Named: named})
	r.define(t, "redis")
	named.set("tools/redis:v1", registry.Description{Source: packages("redis")})
	own := r.manifest(t, "image/tools/redis", "v1").digest
	named.set("tools/redis:v2", registry.Description{Source: packages("redis"), Digest: own})
	if m := r.manifest(t, "image/tools/redis", "v2"); m.digest != own {
		t.Errorf("the image is %s, want %s", m.digest, own)
	}
	for _, reference := range []string{"v3", absent} {
		named.set("tools/redis:"+reference, registry.Description{Source: packages("redis"), Digest: absent})
		r.get(t, "/v2/image/tools/redis/manifests/"+reference).
			wantError(t, http.StatusInternalServerError, "UNKNOWN", own+" on this node, and "+absent+" by its description; next: use the same release")
	}
	// A volume's image has a digest that no description knows.
	r.manifest(t, "volume/image/tools/redis", "v3")
}

// Only the newest version has the tag. Pods name the others by their digests.
func TestEarlierVersionsKeepTheirBlobs(t *testing.T) {
	t.Parallel()
	named := &catalogue{}
	cfg := registry.Config{Named: named}
	r := newRigWith(t, cfg)
	src := nixstore.Source{Kind: nixstore.SourceStorePath, Paths: []nixstore.StorePath{r.define(t, "redis")}}
	r.manifest(t, "pkgs/redis", "latest") // builds it
	var versions []document
	for i := range 11 { // as many as status.history may have
		d := registry.Description{Source: src, Settings: closureimage.Settings{User: strconv.Itoa(i)}}
		named.set("tools/redis:v1", d)
		m := r.manifest(t, "image/tools/redis", "v1")
		d.Digest = m.digest
		named.set("tools/redis:"+m.digest, d)
		versions = append(versions, m)
	}
	served := func(v document) bool {
		return r.get(t, "/v2/image/tools/redis/blobs/"+v.Config.Digest).StatusCode == http.StatusOK
	}
	oldest := r.manifest(t, "image/tools/redis", versions[0].digest)
	for _, v := range versions[1:] { // of other pods, meanwhile
		r.manifest(t, "image/tools/redis", v.digest)
	}
	if !served(oldest) {
		t.Error("the oldest version lost its configuration in the middle of a pull")
	}
	r.restart(t, cfg)
	for _, v := range versions {
		if !served(v) {
			t.Errorf("the version %s has no configuration after a restart", v.digest)
		}
	}
	r.get(t, "/v2/image/tools/redis/blobs/"+absent).wantError(t, http.StatusNotFound, "BLOB_UNKNOWN", "pull it by its tag")
	r.get(t, "/v2/volume/image/tools/redis/blobs/"+oldest.Config.Digest).wantError(t, http.StatusNotFound, "BLOB_UNKNOWN", "pull it by its tag")
}
