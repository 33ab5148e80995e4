package registry_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/closured/closured/registry"
	"github.com/closured/closured/registry/closureimage"
)

func TestAPulledImageIsWholeAndValid(t *testing.T) {
	t.Parallel()
	for _, pack := range []closureimage.Compression{closureimage.None, closureimage.Gzip} {
		r := newRig(t)
		r.pack = pack
		r.restart(t, registry.Config{})
		r.define(t, "redis")
		r.define(t, "curl")
		path := r.add(t, "tool", "plain path")
		for _, repository := range []string{
			"pkgs/redis", "pkgs/curl/redis", "pkgs/redis/curl", "store/" + path.Hash(), "volume/pkgs/curl", "volume/store/" + path.Hash(),
		} {
			image := r.pull(t, repository)
			if err := wholeImage(image); err != nil {
				t.Errorf("%s: %v", repository, err)
			}
			if pack == closureimage.None {
				continue // the next takes each layer for gzip
			}
			if err := validate.Image(image); err != nil {
				t.Errorf("%s: %v", repository, err)
			}
		}
	}
}

// pull gives an image as a client sees it.
func (r *rig) pull(t *testing.T, repository string) v1.Image {
	t.Helper()
	ref, err := name.ParseReference(r.server.Listener.Addr().String() + "/" + repository)
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// wholeImage reads all of an image and compares its digests.
func wholeImage(image v1.Image) error {
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		digest, digestErr := l.Digest()
		diffID, diffErr := l.DiffID()
		packed, packedErr := l.Compressed()
		plain, plainErr := l.Uncompressed()
		if err := errors.Join(digestErr, diffErr, packedErr, plainErr); err != nil {
			return err
		}
		got, _, gotErr := v1.SHA256(packed)
		gotPlain, _, gotPlainErr := v1.SHA256(plain)
		if err := errors.Join(gotErr, gotPlainErr, packed.Close(), plain.Close()); err != nil {
			return err
		}
		if got != digest || gotPlain != diffID {
			return fmt.Errorf("the layer %s is %s, and %s unpacked instead of %s", digest, got, gotPlain, diffID)
		}
	}
	return nil
}

func TestEachManifestAndBlobHasItsDigest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.define(t, "redis")
	doc := r.manifest(t, "pkgs/redis", "latest")
	if again := r.manifest(t, "pkgs/redis", doc.digest); again.digest != doc.digest {
		t.Errorf("the digest %s gives %s", doc.digest, again.digest)
	}
	for _, l := range doc.Layers {
		got := r.get(t, "/v2/pkgs/redis/blobs/"+l.Digest).wantStatus(t, http.StatusOK)
		if digest := digestOf(got.body); digest != l.Digest || got.Header.Get("Docker-Content-Digest") != l.Digest {
			t.Errorf("the blob %s has the digest %s", l.Digest, digest)
		}
		if got.Header.Get("Content-Type") != l.MediaType || got.ContentLength != l.Size {
			t.Errorf("the blob has the type %q and the size %d", got.Header.Get("Content-Type"), got.ContentLength)
		}
	}
}

func digestOf(body string) string {
	sum := sha256.Sum256([]byte(body))
	return "sha256:" + hex.EncodeToString(sum[:])
}
