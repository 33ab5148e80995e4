package nixcli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/closured/closured/nixstore"
)

// bare is a store that only runs programs.
func bare(t *testing.T) *Store {
	t.Helper()
	return &Store{cfg: Config{StateDir: t.TempDir()}, log: slog.New(slog.DiscardHandler)}
}

func TestFault16ChildThatKeepsItsPipeOpen(t *testing.T) {
	t.Parallel()
	var lines []string
	// The child leaves the group, so that it outlives its parent and the pipe stays open.
	res, err := bare(t).run(t.Context(), command{
		program: "/bin/sh", args: []string{"-c", "setsid sleep 20 & echo out; echo err >&2"},
		env: []string{"PATH=/usr/bin:/bin"}, onLine: func(l []byte) { lines = append(lines, string(l)) },
	})
	if err != nil || res.exit != 0 || string(res.stdout) != "out\n" || strings.Join(lines, "") != "err" {
		t.Errorf("run gave %q, %d, %v, lines %q", res.stdout, res.exit, err, lines)
	}
}

func TestRunEndsTheGroupWithItsContext(t *testing.T) {
	t.Parallel()
	why := errors.New("nobody waits")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
	_, err := bare(t).run(ctx, command{program: "/bin/sh", args: []string{"-c", "sleep 600 | sleep 600"}})
	if !errors.Is(err, why) {
		t.Errorf("run gave %v, want the cause", err)
	}
}

func TestRunGivesTheExitCode(t *testing.T) {
	t.Parallel()
	res, err := bare(t).run(t.Context(), command{program: "/bin/sh", args: []string{"-c", "exit 100"}})
	if err != nil || res.exit != 100 {
		t.Errorf("run gave %d, %v, want 100", res.exit, err)
	}
	if _, err := bare(t).run(t.Context(), command{program: "/nonexistent"}); err == nil {
		t.Error("a program that is not there ran")
	}
}

func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	longest := 0
	w := &lineWriter{emit: func(l []byte) { longest = max(longest, len(l)) }}
	for range 10 {
		_, _ = w.Write(bytes.Repeat([]byte("x"), lineMax))
	}
	w.flush()
	b := &boundedBuffer{max: 10}
	for range 10 {
		_, _ = b.Write([]byte("1234567"))
	}
	if longest != lineMax || b.buf.Len() != 10 {
		t.Errorf("kept a line of %d and a buffer of %d bytes", longest, b.buf.Len())
	}
	var last tail
	for range 3 * logLines {
		last.add("l")
	}
	if len(last.lines) != logLines {
		t.Errorf("kept %d lines", len(last.lines))
	}
}

// listen gives a store whose "daemon" is serve.
func listen(t *testing.T, serve func(net.Conn)) *Store {
	t.Helper()
	s := bare(t)
	s.cfg.DaemonSocket = filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", s.cfg.DaemonSocket)
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
	return s
}

func TestHealthyRefusesWhatIsNoDaemon(t *testing.T) {
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
			err := listen(t, serve).Healthy(t.Context())
			if !errors.Is(err, nixstore.ErrUnavailable) {
				t.Errorf("Healthy gave %v, want ErrUnavailable", err)
			}
		})
	}
}

func TestHealthyEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }) // takes all, says nothing
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := s.Healthy(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Healthy gave %v, want that it was cancelled", err)
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

func TestSupportedVersions(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"2.8.0": true, "2.7.9": false, "1.11": false, "2.34.8": true, "2.92.0-lix": true, "3.0": true, "2.18pre1": true, "odd": true,
	} {
		if got := supported(version); got != want {
			t.Errorf("supported(%q) = %t, want %t", version, got, want)
		}
	}
}

func TestHashesBecomeSRI(t *testing.T) {
	t.Parallel()
	got, err := sri("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	if want := "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="; got != want || err != nil {
		t.Errorf("sri gave %s, %v, want %s", got, err, want)
	}
	for _, bad := range []string{"", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:zz", "sha256-47DEQ"} {
		if _, err := sri(bad); !errors.Is(err, nixstore.ErrCorrupt) {
			t.Errorf("sri(%q) gave %v, want ErrCorrupt", bad, err)
		}
	}
}

func TestBuildGroupNeedsMembers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"root:x:0:\nnixbld:x:30000:nixbld1,nixbld2\n": "nixbld",
		"nixbld:x:30000:\n":                           "",
		"users:x:100:nixbld\n":                        "",
	} {
		file := filepath.Join(t.TempDir(), "group")
		writeTestFile(t, file, text)
		if got, err := buildGroup(file); got != want || err != nil {
			t.Errorf("of %q: %q, %v, want %q", text, got, err, want)
		}
	}
	if got, err := buildGroup("/nonexistent"); got != "" || err != nil {
		t.Errorf("without the file: %q, %v", got, err)
	}
}

func TestMergeExpressionIsSortedByTheCaller(t *testing.T) {
	t.Parallel()
	expr := mergeExpr([]nixstore.StorePath{nixstore.MustParseStorePath(aPath), nixstore.MustParseStorePath(aDep)})
	if !strings.Contains(expr, `[ "`+aPath+`" "`+aDep+`" ]`) {
		t.Errorf("the expression lacks the list of roots:\n%s", expr)
	}
}

func writeTestFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
