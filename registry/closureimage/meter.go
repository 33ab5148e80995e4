package closureimage

import (
	"bytes"
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

// drain reads to the end.
func (m *meter) drain(buf []byte) error {
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
