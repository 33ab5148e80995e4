package closureimage

import (
	"context"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/closured/closured/nixstore"
)

// ArtifactType is what a Referrer is.
const ArtifactType = "application/spdx+json"

// Content that stands for nothing (OCI image specification 1.1, "Guidance for an
// Empty Descriptor").
const (
	emptyType = "application/vnd.oci.empty.v1+json"
	emptyJSON = "{}"
)

// Referrer is the manifest of an image's SBOM, whose subject is the image. It may
// be used concurrently.
type Referrer struct {
	image    *Image
	manifest []byte
	sbom     descriptor
}

func newReferrer(i *Image) *Referrer {
	subject := i.descriptor()
	r := &Referrer{image: i, sbom: descriptorOf(ArtifactType, i.sbom)}
	r.manifest = marshal(manifest{
		SchemaVersion: 2, MediaType: string(types.OCIManifestSchema1), ArtifactType: ArtifactType,
		Config: descriptorOf(emptyType, describe([]byte(emptyJSON))),
		Layers: []descriptor{r.sbom}, Subject: &subject,
	})
	return r
}

// Referrer gives the manifest of the image's SBOM: an SPDX 2.3 document that lists
// each store path of the closure. It reads nothing.
func (i *Image) Referrer() *Referrer { return i.referrer() }

// Manifest gives the bytes of the OCI manifest, which must not be changed.
func (r *Referrer) Manifest() []byte { return r.manifest }

// MediaType gives the manifest's media type.
func (r *Referrer) MediaType() string { return string(types.OCIManifestSchema1) }

// Digest gives the manifest's digest.
func (r *Referrer) Digest() v1.Hash { return describe(r.manifest).sum.hash() }

// Subject gives the digest of the image.
func (r *Referrer) Subject() v1.Hash { return r.image.Digest() }

// Blob finds the SBOM, or the empty configuration.
func (r *Referrer) Blob(d string) (Blob, bool) {
	if r.sbom.Digest == d {
		return &sbomBlob{blob{r.image, r.sbom}}, true
	}
	if empty := r.image.bytesBlob(emptyType, []byte(emptyJSON)); empty.Digest() == d {
		return empty, true
	}
	return nil, false
}

// sbomBlob is the SBOM, which is written when it is read.
type sbomBlob struct{ blob }

// Open writes the SBOM.
func (s *sbomBlob) Open(ctx context.Context, offset int64) (io.ReadCloser, error) {
	if err := s.check(offset); err != nil {
		return nil, err
	}
	b := s.image.b
	c, err := b.closure(ctx, s.image.spec)
	if err != nil {
		return nil, err
	}
	data := sbomOf(c)
	if describe(data) != s.image.sbom {
		b.forget(s.image, nil)
		return nil, nixstore.Fail(nixstore.ErrCorrupt, "pull the image again",
			"the closure of %s has changed since its image was computed", s.image.spec.Root)
	}
	return bytesSource(data[offset:]), nil
}

var (
	_ Blob = (*sbomBlob)(nil)
	_ Blob = (*layerBlob)(nil)
	_ Blob = (*bytesBlob)(nil)
)

// String helps in logs.
func (i *Image) String() string { return fmt.Sprintf("image of %s, %s", i.spec.Root, i.Digest()) }
