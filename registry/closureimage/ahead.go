package closureimage

import (
	"errors"
	"io"
)

// aheadFrom is the size of a layer, in bytes, from which on it is worth a second
// goroutine: the largest layers are what everybody waits for at the end.
const aheadFrom = 16 << 20

// aheadChunks is how many buffers may be full before the reader is waited for.
const aheadChunks = 2

// ahead reads its source in a goroutine of its own, so that a large layer is hashed
// or compressed while its next bytes are read. Close ends the goroutine and waits for it.
type ahead struct {
	src    io.ReadCloser
	lend   *chunks
	full   chan piece
	stop   chan struct{}
	ended  chan struct{}
	now    piece // being given
	given  int   // bytes of it
	closed bool
}

// piece is what one reading gave.
type piece struct {
	buf *[]byte
	n   int
	err error
}

func readAhead(src io.ReadCloser, lend *chunks) *ahead {
	a := &ahead{
		src: src, lend: lend, full: make(chan piece, aheadChunks),
		stop: make(chan struct{}), ended: make(chan struct{}),
	}
	go a.run()
	return a
}

func (a *ahead) run() {
	defer close(a.ended)
	for {
		p := piece{buf: a.lend.get()}
		p.n, p.err = a.src.Read(*p.buf)
		select {
		case a.full <- p:
		case <-a.stop:
			a.lend.put(p.buf)
			return
		}
		if p.err != nil {
			return
		}
	}
}

// Read gives what was read.
func (a *ahead) Read(p []byte) (int, error) {
	if a.closed {
		return 0, errClosed
	}
	for a.given == a.now.n {
		if a.now.err != nil {
			return 0, a.now.err
		}
		a.release()
		a.now, a.given = <-a.full, 0
	}
	n := copy(p, (*a.now.buf)[a.given:a.now.n])
	a.given += n
	return n, nil
}

// WriteTo gives the buffers themselves.
func (a *ahead) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for !a.closed {
		n, err := w.Write(a.rest())
		a.given += n
		total += int64(n)
		if err != nil {
			return total, err
		}
		if errors.Is(a.now.err, io.EOF) {
			return total, nil
		}
		if a.now.err != nil {
			return total, a.now.err
		}
		a.release()
		a.now, a.given = <-a.full, 0
	}
	return total, errClosed
}

// rest is what is there and was not given.
func (a *ahead) rest() []byte {
	if a.now.buf == nil {
		return nil
	}
	return (*a.now.buf)[a.given:a.now.n]
}

func (a *ahead) release() {
	if a.now.buf != nil {
		a.lend.put(a.now.buf)
	}
	a.now = piece{}
}

// Close ends the reading.
func (a *ahead) Close() error {
	if a.closed {
		return nil
	}
	a.closed = true
	close(a.stop)
	<-a.ended
	a.release()
	for len(a.full) > 0 {
		a.lend.put((<-a.full).buf)
	}
	return a.src.Close()
}
