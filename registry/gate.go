package registry

import (
	"net"
	"sync/atomic"

	"github.com/closured/closured/internal/httpserve"
)

// newGate gives a listener that turns away what does not come from the node itself,
// and what is too much. A neighbour can reach a port of 127.0.0.1 when the kernel
// routes such addresses (route_localnet, CVE-2020-8558): it shows by its own
// address.
func newGate(l net.Listener, most int64) net.Listener {
	open := new(atomic.Int64)
	leave := func() { open.Add(-1) }
	return httpserve.Admit(l, func(from net.Addr) (func(), bool) {
		if open.Add(1) <= most && isLocal(from) {
			return leave, true
		}
		leave()
		return nil, false
	})
}

func isLocal(from net.Addr) bool { return httpserve.AddrOf(from).IsLoopback() }
