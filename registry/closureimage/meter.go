package closureimage

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
)

// meter measures and hashes what is read through it.
type meter struct {
	src  io.ReadCloser
	sum  hash.Hash
	size int64
}

// Read reads on.
func (m *meter) Read(p []byte) (int, error) {
	n, err := m.src.Read(p)
	m.sum.Write(p[:n])
	m.size += int64(n)
	return n, err
}

// Close closes the source.
func (m *meter) Close() error { return m.src.Close() }

// drain reads to the end, in the source's own buffers when it has some.
func (m *meter) drain(buf []byte) error {
	if src, ok := m.src.(io.WriterTo); ok {
		n, err := src.WriteTo(m.sum)
		m.size += n
		return err
	}
	for {
		_, err := m.Read(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (m *meter) record() record { return record{digest(m.sum.Sum(nil)), m.size} }

// bytesSource reads bytes.
func bytesSource(data []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(data)) }

// digestOf reads a layer of about size bytes to its end, and closes it.
func (b *Builder) digestOf(src io.ReadCloser, size int64) (layer, error) {
	large := size >= aheadFrom && b.cfg.Workers > 1
	if b.cfg.Compression == None {
		if large {
			src = readAhead(src, &b.chunks)
		}
		r, err := b.measure(src)
		return layer{r, r}, err
	}
	plain := &meter{src: src, sum: sha256.New()}
	src = plain
	if large {
		src = readAhead(src, &b.chunks)
	}
	out, err := b.packing.compress(src)
	if err != nil {
		return layer{}, err
	}
	blob, err := b.measure(out)
	return layer{plain.record(), blob}, err
}

// measure reads src to its end, and closes it.
func (b *Builder) measure(src io.ReadCloser) (record, error) {
	m := &meter{src: src, sum: sha256.New()}
	buf := b.chunks.get()
	defer b.chunks.put(buf)
	err := m.drain(*buf)
	return m.record(), errors.Join(err, m.Close())
}
