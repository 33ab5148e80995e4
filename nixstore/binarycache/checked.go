package binarycache

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/closured/closured/nixstore"
)

// bufferSize is that of a stream's buffer, in bytes.
const bufferSize = 256 << 10

// errOutput: the reader of a stream is gone or too slow.
var errOutput = errors.New("writing to the reader")

// checked passes bytes on while it computes their hash, and holds the last ones
// back until the hash is known to be the expected one. What is wrong therefore
// never has its whole length, and what fits into the buffer is never begun.
type checked struct {
	out  io.Writer
	want described
	buf  []byte
	n    int // bytes in buf
	sum  hash.Hash
	sent int64 // bytes given to out
}

func newChecked(out io.Writer, want described, buf []byte) *checked {
	return &checked{out: out, want: want, buf: buf, sum: sha256.New()}
}

// space gives free space of the buffer, at least one byte; fill says how much of it
// was used.
func (c *checked) space() ([]byte, error) {
	if c.n == len(c.buf) { // not before: the end must stay here
		if err := c.flush(); err != nil {
			return nil, err
		}
	}
	return c.buf[c.n:], nil
}

func (c *checked) fill(n int) { c.n += n }

func (c *checked) write(s string) error {
	for len(s) > 0 {
		space, err := c.space()
		if err != nil {
			return err
		}
		n := copy(space, s)
		c.fill(n)
		s = s[n:]
	}
	return nil
}

// finish compares the hash, and only then gives the rest.
func (c *checked) finish() error {
	if total := c.sent + int64(c.n); total != c.want.NarSize {
		return c.mismatch(total)
	}
	c.sum.Write(c.buf[:c.n])
	if [sha256.Size]byte(c.sum.Sum(nil)) != c.want.sum {
		return c.mismatch(c.want.NarSize)
	}
	return c.pass()
}

// flush passes the buffer on; there is more to come.
func (c *checked) flush() error {
	if total := c.sent + int64(c.n); total >= c.want.NarSize {
		return c.mismatch(total)
	}
	c.sum.Write(c.buf[:c.n])
	return c.pass()
}

func (c *checked) pass() error {
	n, err := c.out.Write(c.buf[:c.n])
	c.sent += int64(n)
	c.n = 0
	if err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}

func (c *checked) mismatch(size int64) error {
	what := "another hash"
	if size != c.want.NarSize {
		what = fmt.Sprintf("another size (%d bytes or more as a NAR, not %d)", size, c.want.NarSize)
	}
	return nixstore.Fail(nixstore.ErrCorrupt, "repair the node's store (nix-store --verify --check-contents --repair)",
		"%s has %s than the store's database says", c.want.Path, what)
}
