package httpserve

import (
	"net"
	"net/netip"
	"sync"
)

// Admit gives a listener of the connections of l that enter lets in; the others are
// closed at once, and nothing is written to them. enter is called for each before it
// is given, with where it comes from, and leave once when it is closed; by any
// goroutine.
func Admit(l net.Listener, enter func(from net.Addr) (leave func(), ok bool)) net.Listener {
	return &admitting{l, enter}
}

type admitting struct {
	net.Listener
	enter func(from net.Addr) (leave func(), ok bool)
}

// Accept gives the next connection that is let in.
func (a *admitting) Accept() (net.Conn, error) {
	for {
		conn, err := a.Listener.Accept()
		if err != nil {
			return nil, err
		}
		leave, ok := a.enter(conn.RemoteAddr())
		if ok {
			return &admitted{Conn: conn, leave: sync.OnceFunc(leave)}, nil
		}
		_ = conn.Close() // nothing was written
	}
}

// admitted is a connection that is told of when it is closed.
type admitted struct {
	net.Conn
	leave func()
}

// Close closes the connection.
func (a *admitted) Close() error {
	defer a.leave()
	return a.Conn.Close()
}

// AddrOf gives the address that a connection comes from, an IPv4 one always as such;
// the zero value for what has none.
func AddrOf(from net.Addr) netip.Addr {
	a, err := netip.ParseAddrPort(from.String())
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}
