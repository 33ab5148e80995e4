package httpserve_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/closured/closured/internal/httpserve"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server makes one of a handler, on a free address, with limits for nothing but the
// header.
func server(t *testing.T, handler http.HandlerFunc, cfg httpserve.Config) *httpserve.Server {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Name, cfg.Listener = "a test", l
	cfg.HTTP = &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	s := httpserve.New(cfg)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// run runs s until the returned function is called, which gives Run's error.
func run(t *testing.T, s *httpserve.Server) func() error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return func() error {
		cancel()
		return <-ended
	}
}

// ask sends one request over a connection of its own, and gives its status.
func ask(ctx context.Context, s *httpserve.Server) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Addr().String(), http.NoBody)
	if err != nil {
		return 0, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, err
}

func TestItServesUntilItsContextEnds(t *testing.T) {
	t.Parallel()
	s := server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }, httpserve.Config{})
	stop := run(t, s)
	if code, err := ask(t.Context(), s); err != nil || code != http.StatusTeapot {
		t.Errorf("the answer is %d, %v", code, err)
	}
	if err := stop(); err != nil {
		t.Errorf("Run gives %v", err)
	}
	if _, err := ask(t.Context(), s); err == nil {
		t.Error("it answers after its end")
	}
}

func TestRequestsThatRunMayEnd(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	s := server(t, func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-leave
		w.WriteHeader(http.StatusTeapot)
	}, httpserve.Config{StopLimit: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	type answer struct {
		code int
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		code, err := ask(t.Context(), s)
		answered <- answer{code, err}
	}()
	<-entered
	cancel()
	close(leave)
	if a := <-answered; a.err != nil || a.code != http.StatusTeapot {
		t.Errorf("the request that ran got %d, %v", a.code, a.err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run gives %v", err)
	}
}

func TestRequestsThatDoNotEndAreCut(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	s := server(t, func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	}, httpserve.Config{StopLimit: time.Millisecond})
	stop := run(t, s)
	answered := make(chan error, 1)
	go func() {
		_, err := ask(t.Context(), s)
		answered <- err
	}()
	<-entered
	if err := stop(); err != nil {
		t.Fatalf("Run gives %v", err)
	}
	if err := <-answered; err == nil {
		t.Error("a request that was cut got an answer")
	}
}

func TestAServerThatNeverRanGivesItsAddressFree(t *testing.T) {
	t.Parallel()
	s := server(t, http.NotFound, httpserve.Config{})
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	}
	if conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Addr().String()); err == nil {
		_ = conn.Close()
		t.Error("its address still takes connections")
	}
	err := s.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "a test") || !strings.Contains(err.Error(), s.Addr().String()) {
		t.Errorf("running a closed server gives %v", err)
	}
}

func TestTroubleOfConnectionsIsLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer // the handler locks it, and Run's end comes after all requests
	s := server(t, func(http.ResponseWriter, *http.Request) { panic("a bug") },
		httpserve.Config{Log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	stop := run(t, s)
	if code, err := ask(t.Context(), s); err == nil {
		t.Errorf("a handler that panics gave %d", code)
	}
	if err := stop(); err != nil {
		t.Errorf("Run gives %v", err)
	}
	if text := log.String(); !strings.Contains(text, "a bug") || !strings.Contains(text, `"level":"DEBUG"`) {
		t.Errorf("the log is %s", text)
	}
}

func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	s := httpserve.New(httpserve.Config{
		Name: "nothing", Listener: listener,
		HTTP: &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: 5 * time.Second},
	})
	cancel() // Run would serve until here
	fmt.Println(s.Run(ctx))
	// Output: <nil>
}
