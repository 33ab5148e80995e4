package nixdaemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/closured/closured/nixstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listen gives the socket of a "daemon" that is serve.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return socket
}

func TestGreetRefusesWhatIsNoDaemon(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(net.Conn){
		"one that closes":          func(net.Conn) {},
		"one that talks otherwise": func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) },
		"one too old":              func(c net.Conn) { _ = writeWords(c, magicDaemon, 1<<8|20); _, _ = io.Copy(io.Discard, c) },
		"one of the next major":    func(c net.Conn) { _ = writeWords(c, magicDaemon, 2<<8|1); _, _ = io.Copy(io.Discard, c) },
		"one with a huge version": func(c net.Conn) {
			_ = writeWords(c, magicDaemon, protoOldest, 1<<40)
			_, _ = io.Copy(io.Discard, c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Greet(t.Context(), listen(t, serve))
			if !errors.Is(err, nixstore.ErrUnavailable) {
				t.Errorf("Greet gave %v, want ErrUnavailable", err)
			}
		})
	}
}

func TestGreetEndsWithItsContext(t *testing.T) {
	t.Parallel()
	socket := listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }) // takes all, says nothing
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := Greet(ctx, socket); !errors.Is(err, context.Canceled) {
		t.Errorf("Greet gave %v, want that it was cancelled", err)
	}
}

// pipe is a daemon that has said everything already.
type pipe struct{ io.Reader }

func (pipe) Write(p []byte) (int, error) { return len(p), nil }

func FuzzHandshake(f *testing.F) {
	var good bytes.Buffer
	_ = writeWords(&good, magicDaemon, protoNewest, 5)
	good.WriteString("2.8.0\x00\x00\x00")
	_ = writeWords(&good, 1, stderrLast)
	f.Add(good.Bytes())
	f.Add([]byte("HTTP/1.1 400"))
	f.Fuzz(func(t *testing.T, data []byte) {
		version, err := handshake(pipe{bytes.NewReader(data)})
		if err == nil && len(version) > versionMax {
			t.Errorf("took the version %q", version)
		}
	})
}

func TestHandshakeTellsTheVersion(t *testing.T) {
	t.Parallel()
	for minor, more := range map[uint64][]uint64{34: {stderrLast}, 35: {1, stderrLast}, 38: {1, stderrLast}} {
		var said bytes.Buffer
		_ = writeWords(&said, magicDaemon, 1<<8|minor, 6)
		said.WriteString("2.34.8\x00\x00")
		_ = writeWords(&said, more...)
		version, err := handshake(pipe{&said})
		if version != "2.34.8" || err != nil {
			t.Errorf("protocol 1.%d: %q, %v", minor, version, err)
		}
	}
}
