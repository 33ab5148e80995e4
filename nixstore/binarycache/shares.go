package binarycache

import (
	"net"
	"net/netip"
	"sync"
)

// shares is a listener that closes what one address opens beyond its share.
type shares struct {
	net.Listener
	most int

	mu   sync.Mutex // guards open
	open map[netip.Addr]int
}

func newShares(l net.Listener, most int) *shares {
	return &shares{Listener: l, most: most, open: map[netip.Addr]int{}}
}

// Accept gives the next connection within its address's share.
func (s *shares) Accept() (net.Conn, error) {
	for {
		conn, err := s.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := addressOf(conn.RemoteAddr())
		if s.take(from) {
			return &shared{Conn: conn, leave: sync.OnceFunc(func() { s.give(from) })}, nil
		}
		_ = conn.Close() // nothing was written
	}
}

func (s *shares) take(from netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[from] >= s.most {
		return false
	}
	s.open[from]++
	return true
}

func (s *shares) give(from netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[from]--; s.open[from] == 0 {
		delete(s.open, from)
	}
}

// addressOf gives what is counted; the zero value for what has no address.
func addressOf(a net.Addr) netip.Addr {
	from, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return from.Addr().Unmap()
}

// shared is a connection that is counted until it is closed.
type shared struct {
	net.Conn
	leave func()
}

// Close closes the connection.
func (c *shared) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
