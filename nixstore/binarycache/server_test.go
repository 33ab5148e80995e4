package binarycache_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/binarycache"
)

// eventuallyTrue waits up to a minute for a thing to become true.
func eventuallyTrue(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not within a minute: %s", what)
		}
	}
}

func TestAServerAnswersAndEnds(t *testing.T) {
	t.Parallel()
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	server, err := binarycache.Listen(t.Context(), binarycache.ServerConfig{Address: "127.0.0.1:0", Handler: handler})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	resp, err := http.Get("http://" + server.Addr().String())
	if err != nil || resp.StatusCode != http.StatusTeapot {
		t.Errorf("%v, %v", resp, err)
	} else {
		_ = resp.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	if conn, err := net.Dial("tcp", server.Addr().String()); err == nil {
		_ = conn.Close()
		t.Error("it listens after its end")
	}
}

func TestAServerCutsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{})
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
	})
	server, err := binarycache.Listen(t.Context(), binarycache.ServerConfig{
		Address: "127.0.0.1:0", Handler: handler, StopLimit: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	answered := make(chan error, 1)
	go func() {
		resp, err := http.Get("http://" + server.Addr().String())
		if err == nil {
			_ = resp.Body.Close()
		}
		answered <- err
	}()
	<-begun
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	if err := <-answered; err == nil {
		t.Error("a request that was cut got an answer")
	}
}

func TestListenChecksItsConfig(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]binarycache.ServerConfig{
		"no port":      {Address: "127.0.0.1", Handler: http.NotFoundHandler()},
		"nothing":      {},
		"no handler":   {Address: "127.0.0.1:0"},
		"a bad number": {Address: "127.0.0.1:0", Handler: http.NotFoundHandler(), Connections: -1},
	} {
		if _, err := binarycache.Listen(t.Context(), cfg); !errors.Is(err, nixstore.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	server, err := binarycache.Listen(t.Context(), binarycache.ServerConfig{Address: "127.0.0.1:0", Handler: http.NotFoundHandler()})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}

// dialFrom opens a connection from a local address.
func dialFrom(t *testing.T, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // it may be closed already
	return conn
}

// request sends one, and gives the status of its answer, or why there is none.
func request(conn net.Conn) (status int, err error) {
	if _, err := conn.Write([]byte("GET /nix-cache-info HTTP/1.1\r\nHost: here\r\n\r\n")); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

func TestOneAddressCannotTakeAllConnections(t *testing.T) {
	t.Parallel()
	server, err := binarycache.Listen(t.Context(), binarycache.ServerConfig{
		Address: "127.0.0.1:0", Connections: 8,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	at := server.Addr().String()
	var held []net.Conn
	for range 4 {
		conn := dialFrom(t, "127.0.0.2", at)
		if status, err := request(conn); status != http.StatusNoContent {
			t.Fatalf("within its share it gets %d, %v", status, err)
		}
		held = append(held, conn)
	}
	if status, err := request(dialFrom(t, "127.0.0.2", at)); err == nil {
		t.Errorf("beyond its share it gets %d", status)
	}
	if status, err := request(dialFrom(t, "127.0.0.3", at)); status != http.StatusNoContent {
		t.Errorf("somebody else gets %d, %v", status, err)
	}
	_ = held[0].Close() // the server notices when it reads
	eventuallyTrue(t, "what is given back can be taken again", func() bool {
		status, _ := request(dialFrom(t, "127.0.0.2", at))
		return status == http.StatusNoContent
	})
}
