package binarycache

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"

	"github.com/closured/closured/internal/httpserve"
	"github.com/closured/closured/nixstore"
)

// The limits of one connection.
const (
	headerLimit = 5 * time.Second  // for the header of a request
	idleLimit   = 60 * time.Second // between two requests
	headerBytes = 8 << 10          // of a request's header
)

// defaultConnections is how many connections there are at most. Nix opens up to
// 25 to one cache (http-connections).
const defaultConnections = 256

// addressShare is the part of the connections that one address may hold: five
// realisations of one node at least, and the other half is for other nodes.
const addressShare = 2

// ServerConfig says where to listen. Address and Handler are required; the zero
// value of every other field is its default.
type ServerConfig struct {
	// Address is host:port, where other nodes reach this one. Port 0 takes a free one.
	Address string
	// Handler answers; see New.
	Handler http.Handler
	// Connections bounds the connections at a time; others wait. One address may hold
	// half of them, at least one; what it opens beyond that is closed at once.
	// Default: 256.
	Connections int
	// StopLimit bounds how long running requests are waited for at the end. Default: 5 s.
	StopLimit time.Duration
	// Log gets what goes wrong with connections (debug). Default: nowhere.
	Log *slog.Logger
}

// Server is the HTTP server of a binary cache, made by Listen. It runs once. What
// still runs at its end is cut, and Nix on the other node goes to its next substituter.
type Server = httpserve.Server

// Listen checks cfg and opens its address. Connections are answered once Run
// runs; a server that is never run must be closed. ErrInvalid: cfg is wrong.
func Listen(ctx context.Context, cfg ServerConfig) (*Server, error) {
	if _, _, err := net.SplitHostPort(cfg.Address); err != nil || cfg.Handler == nil || cfg.Connections < 0 {
		return nil, nixstore.Fail(nixstore.ErrInvalid, "write it as host:port, such as :5859",
			"the address %s of the binary cache is malformed, or there is nothing to serve", nixstore.Quote(cfg.Address))
	}
	if cfg.Connections == 0 {
		cfg.Connections = defaultConnections
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("opening the address of the binary cache: %w", err)
	}
	return httpserve.New(httpserve.Config{
		Name: "the binary cache", Listener: netutil.LimitListener(newShares(listener, max(1, cfg.Connections/addressShare)), cfg.Connections),
		StopLimit: cfg.StopLimit, Log: cfg.Log,
		HTTP: &http.Server{
			Handler: cfg.Handler,
			// There is no limit for reading a whole request: it would end contexts of long
			// streams, and bodies are refused.
			ReadHeaderTimeout: headerLimit,
			WriteTimeout:      writeLimit, // contents get it anew for each buffer
			IdleTimeout:       idleLimit,
			MaxHeaderBytes:    headerBytes,
		},
	}), nil
}
