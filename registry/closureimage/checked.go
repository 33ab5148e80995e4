package closureimage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/closured/closured/nixstore"
)

// chunkSize is how much is read, hashed and given at once: it fits in the caches of
// a core, and makes system calls rare.
const chunkSize = 256 << 10

// chunks lends buffers of chunkSize bytes.
type chunks struct{ pool sync.Pool }

func (c *chunks) get() *[]byte {
	if b, ok := c.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, chunkSize)
	return &b
}

func (c *chunks) put(b *[]byte) { c.pool.Put(b) }

// checked passes a blob on and makes sure of what it passes: no byte more than was
// promised, none less, and the last of them only when all have the digest. So a
// client that counts bytes sees a broken body, and never a whole one that is wrong.
type checked struct {
	src   io.ReadCloser
	sum   hash.Hash // nil: the beginning was left out, only the length is checked
	want  digest
	left  int64
	what  string
	bad   func() // told once when the bytes are wrong
	bytes *chunks
	err   error // what every further Read gives
}

// Read passes bytes on.
func (c *checked) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.src.Read(p[:min(int64(len(p)), c.left)])
	if c.sum != nil {
		c.sum.Write(p[:n])
	}
	if c.left -= int64(n); c.left == 0 {
		err = c.finish()
	} else if errors.Is(err, io.EOF) {
		err = c.wrong("it is shorter than it was")
	}
	if err != nil && !errors.Is(err, io.EOF) {
		c.fail(err)
		return 0, c.err
	}
	c.err = err
	return n, err
}

// finish judges the whole. It gives io.EOF when all is well.
func (c *checked) finish() error {
	var more [1]byte
	n, err := io.ReadFull(c.src, more[:])
	if n > 0 {
		return c.wrong("it is longer than it was")
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	if c.sum != nil && digest(c.sum.Sum(nil)) != c.want {
		return c.wrong("its digest is another one")
	}
	return io.EOF
}

func (c *checked) wrong(how string) error {
	return nixstore.Fail(nixstore.ErrCorrupt, "pull the image again; repair the node's store when that does not help",
		"%s changed since its digest was computed: %s", c.what, how)
}

// fail remembers the error, and reports damage.
func (c *checked) fail(err error) {
	c.err = err
	if errors.Is(err, nixstore.ErrCorrupt) && c.bad != nil {
		c.bad()
		c.bad = nil
	}
}

// WriteTo lets io.Copy use buffers of a good size that are lent, not made.
func (c *checked) WriteTo(w io.Writer) (int64, error) {
	buf := c.bytes.get()
	defer c.bytes.put(buf)
	var total int64
	for {
		n, err := c.Read(*buf)
		if n > 0 {
			m, werr := w.Write((*buf)[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// Close ends the source.
func (c *checked) Close() error {
	if c.err == nil {
		c.err = errClosed
	}
	return c.src.Close()
}

var errClosed = errors.New("the blob is closed")

// discard reads n bytes of r and drops them.
func (c *chunks) discard(ctx context.Context, r io.Reader, n int64) error {
	buf := c.get()
	defer c.put(buf)
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		m, err := r.Read((*buf)[:min(n, int64(len(*buf)))])
		n -= int64(m)
		if err != nil && (n > 0 || !errors.Is(err, io.EOF)) {
			return fmt.Errorf("passing by the beginning of a blob: %w", err)
		}
	}
	return nil
}

// record is what is known of a blob or of a layer without its compression.
type record struct {
	sum  digest
	size int64
}

// describe gives the record of bytes.
func describe(data []byte) record { return record{sha256.Sum256(data), int64(len(data))} }
