package closureimage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/closured/closured/nixstore"
)

// Image is an image of a closure. It holds its documents and no content, never
// changes, and may be used concurrently.
type Image struct {
	b    *Builder
	spec Spec
	key  key

	digest   digest
	manifest []byte
	config   []byte
	sbom     record
	layers   func() []descriptor // of the manifest; read when somebody wants a blob
	referrer func() *Referrer
}

// Blob is content that an image refers to.
type Blob interface {
	// Digest gives "sha256:…".
	Digest() string
	// Size gives the number of bytes.
	Size() int64
	// MediaType gives the type that the manifest says.
	MediaType() string
	// Open gives the bytes after offset, and needs the closure to be valid until it
	// is closed. A read of the whole that does not have the digest ends in
	// nixstore.ErrCorrupt before its last bytes, and the image is computed again when it is next
	// asked for. ctx is that of all reads. Errors: ErrInvalid (offset), ErrCorrupt, ErrNotFound, ErrBusy.
	Open(ctx context.Context, offset int64) (io.ReadCloser, error)
}

// newImage makes an image of its documents. They are read when they are needed, for
// most requests want the manifest's bytes and nothing else.
func newImage(b *Builder, spec Spec, k key, doc documents) *Image {
	i := &Image{b: b, spec: spec, key: k, manifest: doc.manifest, config: doc.config, sbom: doc.sbom}
	i.digest = describe(doc.manifest).sum
	i.layers = sync.OnceValue(func() []descriptor {
		var m manifest
		if err := json.Unmarshal(i.manifest, &m); err != nil { // we wrote it, and its file has a checksum
			b.cfg.Log.Error("reading a manifest of our own", slog.Any("error", err))
		}
		return m.Layers
	})
	i.referrer = sync.OnceValue(func() *Referrer { return newReferrer(i) })
	return i
}

// Manifest gives the bytes of the OCI manifest, which must not be changed.
func (i *Image) Manifest() []byte { return i.manifest }

// MediaType gives the manifest's media type.
func (i *Image) MediaType() string { return string(types.OCIManifestSchema1) }

// Digest gives the manifest's digest.
func (i *Image) Digest() v1.Hash { return i.digest.hash() }

// Config gives the bytes of the configuration, which must not be changed.
func (i *Image) Config() []byte { return i.config }

// Spec gives what the image was made of, with its defaults filled in.
func (i *Image) Spec() Spec { return i.spec }

func (i *Image) descriptor() descriptor {
	return descriptorOf(i.MediaType(), record{i.digest, int64(len(i.manifest))})
}

// Blob finds the configuration, a layer, or a blob of the referrer by its digest.
func (i *Image) Blob(d string) (Blob, bool) {
	if config := i.bytesBlob(string(types.OCIConfigJSON), i.config); config.Digest() == d {
		return config, true
	}
	for n, l := range i.layers() {
		if l.Digest == d {
			return &layerBlob{blob{i, l}, n}, true
		}
	}
	return i.referrer().Blob(d)
}

// blob is what all blobs have.
type blob struct {
	image *Image
	desc  descriptor
}

func (b blob) Digest() string    { return b.desc.Digest }
func (b blob) Size() int64       { return b.desc.Size }
func (b blob) MediaType() string { return b.desc.MediaType }

// check looks at an offset.
func (b blob) check(offset int64) error {
	if offset < 0 || offset > b.desc.Size {
		return nixstore.Fail(nixstore.ErrInvalid, "ask for a range inside the blob",
			"the blob %s has %d bytes, and none at %d", b.desc.Digest, b.desc.Size, offset)
	}
	return nil
}

// bytesBlob is in memory.
type bytesBlob struct {
	blob
	data []byte
}

func (i *Image) bytesBlob(mediaType string, data []byte) *bytesBlob {
	return &bytesBlob{blob{i, descriptorOf(mediaType, describe(data))}, data}
}

// Open gives the bytes.
func (b *bytesBlob) Open(_ context.Context, offset int64) (io.ReadCloser, error) {
	if err := b.check(offset); err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(b.data[offset:])), nil
}

// layerBlob is a layer.
type layerBlob struct {
	blob
	number int
}

// Open begins to generate the layer.
func (l *layerBlob) Open(ctx context.Context, offset int64) (io.ReadCloser, error) {
	if err := l.check(offset); err != nil {
		return nil, err
	}
	b := l.image.b
	want, ok := parseDigest(l.desc.Digest)
	if !ok {
		return nil, nixstore.Fail(nixstore.ErrCorrupt, "pull the image again", "the digest %s is none", nixstore.Quote(l.desc.Digest))
	}
	p, err := b.plan(ctx, l.image)
	if err != nil {
		return nil, err
	}
	if len(p.layers)+1 != len(l.image.layers()) {
		b.forget(l.image, nil)
		return nil, nixstore.Fail(nixstore.ErrCorrupt, "pull the image again",
			"the closure of %s has changed since its image was computed", l.image.spec.Root)
	}
	c := &checked{
		want: want, left: l.desc.Size, bytes: &b.chunks,
		what: fmt.Sprintf("layer %d of the image of %s", l.number+1, l.image.spec.Root),
	}
	var layerKey *key
	if l.number < len(p.keys) {
		layerKey = &p.keys[l.number]
	}
	c.bad = func() { b.forget(l.image, layerKey) }
	return l.open(ctx, p, c, offset)
}

// open puts the stream behind the check. Only an uncompressed layer can begin in the middle.
func (l *layerBlob) open(ctx context.Context, p *plan, c *checked, offset int64) (io.ReadCloser, error) {
	b := l.image.b
	var start int64
	if b.cfg.Compression == None {
		start = offset
	}
	src, err := l.source(ctx, p, start)
	if err != nil {
		return nil, err
	}
	if c.src, err = b.packing.compress(src); err != nil {
		return nil, err
	}
	c.left -= start
	if start == 0 {
		c.sum = sha256.New()
	}
	if start == offset {
		return c, nil
	}
	if err := b.chunks.discard(ctx, c, offset); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// source gives the uncompressed layer from an offset on.
func (l *layerBlob) source(ctx context.Context, p *plan, offset int64) (io.ReadCloser, error) {
	b, spec := l.image.b, l.image.spec
	if l.number < len(p.layers) {
		return openStream(ctx, b.cfg.StoreDir, spec.Form, p.layers[l.number], offset)
	}
	c, err := b.closure(ctx, spec)
	if err != nil {
		return nil, err
	}
	t, err := makeTop(b.cfg.StoreDir, spec, c)
	if err != nil {
		return nil, err
	}
	data := t.tar()
	return io.NopCloser(bytes.NewReader(data[min(offset, int64(len(data))):])), nil
}
