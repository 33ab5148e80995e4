package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/closured/closured/internal/httpserve"
	"github.com/closured/closured/nixstore"
)

// The limits of one connection. There is none for writing: the handler gives each
// piece of an answer its own.
const (
	headerLimit    = 10 * time.Second // for the header of a request
	idleLimit      = 2 * time.Minute  // between two requests
	headerBytes    = 16 << 10
	connectionsMax = 1024
)

// ServerConfig says where to serve.
type ServerConfig struct {
	// Address is where to listen, as host:port with a loopback address; required.
	// Port 0 takes a free one.
	Address string
	// Namespace is the file of the network namespace to listen in, such as
	// /proc/1/ns/net for that of the node; empty: the own one.
	Namespace string
	// Handler answers; required. See Registry.Handler.
	Handler http.Handler
	// StopLimit bounds how long running requests are waited for at the end. Default 5 s.
	StopLimit time.Duration
	Log       *slog.Logger // nil: discarded
}

// Server serves a handler to the node itself. It is made by Listen and runs once.
// Clients whose requests are cut at its end resume a blob where it ended.
type Server = httpserve.Server

// Listen opens the address, so that clients can connect from now on; they are
// answered once Run runs. A server that is never run must be closed. The registry
// asks nobody for a password, so that any address but one of loopback is refused,
// ErrInvalid.
func Listen(ctx context.Context, cfg ServerConfig) (*Server, error) {
	if err := checkAddress(cfg.Address); err != nil {
		return nil, err
	}
	if cfg.Handler == nil {
		return nil, errors.New("serving the registry: no handler")
	}
	l, err := listenIn(ctx, cfg.Namespace, cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("listening for image pulls: %w", err)
	}
	return httpserve.New(httpserve.Config{
		Name: "image pulls", Listener: newGate(l, connectionsMax), StopLimit: cfg.StopLimit, Log: cfg.Log,
		HTTP: &http.Server{
			Handler:           cfg.Handler,
			ReadHeaderTimeout: headerLimit,
			IdleTimeout:       idleLimit,
			MaxHeaderBytes:    headerBytes,
		},
	}), nil
}

// checkAddress refuses everything that could be reached from outside the node, and
// names, localhost too: what they mean is decided elsewhere.
func checkAddress(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nixstore.Fail(nixstore.ErrInvalid, "write it as host:port, such as 127.0.0.1:5858",
			"the registry's address %s is malformed", nixstore.Quote(address))
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.Unmap().IsLoopback() {
		return nixstore.Fail(nixstore.ErrInvalid, "use 127.0.0.1:5858, or another address of loopback",
			"the registry's address %s is not one of loopback, and the registry must not be reached from outside the node", nixstore.Quote(address))
	}
	return nil
}
