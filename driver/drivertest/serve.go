package drivertest

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Client calls a driver over its socket.
type Client struct {
	csi.IdentityClient
	csi.NodeClient

	Address string // as in "unix:///tmp/…/csi.sock"
}

// Service is a driver.Driver, whole.
type Service interface {
	csi.IdentityServer
	csi.NodeServer
}

// Serve serves the driver on a unix socket until the test ends.
func Serve(tb testing.TB, d Service) Client {
	tb.Helper()
	address := Listen(tb, func(s *grpc.Server) {
		csi.RegisterIdentityServer(s, d)
		csi.RegisterNodeServer(s, d)
	})
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := conn.Close(); err != nil {
			tb.Error(err)
		}
	})
	return Client{csi.NewIdentityClient(conn), csi.NewNodeClient(conn), address}
}

// Listen serves what register adds on a unix socket until the test ends, and
// gives its address.
func Listen(tb testing.TB, register func(*grpc.Server)) (address string) {
	tb.Helper()
	dir, err := os.MkdirTemp("", "csi") //nolint:usetesting // tb.TempDir's may be longer than the 107 bytes of unix(7)
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(dir, "csi.sock")
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	tb.Cleanup(func() {
		s.Stop()
		if err := errors.Join(<-served, os.RemoveAll(dir)); err != nil {
			tb.Error(err)
		}
	})
	return "unix://" + path
}
