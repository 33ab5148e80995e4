package binarycache

import (
	"net"
	"net/netip"
	"sync"

	"github.com/closured/closured/internal/httpserve"
)

// shares counts what each address has open. Safe for concurrent use.
type shares struct {
	most int // that one address may have

	mu   sync.Mutex // guards open
	open map[netip.Addr]int
}

// newShares gives a listener that closes what one address opens beyond its share.
func newShares(l net.Listener, most int) net.Listener {
	s := &shares{most: most, open: map[netip.Addr]int{}}
	return httpserve.Admit(l, func(from net.Addr) (func(), bool) {
		address := httpserve.AddrOf(from)
		return func() { s.give(address) }, s.take(address)
	})
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
