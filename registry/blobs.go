package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage"
)

// chunkSize is how much of a blob is written at a time, in bytes.
const chunkSize = 256 << 10

// blob answers for a configuration or a layer.
func (r *Registry) blob(w *recorder, req *http.Request, n name, t route) error {
	c, b, err := r.findBlob(req.Context(), n, t)
	if err != nil {
		return err
	}
	defer c.release() // the pin stays until the last byte is sent
	h := w.Header()
	h.Set("Docker-Content-Digest", b.Digest())
	h.Set("Etag", strconv.Quote(b.Digest()))
	h.Set("Cache-Control", cacheForever)
	h.Set("Accept-Ranges", "bytes")
	if matches(req.Header.Values("If-None-Match"), b.Digest()) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	part := span{length: b.Size()}
	if wantsRange(req.Header, b.Digest()) {
		if part, err = parseRange(req.Header.Get("Range"), b.Size()); err != nil {
			h.Set("Content-Range", fmt.Sprintf("bytes */%d", b.Size()))
			return err
		}
	}
	h.Set("Content-Type", b.MediaType())
	h.Set("Content-Length", strconv.FormatInt(part.length, 10))
	status := http.StatusOK
	if part.partial {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.offset, part.offset+part.length-1, b.Size()))
	}
	if req.Method == http.MethodHead {
		w.WriteHeader(status)
		return nil
	}
	err = r.stream(w, req, b, part, status)
	if err != nil && !w.gone && req.Context().Err() == nil {
		// Its content or its registration is not what it was: look at it anew.
		r.shelf.drop(c.served)
	}
	return err
}

// findBlob gives the blob that n holds, and the claim that keeps it.
func (r *Registry) findBlob(ctx context.Context, n name, t route) (claim, closureimage.Blob, error) {
	c, err := r.holding(ctx, n, t, func(s *served) bool {
		_, ok := s.blob(t.reference)
		return ok
	})
	if errors.Is(err, nixstore.ErrNotFound) {
		err = withCode(codeBlobUnknown, err)
	}
	if err != nil {
		return claim{}, nil, err
	}
	b, _ := c.blob(t.reference)
	return c, b, nil
}

// stream sends a part of a blob. The header goes out with the first bytes, so
// that a blob that cannot be opened is still an error of the protocol.
func (r *Registry) stream(w *recorder, req *http.Request, b closureimage.Blob, part span, status int) error {
	limited, cancel := context.WithTimeout(req.Context(), r.cfg.Hold)
	done, err := r.limits.stream(limited)
	cancel()
	if err != nil {
		return err
	}
	defer done()
	body, err := b.Open(req.Context(), part.offset)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // it was read
	return r.copy(w, body, part, status)
}

// copy sends a part of what body gives. A blob that turns out not to have its
// digest fails before its last bytes, so that no client takes it for whole. Each
// piece gives the client a new term.
func (r *Registry) copy(w *recorder, body io.Reader, part span, status int) error {
	piece := r.buffer()
	defer r.buffers.Put(piece)
	for left := part.length; left > 0; {
		n := int(min(chunkSize, left))
		if _, err := io.ReadFull(body, piece[:n]); err != nil {
			return fmt.Errorf("reading a blob: %w", err)
		}
		w.extend(r.cfg.Stall)
		if !w.begun {
			w.WriteHeader(status)
		}
		if _, err := w.Write(piece[:n]); err != nil {
			w.gone = true
			return fmt.Errorf("sending a blob: %w", err)
		}
		left -= int64(n)
	}
	return nil
}

func (r *Registry) buffer() *[chunkSize]byte {
	if b, ok := r.buffers.Get().(*[chunkSize]byte); ok {
		return b
	}
	return new([chunkSize]byte)
}
