package binarycache

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"

	"github.com/closured/closured/nixstore"
)

// The limits of one connection.
const (
	headerLimit = 5 * time.Second  // for the header of a request
	idleLimit   = 60 * time.Second // between two requests
	headerBytes = 8 << 10          // of a request's header
)

const (
	// defaultConnections is how many connections there are at most. Nix opens up to
	// 25 to one cache (http-connections).
	defaultConnections = 256
	// defaultStopLimit is how long requests may go on after the server was told to stop.
	defaultStopLimit = 5 * time.Second
)

// ServerConfig says where to listen. Address and Handler are required; the zero
// value of every other field is its default.
type ServerConfig struct {
	// Address is host:port, where other nodes reach this one. Port 0 takes a free one.
	Address string
	// Handler answers; see New.
	Handler http.Handler
	// Connections bounds the connections at a time; others wait. Default: 256.
	Connections int
	// StopLimit bounds how long running requests are waited for at the end. Default: 5 s.
	StopLimit time.Duration
	// Log gets what goes wrong with connections (debug). Default: nowhere.
	Log *slog.Logger
}

// Server is the HTTP server of a binary cache. It is made by Listen and runs once.
type Server struct {
	cfg      ServerConfig
	listener net.Listener
	http     *http.Server
}

// Listen checks cfg and opens its address. Connections are answered once Run
// runs; a server that is never run must be closed. ErrInvalid: cfg is wrong.
func Listen(ctx context.Context, cfg ServerConfig) (*Server, error) {
	if _, _, err := net.SplitHostPort(cfg.Address); err != nil || cfg.Handler == nil || cfg.Connections < 0 {
		return nil, nixstore.Fail(nixstore.ErrInvalid, "write it as host:port, such as :5859",
			"the address %s of the binary cache is malformed, or there is nothing to serve", nixstore.Quote(cfg.Address))
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Connections == 0 {
		cfg.Connections = defaultConnections
	}
	if cfg.StopLimit == 0 {
		cfg.StopLimit = defaultStopLimit
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("opening the address of the binary cache: %w", err)
	}
	s := &Server{cfg: cfg, listener: netutil.LimitListener(listener, cfg.Connections)}
	s.http = &http.Server{
		Handler: cfg.Handler,
		// There is no limit for reading a whole request: it would end contexts of long
		// streams, and bodies are refused.
		ReadHeaderTimeout: headerLimit,
		WriteTimeout:      writeLimit, // contents get it anew for each buffer
		IdleTimeout:       idleLimit,
		MaxHeaderBytes:    headerBytes,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Addr gives the address that is listened on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close gives the address free without having run.
func (s *Server) Close() error { return s.listener.Close() }

// Run serves until ctx ends, then lets running requests finish for at most
// StopLimit; what still runs is cut, and Nix on the other node goes to its next
// substituter. It gives nil when it was ended by ctx.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(s.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving the binary cache on %s: %w", s.Addr(), err)
	case <-ctx.Done():
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.StopLimit)
	defer cancel()
	err := s.http.Shutdown(limited)
	if err != nil {
		err = s.http.Close()
	}
	<-served //nolint:errcheck // only waited for: it was told to end, with http.ErrServerClosed
	if err != nil {
		return fmt.Errorf("stopping the binary cache on %s: %w", s.Addr(), err)
	}
	return nil
}
