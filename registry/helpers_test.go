package registry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/pins"
	"github.com/closured/closured/nixstore/provide"
	"github.com/closured/closured/nixstore/storetest"
	"github.com/closured/closured/registry"
	"github.com/closured/closured/registry/closureimage"
)

// rig is a registry over a store in memory whose files are on disk, real pins, the
// real provider and the real builder, behind a real HTTP server.
type rig struct {
	dir      string
	store    *storetest.Memory
	eval     *storetest.Evaluator
	pins     *pins.Pins
	provider *provide.Provider
	images   *countingImages
	registry *registry.Registry
	server   *httptest.Server
	policy   *policy
	pack     closureimage.Compression
	metrics  *prometheus.Registry
}

func newRig(tb testing.TB) *rig {
	tb.Helper()
	return newRigWith(tb, registry.Config{})
}

func newRigWith(tb testing.TB, cfg registry.Config) *rig {
	tb.Helper()
	r := &rig{dir: tb.TempDir(), store: storetest.NewMemory(), eval: &storetest.Evaluator{}, policy: &policy{build: true}}
	r.store.SetHook(r.step)
	r.start(tb, cfg)
	return r
}

// start makes all that a process has, as a restart of the agent does.
func (r *rig) start(tb testing.TB, cfg registry.Config) {
	tb.Helper()
	var err error
	if r.pins, err = pins.Open(filepath.Join(r.dir, "pins")); err != nil {
		tb.Fatal(err)
	}
	r.store.SetRoots(r.roots)
	if r.provider, err = provide.New(provide.Config{Store: r.store, Pins: r.pins, Evaluator: r.eval}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(r.provider.Close)
	builder, err := closureimage.New(closureimage.Config{
		StoreDir: r.storeDir(), CacheDir: filepath.Join(r.dir, "cache"), Closures: sized{r.store, r.storeDir()},
		Compression: r.pack,
	})
	if err != nil {
		tb.Fatal(err)
	}
	r.images = &countingImages{Builder: builder}
	cfg.Provider, cfg.Pins, cfg.Images, cfg.Flights = r.provider, r.pins, r.images, r.provider
	if cfg.Policy == nil {
		cfg.Policy = r.policy
	}
	if cfg.Finder == nil {
		cfg.Finder = finder{r.store}
	}
	r.metrics = prometheus.NewRegistry()
	cfg.Registerer = r.metrics
	if r.registry, err = registry.New(cfg); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(r.registry.Close)
	r.server = httptest.NewServer(r.registry.Handler())
	tb.Cleanup(r.server.Close)
}

// restart ends everything and begins again with what is on disk.
func (r *rig) restart(tb testing.TB, cfg registry.Config) {
	tb.Helper()
	r.server.Close()
	r.registry.Close()
	r.provider.Close()
	r.start(tb, cfg)
}

func (r *rig) storeDir() string { return filepath.Join(r.dir, "store") }

func (r *rig) roots() []nixstore.StorePath {
	var roots []nixstore.StorePath
	for _, kind := range []nixstore.HolderKind{nixstore.HolderVolume, nixstore.HolderImage, nixstore.HolderFlight} {
		for _, pin := range r.pins.List(kind) {
			roots = append(roots, pin.Root)
		}
	}
	return roots
}

// define makes a package with a library, both unbuilt, and gives its root. Their
// files are there from the beginning; nobody looks before the path is valid.
func (r *rig) define(tb testing.TB, name string) nixstore.StorePath {
	tb.Helper()
	lib := r.store.AddRecipe(storetest.Recipe{Name: name + "-lib"})
	root := r.recipe(name, lib)
	out := r.store.AddRecipe(root)
	r.fill(tb, lib.Path, "lib/"+name+".so", strings.Repeat("library of "+name+"\n", 2000))
	r.fill(tb, out.Path, "bin/"+name, "#!/bin/sh\necho "+name+"\n")
	r.eval.Define(name, func() []nixstore.Output {
		again := r.store.AddRecipe(storetest.Recipe{Name: name + "-lib"})
		return []nixstore.Output{r.store.AddRecipe(r.recipe(name, again))}
	})
	return out.Path
}

// step gives what is built a file, unless it was made before.
func (r *rig) step(_ context.Context, s storetest.Step) error {
	dir := filepath.Join(r.storeDir(), s.Path.BaseName())
	if s.Op != "build" || !gone(dir) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "file"), []byte(s.Path.Name()), 0o600)
}

func (r *rig) recipe(name string, inputs ...nixstore.Output) storetest.Recipe {
	return storetest.Recipe{Name: name, Inputs: inputs}
}

// fill writes a file of a store path to disk.
func (r *rig) fill(tb testing.TB, p nixstore.StorePath, file, content string) {
	tb.Helper()
	name := filepath.Join(r.storeDir(), p.BaseName(), file)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o755); err != nil {
		tb.Fatal(err)
	}
}

// add makes a valid path of one file.
func (r *rig) add(tb testing.TB, name, content string) nixstore.StorePath {
	tb.Helper()
	p := r.store.AddText(name, content)
	r.fill(tb, p, "bin/"+name, content)
	return p
}

// reply is an answer that was read to its end.
type reply struct {
	*http.Response
	body string
	err  error // of reading the body
}

// do sends a request; header holds pairs.
func (r *rig) do(tb testing.TB, method, path string, header ...string) reply {
	tb.Helper()
	got, err := r.try(tb.Context(), method, path, header...)
	if err != nil {
		tb.Fatal(err)
	}
	return got
}

func (r *rig) try(ctx context.Context, method, path string, header ...string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.server.URL+path, http.NoBody)
	if err != nil {
		return reply{}, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.server.Client().Do(req)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return reply{resp, string(body), err}, nil
}

