package closureimage

import (
	"context"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/closured/closured/nixstore"
)

// V1 gives the image to programs that use go-containerregistry. Its layers are
// generated on each read, under ctx.
func (i *Image) V1(ctx context.Context) (v1.Image, error) {
	core := &compressedImage{image: i, open: func(b Blob) (io.ReadCloser, error) { return b.Open(ctx, 0) }}
	image, err := partial.CompressedToImage(core)
	if err != nil {
		return nil, fmt.Errorf("adapting an image: %w", err)
	}
	return image, nil
}

// compressedImage is what go-containerregistry makes an image of.
type compressedImage struct {
	image *Image
	open  func(Blob) (io.ReadCloser, error)
}

func (c *compressedImage) RawConfigFile() ([]byte, error) { return c.image.config, nil }

func (c *compressedImage) RawManifest() ([]byte, error) { return c.image.manifest, nil }

func (c *compressedImage) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

func (c *compressedImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	b, ok := c.image.Blob(h.String())
	if !ok {
		return nil, nixstore.Fail(nixstore.ErrNotFound, "", "the image of %s has no blob %s", c.image.spec.Root, h)
	}
	return &compressedLayer{blob: b, open: c.open}, nil
}

// compressedLayer is one blob of it.
type compressedLayer struct {
	blob Blob
	open func(Blob) (io.ReadCloser, error)
}

func (l *compressedLayer) Digest() (v1.Hash, error) { return v1.NewHash(l.blob.Digest()) }

func (l *compressedLayer) Size() (int64, error) { return l.blob.Size(), nil }

func (l *compressedLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.blob.MediaType()), nil
}

func (l *compressedLayer) Compressed() (io.ReadCloser, error) { return l.open(l.blob) }
