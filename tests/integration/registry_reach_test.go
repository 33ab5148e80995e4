//go:build privileged

package integration_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/tests/agent"
)

// TestFault52OutsideTheNode tries to reach the registry from where pods and other
// machines are: the node's other addresses, and another network namespace with a
// cable to the node, which routes the loopback addresses into it. In the end the
// node forwards them, as kube-proxy lets it (CVE-2020-8558).
func TestFault52OutsideTheNode(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{Args: offline()})
	at := netip.MustParseAddrPort(n.Registry())
	if !answers(at) {
		t.Fatal("on the node the registry does not answer")
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().Is4() && !prefix.Addr().IsLoopback() && answers(netip.AddrPortFrom(prefix.Addr(), at.Port())) {
			t.Errorf("the registry answers at %s", prefix.Addr())
		}
	}
	cable := newCable(t)
	// On the same addresses, so that only the agent makes the difference:
	gateway, loopback := echo(t, cable.here), echo(t, at.Addr())
	if !cable.answers(gateway) {
		t.Fatal("the cable does not work: this test shows nothing")
	}
	requireNoWay := func(when string) {
		t.Helper()
		for _, to := range []netip.AddrPort{at, netip.AddrPortFrom(cable.here, at.Port())} {
			if cable.answers(to) {
				t.Errorf("from another network namespace the registry answers at %s, %s", to, when)
			}
		}
	}
	requireNoWay("with the kernel's defaults")
	if !cable.inside(func() bool { return routeLoopback("all") == nil }) {
		t.Fatal("route_localnet cannot be set in the other network namespace")
	}
	if err := routeLoopback(cable.device); err != nil {
		t.Skipf("route_localnet cannot be set, so that this test ends early: %v", err)
	}
	if !cable.answers(loopback) {
		t.Fatal("loopback addresses are not forwarded: this test shows nothing")
	}
	requireNoWay("which routes loopback addresses")
}

// cable leads to a network namespace of its own.
type cable struct {
	name   string // of the namespace
	device string // its end here
	here   netip.Addr
	fd     int // the namespace
}

// newCable makes a network namespace and a cable to it. Packets for loopback
// addresses go through the cable, too.
func newCable(t *testing.T) cable {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip in PATH (Debian package iproute2)")
	}
	id := rand.N(1 << 14) // of another test's cable there may be something left
	c := cable{name: fmt.Sprintf("cl%d", id)}
	c.device = c.name + "a"
	there := c.name + "b"
	c.here = netip.AddrFrom4([4]byte{198, 18, byte(id >> 6), byte(id << 2)}).Next() // RFC 2544: in no real network
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", c.name).Run() })   // the cable goes with it
	c.ip(t, "netns add %s", c.name)
	c.ip(t, "link add %s type veth peer name %s netns %s", c.device, there, c.name)
	c.ip(t, "address add %s/30 dev %s", c.here, c.device)
	c.ip(t, "link set %s up", c.device)
	c.ip(t, "-n %s address add %s/30 dev %s", c.name, c.here.Next(), there)
	c.ip(t, "-n %s link set %s up", c.name, there)
	c.ip(t, "-n %s route add default via %s", c.name, c.here)
	c.ip(t, "-n %s route add 127.0.0.0/8 via %s", c.name, c.here)
	var err error
	if c.fd, err = unix.Open("/run/netns/"+c.name, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(c.fd) })
	return c
}

func (c cable) ip(t *testing.T, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", line, err, out)
	}
}

// answers asks from the other end.
func (c cable) answers(to netip.AddrPort) bool {
	return c.inside(func() bool { return answers(to) })
}

// inside calls do in the other namespace. It is true, too, when it cannot.
func (c cable) inside(do func() bool) bool {
	result := make(chan bool)
	go func() {
		// The thread must not end: the kernel kills with it the agents that it started
		// (PR_SET_PDEATHSIG).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil || unix.Setns(c.fd, unix.CLONE_NEWNET) != nil {
			result <- true
			return
		}
		defer func() { _ = unix.Close(own) }()
		defer func() {
			if err := unix.Setns(own, unix.CLONE_NEWNET); err != nil {
				panic(err) // all that runs on this thread from now on would be in the wrong place
			}
		}()
		result <- do()
	}()
	return <-result
}

