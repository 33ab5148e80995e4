package registry

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// gate is a listener that turns away what does not come from the node itself, and
// what is too much. A neighbour can reach a port of 127.0.0.1 when the kernel
// routes such addresses (route_localnet, CVE-2020-8558): it shows by its own
// address.
type gate struct {
	net.Listener
	open atomic.Int64
	max  int64
}

func newGate(l net.Listener, most int64) *gate { return &gate{Listener: l, max: most} }

// Accept gives the next connection that may pass.
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if g.open.Add(1) <= g.max && isLocal(conn.RemoteAddr()) {
			return &passed{Conn: conn, leave: sync.OnceFunc(func() { g.open.Add(-1) })}, nil
		}
		g.open.Add(-1)
		_ = conn.Close() // nothing was written
	}
}

func isLocal(a net.Addr) bool {
	from, err := netip.ParseAddrPort(a.String())
	return err == nil && from.Addr().Unmap().IsLoopback()
}

// passed is a connection that is counted until it is closed.
type passed struct {
	net.Conn
	leave func()
}

// Close closes the connection.
func (p *passed) Close() error {
	defer p.leave()
	return p.Conn.Close()
}
