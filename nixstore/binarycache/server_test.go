package binarycache_test

import (
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
