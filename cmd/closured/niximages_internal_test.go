package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller"
	"github.com/closured/closured/driver/policy"
	"github.com/closured/closured/internal/niximages"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/pins"
	"github.com/closured/closured/nixstore/provide"
	"github.com/closured/closured/nixstore/storetest"
	"github.com/closured/closured/registry"
	"github.com/closured/closured/registry/closureimage"
)

// toolNAR is the size of the NAR of the one path: a folder bin with the program tool.
const toolNAR = 496

// sized gives the one path the size that Nix's database would have.
type sized struct{ nixstore.Reader }

func (s sized) Closure(ctx context.Context, root nixstore.StorePath) (nixstore.Closure, error) {
	c, err := s.Reader.Closure(ctx, root)
	for i := range c.Paths {
		c.Paths[i].NarSize = toolNAR
	}
	return c, err
}

// everybody may pull.
type everybody struct{}

func (everybody) Check(string, nixstore.Source) (bool, error) { return true, nil }

// node is the parts of an agent that serve one NixImage, tools/tool.
type node struct {
	store    *storetest.Memory
	images   *niximages.Images
	builder  *closureimage.Builder
	provider *provide.Provider
	server   *httptest.Server
	root     nixstore.StorePath
}

func newNode(t *testing.T, object func(root nixstore.StorePath, digest string) *v1alpha1.NixImage) *node {
	t.Helper()
	dir := t.TempDir()
	store := storetest.NewMemory()
	n := &node{store: store, root: store.AddText("tool", "#!/bin/sh\n")}
	bin := filepath.Join(dir, "store", n.root.BaseName(), "bin")
	check(t, os.MkdirAll(bin, 0o755))
	check(t, os.WriteFile(filepath.Join(bin, "tool"), []byte("#!/bin/sh\n"), 0o555))
	p, err := pins.Open(filepath.Join(dir, "pins"))
	check(t, err)
	n.builder, err = closureimage.New(closureimage.Config{
		StoreDir: filepath.Join(dir, "store"), CacheDir: filepath.Join(dir, "cache"), Closures: sized{store},
	})
	check(t, err)
	n.images = follow(t, object(n.root, n.digest(t)))
	c := cluster{images: n.images}
	n.provider, err = provide.New(provide.Config{Store: store, Pins: p, Images: c.imageSource(policy.Default())})
	check(t, err)
	t.Cleanup(n.provider.Close)
	r, err := registry.New(registry.Config{Provider: n.provider, Pins: p, Images: n.builder, Policy: everybody{}, Named: c.named(policy.Default())})
	check(t, err)
	t.Cleanup(r.Close)
	n.server = httptest.NewServer(r.Handler())
	t.Cleanup(n.server.Close)
	return n
}

// imageConfig is what the object says of its image.
func imageConfig() v1alpha1.ImageConfig {
	return v1alpha1.ImageConfig{
		Entrypoint: []string{"/bin/tool", "$(A)"}, Env: []string{"A=b"}, User: "65534:65534", WorkingDir: "/tmp",
		ExposedPorts: []string{"80/tcp"}, Labels: map[string]v1alpha1.LabelValue{"a=b": "c"},
	}
}

// digest is what a build pod reports.
func (n *node) digest(t *testing.T) string {
	t.Helper()
	registration, err := n.store.Registration(t.Context(), n.root)
	check(t, err)
	image, err := n.builder.Image(t.Context(), closureimage.Spec{Root: n.root, Registration: registration, Settings: closureimage.Settings{
		Entrypoint: []string{"/bin/tool", "$(A)"}, Env: []string{"A=b"}, User: "65534:65534", WorkingDir: "/tmp",
		ExposedPorts: []string{"80/tcp"}, Labels: map[string]string{"a=b": "c"},
	}})
	check(t, err)
	return image.Digest().String()
}

