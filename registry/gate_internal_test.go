package registry

import (
	"errors"
	"net"
	"testing"
)

// queue is a listener of connections that come from given addresses.
type queue struct {
	net.Listener
	from   []string
	closed int
}

type conn struct {
	net.Conn
	from net.Addr
	q    *queue
}

var errEmpty = errors.New("no more connections")

func (q *queue) Accept() (net.Conn, error) {
	if len(q.from) == 0 {
		return nil, errEmpty
	}
	addr, err := net.ResolveTCPAddr("tcp", q.from[0])
	q.from = q.from[1:]
	return &conn{from: addr, q: q}, err
}

func (c *conn) RemoteAddr() net.Addr { return c.from }
func (c *conn) Close() error         { c.q.closed++; return nil }

func TestFault52NeighboursAreTurnedAway(t *testing.T) {
	t.Parallel()
	q := &queue{from: []string{"192.0.2.1:1", "127.0.0.1:2", "[::1]:3", "[fe80::1]:4", "[::ffff:127.0.0.9]:5", "10.0.0.1:6"}}
	g := newGate(q, 10)
	for range 3 {
		c, err := g.Accept()
		if err != nil || !isLocal(c.RemoteAddr()) {
			t.Fatalf("let %v in, %v", c, err)
		}
	}
	if _, err := g.Accept(); !errors.Is(err, errEmpty) || q.closed != 3 {
		t.Errorf("%d were turned away, %v", q.closed, err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	q := &queue{from: []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"}}
	g := newGate(q, 2)
	first, err := g.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Accept(); err != nil {
		t.Fatal(err)
	}
	q.from = q.from[:1]
	if _, err := g.Accept(); !errors.Is(err, errEmpty) || q.closed != 1 {
		t.Errorf("a third came in, or was not closed: %v", err)
	}
	_ = first.Close()
	_ = first.Close() // counts once
	q.from = []string{"127.0.0.1:5", "127.0.0.1:6"}
	if _, err := g.Accept(); err != nil {
		t.Errorf("the free place is not given: %v", err)
	}
	if _, err := g.Accept(); !errors.Is(err, errEmpty) {
		t.Errorf("a place was given twice: %v", err)
	}
}
