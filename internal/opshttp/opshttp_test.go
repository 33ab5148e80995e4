package opshttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/closured/closured/internal/opshttp"
	"github.com/closured/closured/nixstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a server until the test ends, and gives its address and a function
// that ends it and gives Run's error.
func start(t *testing.T, cfg opshttp.Config) (string, func() error) {
	t.Helper()
	cfg.Address = "127.0.0.1:0"
	s, err := opshttp.Listen(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	ended := false
	stop := func() error {
		cancel()
		ended = true
		return <-done
	}
	t.Cleanup(func() {
		if !ended {
			if err := stop(); err != nil {
				t.Errorf("Run: %v", err)
			}
		}
	})
	return "http://" + s.Addr().String(), stop
}

func do(t *testing.T, method, url string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestPages(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "closured_test"}, func() float64 { return 7 }))
	base, _ := start(t, opshttp.Config{Gatherer: reg})
	tests := map[string]struct {
		method, path string
		code         int
		body         string
	}{
		"health":                 {"GET", "/healthz", 200, "ok\n"},
		"readiness":              {"GET", "/readyz", 200, "ok\n"},
		"health without a body":  {"HEAD", "/healthz", 200, ""},
		"metrics":                {"GET", "/metrics", 200, "closured_test 7"},
		"another page":           {"GET", "/", 404, ""},
		"profiling":              {"GET", "/debug/pprof/", 404, ""},
		"a page below a page":    {"GET", "/healthz/x", 404, ""},
		"writing":                {"POST", "/healthz", 405, ""},
		"deleting":               {"DELETE", "/metrics", 405, ""},
		"a path out of the tree": {"GET", "/metrics/../../etc/passwd", 404, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, body := do(t, test.method, base+test.path)
			if code != test.code || !strings.Contains(body, test.body) {
				t.Errorf("%s %s gives %d %q, want %d with %q", test.method, test.path, code, body, test.code, test.body)
			}
		})
	}
}

func TestReadinessFollowsItsFunction(t *testing.T) {
	t.Parallel()
	var ready atomic.Bool
	base, _ := start(t, opshttp.Config{Ready: func() error {
		if ready.Load() {
			return nil
		}
		return errors.New("kubelet refuses https://bob:hunter2@x")
	}})
	code, body := do(t, "GET", base+"/readyz")
	if code != 503 || !strings.Contains(body, "kubelet refuses") {
		t.Errorf("not ready gives %d %q", code, body)
	}
	if strings.Contains(body, "hunter2") {
		t.Errorf("the page tells a password: %q", body)
	}
	if code, _ := do(t, "GET", base+"/healthz"); code != 200 {
		t.Errorf("an agent that is not ready must still be alive, got %d", code)
	}
	ready.Store(true)
	if code, body := do(t, "GET", base+"/readyz"); code != 200 {
		t.Errorf("ready gives %d %q", code, body)
	}
}

func TestOneBrokenCollectorDoesNotHideTheOthers(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	reg.MustRegister(broken{}, prometheus.NewGauge(prometheus.GaugeOpts{Name: "closured_sound"}))
	base, _ := start(t, opshttp.Config{Gatherer: reg})
	if code, body := do(t, "GET", base+"/metrics"); code != 200 || !strings.Contains(body, "closured_sound 0") {
		t.Errorf("metrics beside a broken collector: %d %q", code, body)
	}
}

// broken is a collector whose only metric is an error.
type broken struct{}

func (broken) desc() *prometheus.Desc { return prometheus.NewDesc("closured_broken", "x", nil, nil) }

func (b broken) Describe(ch chan<- *prometheus.Desc) { ch <- b.desc() }

func (b broken) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(b.desc(), errors.New("broken"))
}

func TestListenRefusesABadAddress(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "localhost", "a:b:c"} {
		_, err := opshttp.Listen(t.Context(), opshttp.Config{Address: address})
		if !errors.Is(err, nixstore.ErrInvalid) {
			t.Errorf("Listen(%q): %v, want ErrInvalid", address, err)
		}
	}
	base, _ := start(t, opshttp.Config{})
	_, err := opshttp.Listen(t.Context(), opshttp.Config{Address: strings.TrimPrefix(base, "http://")})
	if err == nil {
		t.Error("an address in use was given twice")
	}
}

func TestRunEndsBesideAClientThatSaysNothing(t *testing.T) {
	t.Parallel()
	base, stop := start(t, opshttp.Config{StopLimit: 50 * time.Millisecond})
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n"); err != nil { // no end of the header
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestCloseGivesTheAddressFree(t *testing.T) {
	t.Parallel()
	s, err := opshttp.Listen(t.Context(), opshttp.Config{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("a closed server ran")
	}
}

func ExampleListen() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := opshttp.Listen(ctx, opshttp.Config{Address: "127.0.0.1:0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	cancel() // Run would serve until here
	fmt.Println(s.Run(ctx))
	// Output: <nil>
}