// follow gives the images of a cluster with one object, once they are known.
func follow(t *testing.T, object *v1alpha1.NixImage) *niximages.Images {
	t.Helper()
	images, err := niximages.New(niximages.Config{Patience: time.Nanosecond, API: &cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			return &v1alpha1.NixImageList{Items: []v1alpha1.NixImage{*object}}, nil
		},
		WatchFuncWithContext: func(_ context.Context, options metav1.ListOptions) (watch.Interface, error) {
			if options.SendInitialEvents != nil {
				return nil, apierrors.NewInvalid(schema.GroupKind{}, "", nil) // lists do not stream here
			}
			return watch.NewFake(), nil
		},
	}})
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- images.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		check(t, <-done)
	})
	for end := time.Now().Add(time.Minute); images.Count() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the object did not come")
		}
	}
	return images
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// built is the object after its build.
func built(root nixstore.StorePath, digest string) *v1alpha1.NixImage {
	n := &v1alpha1.NixImage{}
	n.Namespace, n.Name, n.Generation = "tools", "tool", 2
	n.Spec.Tag = "v2"
	n.Status.Images = []v1alpha1.SystemImage{{System: v1alpha1.System(nixstore.System()), StorePath: v1alpha1.StorePath(root.String()), Digest: digest}}
	n.Status.Digest = digest
	n.Status.History = []v1alpha1.Version{{Digest: digest, Tag: "v2", Generation: n.Generation, Images: n.Status.Images, Config: imageConfig()}}
	n.Spec.Config = v1alpha1.ImageConfig{User: "of the next version"}
	return n
}

// get gives an answer's status, digest and body.
func (n *node) get(t *testing.T, path string) (code int, digest, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.server.URL+"/v2/"+path, http.NoBody)
	check(t, err)
	resp, err := n.server.Client().Do(req)
	check(t, err)
	defer func() { _ = resp.Body.Close() }()
	var text json.RawMessage
	check(t, json.NewDecoder(resp.Body).Decode(&text))
	return resp.StatusCode, resp.Header.Get("Docker-Content-Digest"), string(text)
}

func TestTheRegistryServesTheDigestOfTheStatus(t *testing.T) {
	t.Parallel()
	n := newNode(t, built)
	want := n.digest(t)
	for _, reference := range []string{"v2", want} {
		code, digest, body := n.get(t, "image/tools/tool/manifests/"+reference)
		if code != http.StatusOK || digest != want {
			t.Errorf("%s gave %d, %s, want %s: %s", reference, code, digest, want, body)
		}
	}
	if code, _, body := n.get(t, "image/tools/tool/tags/list"); code != http.StatusOK || body != `{"name":"image/tools/tool","tags":["v2"]}` {
		t.Errorf("the tags are %d, %s", code, body)
	}
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"image/tools/tool/manifests/v1":                                {http.StatusNotFound, "status.reference"},
		"image/tools/other/manifests/v1":                               {http.StatusNotFound, "there is no NixImage other"},
		"image/tools/tool/manifests/sha256:" + strings.Repeat("0", 64): {http.StatusNotFound, "MANIFEST_UNKNOWN"},
	} {
		if code, _, body := n.get(t, path); code != want.code || !strings.Contains(body, want.text) {
			t.Errorf("%s gave %d, %s", path, code, body)
		}
	}
}

func TestTheRegistryServesTheIndexOfTheStatus(t *testing.T) {
	t.Parallel()
	var index string
	n := newNode(t, func(root nixstore.StorePath, digest string) *v1alpha1.NixImage {
		o := built(root, digest)
		other := o.Status.Images[0]
		other.System, other.Digest = v1alpha1.SystemARM, "sha256:"+strings.Repeat("a", 64)
		if nixstore.System() == string(other.System) {
			other.System = v1alpha1.SystemX86
		}
		images := []v1alpha1.SystemImage{o.Status.Images[0], other}
		var err error
		index, err = controller.Digest(images)
		check(t, err)
		o.Status.Images, o.Status.Digest = images, index
		o.Status.History[0].Images, o.Status.History[0].Digest = images, index
		return o
	})
	own := n.digest(t)
	for reference, want := range map[string]string{"v2": index, index: index, own: own} {
		code, digest, body := n.get(t, "image/tools/tool/manifests/"+reference)
		if code != http.StatusOK || digest != want || strings.Contains(body, `"manifests"`) != (want == index) {
			t.Errorf("%s gave %d, %s, want %s: %s", reference, code, digest, want, body)
		}
	}
	if code, digest, body := n.get(t, "volume/image/tools/tool/manifests/v2"); code != http.StatusOK || strings.Contains(body, `"manifests"`) {
		t.Errorf("the volume gave %d, %s: %s", code, digest, body)
	}
}

