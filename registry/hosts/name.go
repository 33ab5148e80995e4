package hosts

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/closured/closured/nixstore"
)

// hostMax is the longest name of DNS in bytes, without its final dot (RFC 1035,
// section 2.3.4).
const hostMax = 253

// hostGrammar is the domain of an image reference (distribution/reference,
// "domain") in lower case, without IPv6 addresses: runtimes compare it with the
// folder's name byte by byte.
var hostGrammar = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[0-9]{1,5})?$`)

// CheckHost tells whether images can be named host/…, as in nix.internal or
// nix.internal:5000. A name without a dot and a port is refused, because
// runtimes take it for a folder of Docker Hub. Its errors are ErrInvalid.
func CheckHost(host string) error {
	fail := func(next string) error {
		return nixstore.Fail(nixstore.ErrInvalid, next, "%s cannot be the host of images", nixstore.Quote(host))
	}
	name, port, hasPort := strings.Cut(host, ":")
	switch {
	case len(name) > hostMax || !hostGrammar.MatchString(host):
		return fail("give --registry-host a lower-case name such as nix.internal, or name:port")
	case !hasPort && !strings.Contains(name, "."):
		return fail("give --registry-host a name with a dot, such as nix.internal: others are on Docker Hub")
	case hasPort && !isPort(port):
		return fail("give --registry-host a port from 1 to 65535, or none")
	}
	return nil
}

// CheckAddress tells whether address, as in 127.0.0.1:5858 or [::1]:5858, is a
// fixed port of a loopback address: what runtimes of this node reach, and no one
// else. Names are refused, because what they mean is decided elsewhere. Its errors
// are ErrInvalid.
func CheckAddress(address string) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil || !a.Addr().IsLoopback() || a.Addr().Is4In6() || a.Addr().Zone() != "" || a.Port() == 0 {
		return nixstore.Fail(nixstore.ErrInvalid, "give --registry-address an address such as 127.0.0.1:5858",
			"%s is no port of a loopback address", nixstore.Quote(address))
	}
	return nil
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0 && s[0] != '0'
}