// routeLoopback lets loopback addresses through a device of this thread's namespace.
func routeLoopback(device string) error {
	return os.WriteFile("/proc/sys/net/ipv4/conf/"+device+"/route_localnet", []byte("1"), 0)
}

// answers tells whether an HTTP server answers within two seconds, asked from the
// network namespace of this thread.
func answers(to netip.AddrPort) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer func() { _ = unix.Close(fd) }()
	limit := unix.Timeval{Sec: 2}
	for _, option := range []int{unix.SO_SNDTIMEO, unix.SO_RCVTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			return true
		}
	}
	if unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}) != nil {
		return false
	}
	if _, err := unix.Write(fd, []byte("GET /v2/ HTTP/1.0\r\n\r\n")); err != nil {
		return false
	}
	got, err := unix.Read(fd, make([]byte, 1))
	return err == nil && got == 1
}

// echo serves HTTP at an address until the test ends.
func echo(t *testing.T, at netip.Addr) netip.AddrPort {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	_ = server.Listener.Close()
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	return netip.MustParseAddrPort(l.Addr().String())
}

// TestRegistryAddressesOutsideLoopback: an agent that would be reachable does not start.
func TestRegistryAddressesOutsideLoopback(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	for _, address := range []string{"0.0.0.0:5858", ":5858", "[::]:5858", "192.0.2.1:5858", "registry.example:5858"} {
		a, err := agent.New(agent.Config{Args: offline("--registry-address", address)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
		if err := a.Start(t.Context()); err == nil {
			t.Errorf("the agent starts with --registry-address %s", address)
		}
		for _, words := range []string{address, "not one of loopback", "use 127.0.0.1:5858"} {
			if !strings.Contains(a.Log(), words) {
				t.Errorf("with --registry-address %s the log does not say %q:\n%s", address, words, a.Log())
			}
		}
	}
}

// TestHostsFile: the agent tells containerd of the registry in a file of its own,
// which stays when it stops and goes when it serves no images any more. What
// others have written is left alone.
func TestHostsFile(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir, certs := nixtest.StateDir(t), t.TempDir()
	hosts := filepath.Join(certs, "nix.internal", "hosts.toml")
	others := filepath.Join(certs, "docker.io", "hosts.toml")
	makeDir(t, filepath.Dir(others))
	writeFile(t, others, "server = \"https://mirror.example\"\n")
	foreign := filepath.Join(certs, "mine.internal", "hosts.toml")
	makeDir(t, filepath.Dir(foreign))
	writeFile(t, foreign, "# by hand\n")
	flags := func(more ...string) agent.Config {
		return agent.Config{Dir: dir, Args: offline(append([]string{"--containerd-certs-dir", certs}, more...)...)}
	}

	n := start(t, flags())
	requireText(t, hosts, "http://"+n.Registry())
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	requireText(t, hosts, "http://"+n.Registry())

	n = start(t, flags("--registry-host", "mine.internal"))
	eventually(t, time.Minute, "a line in the log", func() error {
		if !strings.Contains(n.Log(), "is not closured's") {
			return errNotYet
		}
		return nil
	})
	requireText(t, foreign, "# by hand\n")
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}

	n = start(t, flags("--registry-address", ""))
	if _, err := os.Lstat(filepath.Dir(hosts)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a registry the file is left (%v)", err)
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	n = start(t, flags("--registry-address", "", "--registry-host", "mine.internal"))
	requireText(t, foreign, "# by hand\n")
	requireText(t, others, "server = \"https://mirror.example\"\n")
}

func requireText(t *testing.T, path, want string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(data), want) {
		t.Errorf("%s holds %q (%v), want %q in it", path, data, err, want)
	}
}
