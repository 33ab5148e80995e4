//go:build privileged

package registry_test

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixcli"
	"github.com/closured/closured/nixstore/pins"
	"github.com/closured/closured/nixstore/provide"
	"github.com/closured/closured/registry"
	"github.com/closured/closured/registry/closureimage"
)

// nixRegistry serves the store of a state directory. What is valid needs no daemon.
func nixRegistry(tb testing.TB, dir string) *httptest.Server {
	tb.Helper()
	store, err := nixcli.Open(tb.Context(), nixcli.Config{
		StateDir: dir, OperatorConf: "/nonexistent", Options: map[string]string{"substituters": ""},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = store.Close() })
	roots, err := pins.Open(filepath.Join(dir, "nix/var/nix/gcroots/closured"))
	if err != nil {
		tb.Fatal(err)
	}
	provider, err := provide.New(provide.Config{Store: store, Pins: roots})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(provider.Close)
	images, err := closureimage.New(closureimage.Config{
		StoreDir: filepath.Join(dir, "nix/store"), CacheDir: filepath.Join(dir, "cache/images"), Closures: store,
	})
	if err != nil {
		tb.Fatal(err)
	}
	r, err := registry.New(registry.Config{
		Provider: provider, Pins: roots, Images: images, Policy: &policy{build: true}, Finder: store, Flights: provider,
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(r.Close)
	server := httptest.NewServer(r.Handler())
	tb.Cleanup(server.Close)
	return server
}

func TestAPulledClosureEqualsTheStore(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	other := nixtest.TextClosure(t, dir, 30, "other")
	root := nixstore.MustParseStorePath(nixtest.SyntheticClosure(t, dir, 12, "pull"))
	server := nixRegistry(t, dir)
	for prefix, repository := range map[string]string{"nix/": "store/", "": "volume/store/"} {
		ref, err := name.ParseReference(server.Listener.Addr().String() + "/" + repository + root.Hash())
		if err != nil {
			t.Fatal(err)
		}
		image, err := remote.Image(ref, remote.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		got := entries(t, image, prefix+"store/")
		want := map[string]string{}
		for _, p := range nixtest.Run(t, dir, "nix-store", "-qR", root.String()) {
			maps.Copy(want, tree(t, filepath.Join(dir, "nix/store"), filepath.Base(p)))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s is not what the store holds (-store +image):\n%s", repository, diff)
		}
	}
	// The pulled is pinned against Nix's own collector; what nobody pulled is not.
	nixtest.Run(t, dir, "nix-store", "--gc")
	nixtest.Run(t, dir, "nix-store", "-qR", root.String())
	others, err := filepath.Glob(filepath.Join(dir, "nix/store", "*-text-other-*"))
	if err != nil || len(others) > 0 {
		t.Errorf("the collector left %v of %s, %v", others, other, err)
	}
}

// entries gives what the layers hold below a folder, by name.
func entries(t *testing.T, image v1.Image, below string) map[string]string {
	t.Helper()
	all := map[string]string{}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		body, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for archive := tar.NewReader(body); ; {
			h, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			rest, ok := strings.CutPrefix(strings.TrimSuffix(h.Name, "/"), below)
			if !ok || rest == "" {
				continue
			}
			content, err := io.ReadAll(archive)
			if err != nil {
				t.Fatal(err)
			}
			if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 1 {
				t.Errorf("%s belongs to %d:%d and is of %s", h.Name, h.Uid, h.Gid, h.ModTime)
			}
			all[rest] = describe(h.FileInfo().Mode(), h.Linkname, content)
		}
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}
	return all
}

// tree gives what is on disk at base and below, by name.
func tree(t *testing.T, store, base string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(filepath.Join(store, base), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var content []byte
		target := ""
		switch {
		case info.Mode().IsRegular():
			content, err = os.ReadFile(path)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err = os.Readlink(path)
		}
		rel, relErr := filepath.Rel(store, path)
		all[rel] = describe(info.Mode(), target, content)
		return errors.Join(err, relErr)
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func describe(mode fs.FileMode, target string, content []byte) string {
	return fmt.Sprintf("%s %q %s", mode, target, digestOf(string(content)))
}

// BenchmarkKnownManifestOfNix is BenchmarkKnownManifest with Nix's own database,
// its collector's lock and pins beside it.
func BenchmarkKnownManifestOfNix(b *testing.B) {
	nixtest.Require(b)
	dir := nixtest.StateDir(b)
	root := nixstore.MustParseStorePath(nixtest.TextClosure(b, dir, 1000, "bench"))
	r := &rig{server: nixRegistry(b, dir)}
	r.manifest(b, "store/"+root.Hash(), "latest")
	r.server = nixRegistry(b, dir) // as after a restart
	measure(b, r, "store/"+root.Hash(), []string{"latest"})
}
