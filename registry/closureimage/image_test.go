package closureimage_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/closured/closured/registry/closureimage"
)

// golden are the digests of the sample's images. They may change only together
// with formatVersion.
var golden = map[closureimage.Compression][2]string{
	closureimage.None: {"0218743d7b3c8cd7b4006614ef84dc046633c1dd521fa675f41a3332e1be61f3", "56fb1bedebc446867c9b0071475afcf424cc5459111df8e735f43d00aac1f066"},
	closureimage.Gzip: {"b4a63de63b169c60c4c9b1e7fd734a446bd585fe40b805f3bc1fdb2d8bbc39e4", "6852eb71b3fb2417918882c75a20cf8a1462cc8148e431835abfdd2ec7da8846"},
	closureimage.Zstd: {"83e2f7415e49e5ffb94abea71153be06a3da9bcd53b6a8e0ad56b4b5d0f19ddd", "056880f4c6674285197bd19b96d6b8ce12edb9e0a34b70f1123ef8490109e53a"},
}

func TestTheBytesOfImagesStayTheSame(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	for _, c := range []closureimage.Compression{closureimage.None, closureimage.Gzip, closureimage.Zstd} {
		b := s.builder(t, func(cfg *closureimage.Config) { cfg.Compression = c })
		for form, want := range golden[c] {
			if got := mustImage(t, b, spec(root, closureimage.Form(form))).Digest().Hex; got != want {
				t.Errorf("form %d with %s has the digest %s, want %s: raise formatVersion when this is meant", form, c, got, want)
			}
		}
	}
}

func TestImagesAreValid(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	for _, c := range []closureimage.Compression{closureimage.None, closureimage.Gzip, closureimage.Zstd} {
		b := s.builder(t, func(cfg *closureimage.Config) { cfg.Compression = c })
		for _, form := range []closureimage.Form{closureimage.Root, closureimage.Volume} {
			image, err := mustImage(t, b, spec(root, form)).V1(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			// It takes all layers for gzip; TestBlobsAreWhatTheManifestSays looks at the others.
			opts := []validate.Option{validate.Fast}
			if c == closureimage.Gzip {
				opts = nil
			}
			if err := validate.Image(image, opts...); err != nil {
				t.Errorf("form %d with %s: %v", form, c, err)
			}
		}
	}
}

// entries reads all layers of an image in order: headers by name, and content.
func entries(t *testing.T, i *closureimage.Image) (names []string, headers map[string]*tar.Header, content map[string]string) {
	t.Helper()
	image, err := i.V1(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	headers, content = map[string]*tar.Header{}, map[string]string{}
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		var own []string
		for tr := tar.NewReader(bytes.NewReader(data)); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			own = append(own, h.Name)
			headers[h.Name], content[h.Name] = h, string(body)
		}
		if !slices.IsSorted(own) {
			t.Errorf("a layer is not sorted: %q", own)
		}
		names = append(names, own...)
	}
	return names, headers, content
}

func TestARootImageHasLinksAndFilesOfItsOwn(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	names, headers, content := entries(t, mustImage(t, s.builder(t), spec(root, closureimage.Root)))
	var top []string
	for _, n := range names {
		if !strings.HasPrefix(n, "nix/store/") && !slices.Contains(top, n) {
			top = append(top, n)
		}
	}
	want := []string{"nix/", "bin", "etc/", "etc/app.conf", "etc/group", "etc/passwd", "nix/var/", "nix/var/closure.json", "nix/var/result", "sbin", "share", "tmp/"}
	if slices.Sort(top); !slices.Equal(top, slices.Sorted(slices.Values(want))) {
		t.Errorf("beside the store stand %q, want %q", top, want)
	}
	for name, target := range map[string]string{"bin": "/bin", "share": "/share", "etc/group": "/etc/group", "nix/var/result": ""} {
		if got := headers[name].Linkname; got != root.String()+target {
			t.Errorf("%s leads to %s", name, got)
		}
	}
	if headers["tmp/"].Mode != 0o1777 || headers["etc/"].Mode != 0o755 || headers["nix/"].Mode != 0o555 {
		t.Errorf("the modes are %o, %o, %o", headers["tmp/"].Mode, headers["etc/"].Mode, headers["nix/"].Mode)
	}
	if !strings.HasPrefix(content["etc/passwd"], "root:x:0:0:") {
		t.Errorf("passwd is %q", content["etc/passwd"])
	}
}