func (r *rig) get(tb testing.TB, path string, header ...string) reply {
	tb.Helper()
	return r.do(tb, http.MethodGet, path, header...)
}

// wantStatus checks the status.
func (p reply) wantStatus(tb testing.TB, want int) reply {
	tb.Helper()
	if p.StatusCode != want || p.err != nil {
		tb.Errorf("%s %s gave %s, %v, want %d: %s", p.Request.Method, p.Request.URL.Path, p.Status, p.err, want, p.body)
	}
	return p
}

// wantError checks that the answer is an error of the specification.
func (p reply) wantError(tb testing.TB, status int, code, part string) {
	tb.Helper()
	p.wantStatus(tb, status)
	var doc struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if p.Header.Get("Content-Type") != "application/json" {
		tb.Errorf("the error has the type %q", p.Header.Get("Content-Type"))
	}
	if p.Request.Method == http.MethodHead {
		return
	}
	if err := json.Unmarshal([]byte(p.body), &doc); err != nil || len(doc.Errors) != 1 {
		tb.Fatalf("the body %q is no error: %v", p.body, err)
	}
	if doc.Errors[0].Code != code || !strings.Contains(doc.Errors[0].Message, part) {
		tb.Errorf("%s gave %s: %q, want %s with %q", p.Request.URL, doc.Errors[0].Code, doc.Errors[0].Message, code, part)
	}
}

// descriptor is one of a manifest or an index.
type descriptor struct {
	Digest       string `json:"digest"`
	MediaType    string `json:"mediaType"`
	ArtifactType string `json:"artifactType"`
	Size         int64  `json:"size"`
}

// document is a manifest.
type document struct {
	digest       string
	ArtifactType string       `json:"artifactType"`
	Config       descriptor   `json:"config"`
	Layers       []descriptor `json:"layers"`
	Subject      descriptor   `json:"subject"`
}

// manifest pulls a manifest, as often as a client must.
func (r *rig) manifest(tb testing.TB, name, reference string) document {
	tb.Helper()
	var got reply
	eventually(tb, "a manifest is answered", func() bool {
		got = r.get(tb, "/v2/"+name+"/manifests/"+reference)
		return got.StatusCode != http.StatusTooManyRequests
	})
	got.wantStatus(tb, http.StatusOK)
	doc := document{digest: got.Header.Get("Docker-Content-Digest")}
	if err := json.Unmarshal([]byte(got.body), &doc); err != nil {
		tb.Fatal(err)
	}
	return doc
}

// policy lets everybody pull, unless it is told otherwise.
type policy struct {
	build   bool
	refused atomic.Pointer[error]
}

func (p *policy) Check(namespace string, _ nixstore.Source) (bool, error) {
	if namespace != "" {
		return false, fmt.Errorf("a pull has the namespace %q", namespace)
	}
	if err := p.refused.Load(); err != nil {
		return false, *err
	}
	return p.build, nil
}

func (p *policy) refuse(err error) { p.refused.Store(&err) }

// countingImages counts how often an image was asked for.
type countingImages struct {
	*closureimage.Builder
	count atomic.Int64
	hook  atomic.Pointer[func(ctx context.Context) error]
}

func (c *countingImages) Image(ctx context.Context, spec closureimage.Spec) (*closureimage.Image, error) {
	c.count.Add(1)
	if hook := c.hook.Load(); hook != nil {
		if err := (*hook)(ctx); err != nil {
			return nil, err
		}
	}
	return c.Builder.Image(ctx, spec)
}

// finder finds paths of a Memory.
type finder struct{ store *storetest.Memory }

func (f finder) FindByHash(_ context.Context, hash string) (nixstore.StorePath, error) {
	for _, p := range f.store.Valid() {
		if p.Hash() == hash {
			return p, nil
		}
	}
	return nixstore.StorePath{}, nixstore.Fail(nixstore.ErrNotFound, "", "no path has the hash %s", hash)
}

// sized gives the sizes that the files on disk have, as Nix's database would.
type sized struct {
	nixstore.Reader
	dir string
}

func (s sized) Closure(ctx context.Context, root nixstore.StorePath) (nixstore.Closure, error) {
	c, err := s.Reader.Closure(ctx, root)
	for i, p := range c.Paths {
		size, statErr := narSize(filepath.Join(s.dir, p.Path.BaseName()))
		if statErr != nil {
			return c, statErr
		}
		c.Paths[i].NarSize = size + word("nix-archive-1")
	}
	return c, err
}

// word is the size of a string in an archive of Nix.
func word(s string) int64 { return 8 + (int64(len(s))+7)/8*8 }

// narSize measures what a file or folder takes in an archive of Nix.
func narSize(path string) (int64, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	size := 2*word("(") + word("type")
	if info.Mode().IsRegular() {
		size += word("regular") + word("contents") + 8 + (info.Size()+7)/8*8
		if info.Mode()&0o100 != 0 {
			size += word("executable") + word("")
		}
		return size, nil
	}
	entries, err := os.ReadDir(path)
	size += word("directory")
	for _, e := range entries {
		inner, innerErr := narSize(filepath.Join(path, e.Name()))
		if innerErr != nil {
			return 0, innerErr
		}
		size += word("entry") + 2*word("(") + word("name") + word(e.Name()) + word("node") + inner
	}
	return size, err
}

// metric gives the sum of a metric over its labels.
func (r *rig) metric(tb testing.TB, name string) float64 {
	tb.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// eventually waits until a thing is true.
func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not within a minute: %s", what)
		}
	}
}

// gone tells whether there is no such file.
func gone(path string) bool {
	_, err := os.Lstat(path)
	return os.IsNotExist(err)
}
