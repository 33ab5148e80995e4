package registry_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry"
)

func TestTheRegistryListensOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	handler := http.NotFoundHandler()
	for _, address := range []string{
		"", ":5858", "0.0.0.0:0", "[::]:0", "*:5858", "192.0.2.1:0", "[2001:db8::1]:0", "[::ffff:192.0.2.1]:0",
		"example.org:5858", "127.0.0.1", "127.1:0", "nix.internal:0", "localhost:0", "localhost.example.org:0",
	} {
		s, err := registry.Listen(t.Context(), registry.ServerConfig{Address: address, Handler: handler})
		wantKind(t, err, nixstore.ErrInvalid)
		if s != nil {
			t.Errorf("it listens on %q", address)
		}
	}
	for _, address := range []string{"127.0.0.1:0", "127.8.9.10:0"} {
		s, err := registry.Listen(t.Context(), registry.ServerConfig{Address: address, Handler: handler})
		if err != nil {
			t.Errorf("%q: %v", address, err)
			continue
		}
		if err := s.Close(); err != nil {
			t.Errorf("closing %q: %v", address, err)
		}
	}
	if _, err := registry.Listen(t.Context(), registry.ServerConfig{Address: "127.0.0.1:0"}); err == nil {
		t.Error("it listens without a handler")
	}
}

func wantKind(t *testing.T, err, kind error) {
	t.Helper()
	var f *nixstore.Failure
	if !errors.Is(err, kind) || !errors.As(err, &f) {
		t.Errorf("the error is %v, want a failure of kind %q", err, kind)
	}
}

// listen runs a server of h.
func listen(t *testing.T, h http.Handler) (address string, stop func() error) {
	t.Helper()
	s, err := registry.Listen(t.Context(), registry.ServerConfig{Address: "127.0.0.1:0", Handler: h, StopLimit: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return s.Addr().String(), stop
}

func TestTheServerAnswersPullsAndStops(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.define(t, "redis")
	address, stop := listen(t, r.registry.Handler())
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/v2/pkgs/redis/manifests/latest", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Error(err)
	}
	_ = resp.Body.Close()
	if err := stop(); err != nil {
		t.Errorf("stopping: %v", err)
	}
	if _, err := client.Do(req); err == nil { //nolint:bodyclose // there is none
		t.Error("it answers after its end")
	}
}

func TestTheServerCutsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	address, stop := listen(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		close(entered)
		<-req.Context().Done() // its connection is closed
		w.WriteHeader(http.StatusOK)
	}))
	conn := dial(t, address)
	send(t, conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	if err := stop(); err != nil {
		t.Errorf("stopping: %v", err)
	}
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

func TestFault50EndlessHeadersAndBodies(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	address, _ := listen(t, r.registry.Handler())
	for name, c := range map[string]struct {
		text   string
		status int
	}{
		"a header that is too long": {"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 32<<10) + "\r\n\r\n", 431},
		"a path that is too long":   {"GET /v2/" + strings.Repeat("a/", 16<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431},
		"no HTTP":                   {"hello\r\n\r\n", 400},
		"a body that does not come": {"PUT /v2/a/manifests/b HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", 405},
		"a body without an end":     {"GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 200},
	} {
		conn := dial(t, address)
		send(t, conn, c.text)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if resp.StatusCode != c.status {
			t.Errorf("%s gave %s", name, resp.Status)
		}
		_ = resp.Body.Close()
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: the connection stays open: %v", name, err)
		}
	}
	conn := dial(t, address)
	send(t, conn, fmt.Sprintf("GET /v2/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "%zz"))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Fatalf("a path that is no URL gave %v, %v", resp, err)
	}
	_ = resp.Body.Close()
}
