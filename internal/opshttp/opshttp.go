// Package opshttp serves what operators and kubelet's probes ask of the agent:
//
//	/healthz   200 while the process answers at all
//	/readyz    200 when Ready says so, else 503 with the reason
//	/metrics   the metrics, in the formats of Prometheus
//
// It has no other pages, reads no request bodies, and holds no state. A handler
// runs per request, concurrently; each has a limit in time, so that a slow or
// hostile client holds a connection, never the agent. Nothing remains after a crash.
package opshttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/closured/closured/internal/httpserve"
	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/internal/redact"
	"github.com/closured/closured/nixstore"
)

// The limits of one connection.
const (
	headerLimit   = 5 * time.Second  // for the header of a request
	readLimit     = 10 * time.Second // for a whole request
	writeLimit    = 30 * time.Second // for the answer, the metrics among them
	idleLimit     = 60 * time.Second // between two requests
	headerBytes   = 16 << 10         // of a request's header
	metricsAtOnce = 4                // scrapes at a time; each walks all collectors
)

// Config says what to serve.
type Config struct {
	// Address is where to listen, as host:port; required. Port 0 takes a free one.
	Address string
	// Ready gives the reason why the agent is not ready, or nil. It is called for
	// each request, concurrently, and must not block. nil: always ready.
	Ready func() error
	// Gatherer gives the metrics; nil: an empty page.
	Gatherer prometheus.Gatherer
	// Log tells of what goes wrong; nil: nobody hears.
	Log *slog.Logger
	// StopLimit bounds how long running requests are waited for at the end; 0: 5 s.
	StopLimit time.Duration
}

// Server is the HTTP server, made by Listen. It runs once.
type Server = httpserve.Server

// pages answers requests.
type pages struct {
	cfg    Config
	redact *redact.Redactor
}

// Listen checks cfg and opens its address, so that clients can connect from now
// on; they are answered once Run runs. A server that is never run must be closed.
func Listen(ctx context.Context, cfg Config) (*Server, error) {
	if _, _, err := net.SplitHostPort(cfg.Address); err != nil {
		return nil, nixstore.Fail(nixstore.ErrInvalid, "write it as host:port, such as 127.0.0.1:9858",
			"the HTTP address %s is malformed", nixstore.Quote(cfg.Address))
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Gatherer == nil {
		cfg.Gatherer = prometheus.NewRegistry()
	}
	if cfg.Ready == nil {
		cfg.Ready = func() error { return nil }
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("opening the HTTP address: %w", err)
	}
	p := &pages{cfg, redact.New()}
	return httpserve.New(httpserve.Config{
		Name: "HTTP", Listener: listener, StopLimit: cfg.StopLimit, Log: cfg.Log,
		HTTP: &http.Server{
			Handler:           p.handler(),
			ReadHeaderTimeout: headerLimit,
			ReadTimeout:       readLimit,
			WriteTimeout:      writeLimit,
			IdleTimeout:       idleLimit,
			MaxHeaderBytes:    headerBytes,
		},
	}), nil
}

func (p *pages) handler() http.Handler {
	mux := http.NewServeMux()
	metrics := promhttp.HandlerFor(p.cfg.Gatherer, promhttp.HandlerOpts{
		// One broken collector must not hide the others.
		ErrorHandling:       promhttp.ContinueOnError,
		ErrorLog:            slog.NewLogLogger(p.cfg.Log.Handler(), slog.LevelWarn),
		MaxRequestsInFlight: metricsAtOnce,
		EnableOpenMetrics:   true,
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { p.answer(w, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { p.answer(w, p.cfg.Ready()) })
	mux.Handle("GET /metrics", metrics)
	return mux
}

// answer says "ok", or 503 and why not.
func (p *pages) answer(w http.ResponseWriter, problem error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	text := "ok\n"
	if problem != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		text = "not ready: " + p.redact.Error(problem) + "\n"
	}
	if _, err := io.WriteString(w, text); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
		p.cfg.Log.Debug("a probe left before its answer", slog.String(logkey.Error, err.Error()))
	}
}