func TestTheRegistryServesNoOtherDigestThanTheStatusHas(t *testing.T) {
	t.Parallel()
	other := "sha256:" + strings.Repeat("e", 64)
	n := newNode(t, func(root nixstore.StorePath, _ string) *v1alpha1.NixImage { return built(root, other) })
	for _, reference := range []string{"v2", other} {
		code, _, body := n.get(t, "image/tools/tool/manifests/"+reference)
		if code != http.StatusInternalServerError || !strings.Contains(body, n.digest(t)) || !strings.Contains(body, other) {
			t.Errorf("%s gave %d: %s", reference, code, body)
		}
	}
}

func TestAPullOfAnImageThatIsNotBuilt(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(nixstore.StorePath, string) *v1alpha1.NixImage {
		o := &v1alpha1.NixImage{}
		o.Namespace, o.Name, o.Generation = "tools", "tool", 1
		o.Spec.Tag, o.Spec.Systems = "v1", []v1alpha1.System{v1alpha1.System(nixstore.System())}
		return o
	})
	code, _, body := n.get(t, "image/tools/tool/manifests/v1")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "the controller has not seen it yet") {
		t.Errorf("it gave %d, %s", code, body)
	}
	_, err := n.provider.Provide(t.Context(), nixstore.Request{
		Source: nixstore.Source{Kind: nixstore.SourceImage, Image: "tools/tool"}, Holder: nixstore.Holder{Kind: nixstore.HolderVolume, Name: "v"},
	})
	if !errors.Is(err, nixstore.ErrUnavailable) || !strings.Contains(err.Error(), "not ready: the controller has not seen it yet") {
		t.Errorf("the volume: %v", err)
	}
	if at := strings.Index(err.Error(), "; next: "); at < 0 || at > 160 {
		t.Errorf("the next step stands at %d of %q", at, err)
	}
}

func TestAVolumeOfAnImage(t *testing.T) {
	t.Parallel()
	n := newNode(t, built)
	got, err := n.provider.Provide(t.Context(), nixstore.Request{
		Source: nixstore.Source{Kind: nixstore.SourceImage, Image: "tools/tool"}, Holder: nixstore.Holder{Kind: nixstore.HolderVolume, Name: "v"},
	})
	if err != nil || got.Root != n.root {
		t.Errorf("the volume is %+v, %v", got, err)
	}
}

func TestWithoutAClusterThereAreNoImages(t *testing.T) {
	t.Parallel()
	if c := (cluster{}); c.imageSource(nil) != nil || c.named(nil) != nil {
		t.Error("something resolves images")
	}
}

func TestThePolicyOfTheNamespaceIsAskedAboutOrigins(t *testing.T) {
	t.Parallel()
	rules, err := policy.Parse([]byte(`rules:
- {namespaces: [tools], sources: [image, packages], build: false}
- {namespaces: [dev], sources: [image, packages, nixExpr]}
- {namespaces: ["*"], sources: [image]}
`))
	check(t, err)
	for kind, origin := range map[string]nixstore.Source{
		"packages": {Kind: nixstore.SourcePackages, Packages: []string{"a"}}, "expression": {Kind: nixstore.SourceExpr, Expr: "a"},
	} {
		for namespace, want := range map[string]string{
			"tools": map[string]string{"packages": "fetched", "expression": "refused"}[kind],
			"dev":   "built",
			"other": "refused",
		} {
			src := permitted(rules, namespace, nixstore.Source{Kind: nixstore.SourceStorePath, Origin: &nixstore.Origin{Source: origin}})
			got := "refused"
			if src.Origin != nil {
				got = map[bool]string{true: "built", false: "fetched"}[src.Origin.Build]
			}
			if got != want {
				t.Errorf("%s of the namespace %s may be %s, want %s", kind, namespace, got, want)
			}
		}
	}
	if src := permitted(rules, "dev", nixstore.Source{}); src.Origin != nil {
		t.Errorf("no origin became %+v", src.Origin)
	}
}
