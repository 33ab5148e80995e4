// Package httpserve runs an HTTP server on an open listener until a context ends,
// and then ends it in bounded time. The servers of the project differ in what they
// answer, whom they let in and how long they wait for it; they start and stop alike.
//
// It sets no limits of connections: these are fields of the http.Server that each
// of its users makes, and what each lets in by Admit. Nothing remains after a crash.
package httpserve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// defaultStopLimit is how long requests may go on after the server was told to stop.
const defaultStopLimit = 5 * time.Second

// Config says what to serve. Name, Listener and HTTP are required.
type Config struct {
	// Name tells people what is served, such as "the binary cache".
	Name string
	// Listener gives the connections. The server closes it.
	Listener net.Listener
	// HTTP has the handler and the limits of a connection. Nobody else may use it.
	HTTP *http.Server
	// StopLimit bounds how long running requests are waited for at the end. 0: 5 s.
	StopLimit time.Duration
	// Log gets what goes wrong with connections (debug). nil: discarded.
	Log *slog.Logger
}

// Server serves one listener. It runs once; one that is never run must be closed.
// Addr and Close may be called concurrently with Run.
type Server struct{ cfg Config }

// New makes a server. Clients that connect to the listener are answered once Run runs.
func New(cfg Config) *Server {
	if cfg.StopLimit == 0 {
		cfg.StopLimit = defaultStopLimit
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.HTTP.ErrorLog = slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug)
	return &Server{cfg}
}

// Addr gives the address that is listened on.
func (s *Server) Addr() net.Addr { return s.cfg.Listener.Addr() }

// Close gives the address free at once, also when the server never ran, and cuts all
// connections. Further calls do nothing.
func (s *Server) Close() error {
	err := errors.Join(s.cfg.HTTP.Close(), s.cfg.Listener.Close())
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Run serves until ctx ends, then lets running requests finish for at most
// Config.StopLimit, and cuts those that still run. It gives nil when it was ended
// by ctx.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.cfg.HTTP.Serve(s.cfg.Listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving %s on %s: %w", s.cfg.Name, s.Addr(), err)
	case <-ctx.Done():
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.StopLimit)
	defer cancel()
	err := s.cfg.HTTP.Shutdown(limited)
	if err != nil {
		err = s.cfg.HTTP.Close()
	}
	<-served //nolint:errcheck // only waited for: it was told to end, with http.ErrServerClosed
	if err != nil {
		return fmt.Errorf("stopping %s on %s: %w", s.cfg.Name, s.Addr(), err)
	}
	return nil
}
