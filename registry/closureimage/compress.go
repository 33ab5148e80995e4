package closureimage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Compression is how layers are compressed.
type Compression int

// The compressions of layers.
const (
	None Compression = iota // the default: on loopback, compressing costs more than it saves
	Gzip
	Zstd
)

// String gives the name that flags use: "none", "gzip", "zstd".
func (c Compression) String() string {
	switch c {
	case None:
		return "none"
	case Gzip:
		return "gzip"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("Compression(%d)", int(c))
}

// ParseCompression is the inverse of String; ok tells whether s is a name.
func ParseCompression(s string) (c Compression, ok bool) {
	for _, c := range []Compression{None, Gzip, Zstd} {
		if c.String() == s {
			return c, true
		}
	}
	return None, false
}

// MarshalText implements encoding.TextMarshaler, for flags.
func (c Compression) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler, for flags.
func (c *Compression) UnmarshalText(text []byte) error {
	parsed, ok := ParseCompression(string(text))
	if !ok {
		return errors.New("give none, gzip or zstd")
	}
	*c = parsed
	return nil
}

// The encoders' parameters are part of the bytes: see formatVersion.
const (
	gzipLevel  = 4
	zstdLevel  = zstd.SpeedFastest // each pull compresses anew
	zstdWindow = 512 << 10         // bounds the memory of many pulls at once
	// blockIn is how much goes into an encoder at once. It does not change the bytes.
	blockIn = 128 << 10
)

// encoder is what both compressors have.
type encoder interface {
	io.WriteCloser
	Reset(w io.Writer)
}

// newEncoder makes a compressor that works in its caller's goroutine: what comes out
// then depends on the bytes alone, and not on who is scheduled when.
func newEncoder(c Compression, w io.Writer) (encoder, error) {
	if c == Gzip {
		return gzip.NewWriterLevel(w, gzipLevel)
	}
	return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstdLevel),
		zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(true))
}

// compressors lend compressors, which have megabytes of tables each. A used one
// gives the same bytes as a new one.
type compressors struct {
	kind Compression
	pool sync.Pool
}

// compressed gives the compressed bytes of src while they are read.
type compressed struct {
	lent *compressors
	src  io.ReadCloser
	*compressor
	end bool
}

// compressor is what is worth to be used again.
type compressor struct {
	enc encoder
	out bytes.Buffer
	in  [blockIn]byte
}

func (c *compressors) get() (*compressor, error) {
	if old, ok := c.pool.Get().(*compressor); ok {
		return old, nil
	}
	var fresh compressor
	var err error
	fresh.enc, err = newEncoder(c.kind, &fresh.out)
	return &fresh, err
}

// compress wraps src. Without compression it gives src itself.
func (c *compressors) compress(src io.ReadCloser) (io.ReadCloser, error) {
	if c.kind == None {
		return src, nil
	}
	one, err := c.get()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making a compressor: %w", err), src.Close())
	}
	one.out.Reset()
	one.enc.Reset(&one.out)
	return &compressed{lent: c, src: src, compressor: one}, nil
}

// Read gives what the encoder has put out, and feeds it when that is nothing.
func (r *compressed) Read(p []byte) (int, error) {
	if r.compressor == nil {
		return 0, errClosed
	}
	for r.out.Len() == 0 {
		if r.end {
			return 0, io.EOF
		}
		if err := r.feed(); err != nil {
			return 0, err
		}
	}
	return r.out.Read(p)
}

func (r *compressed) feed() error {
	n, err := io.ReadFull(r.src, r.in[:])
	if _, werr := r.enc.Write(r.in[:n]); werr != nil {
		return fmt.Errorf("compressing: %w", werr)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		r.end = true
		err = r.enc.Close()
	}
	return err
}

// Close gives the compressor back and ends the source.
func (r *compressed) Close() error {
	if r.compressor != nil {
		r.lent.pool.Put(r.compressor)
		r.compressor = nil
	}
	return r.src.Close()
}
