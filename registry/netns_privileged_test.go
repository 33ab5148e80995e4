//go:build privileged

package registry_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/registry"
)

// newNamespace makes a network namespace with nothing but loopback, and gives a
// file of it.
func newNamespace(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "net")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := inThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if err := loopbackUp(); err != nil {
			return err
		}
		return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), file, "", unix.MS_BIND, "")
	})
	if err != nil {
		t.Fatalf("making a network namespace: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(file, unix.MNT_DETACH); err != nil {
			t.Errorf("letting go of the network namespace: %v", err)
		}
	})
	return file
}

// inThread runs do in a thread that ends with it.
func inThread(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- do()
	}()
	return <-done
}

// loopbackUp is "ip link set lo up", netdevice(7).
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

func TestFault52OnlyTheNamedNetworkReachesTheRegistry(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	s, err := registry.Listen(t.Context(), registry.ServerConfig{
		Address: "127.0.0.1:0", Namespace: namespace, Handler: http.NotFoundHandler(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	dial := func() error {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	if err := dial(); err == nil {
		t.Errorf("%s answers in the test's own network", s.Addr())
	}
	err = inThread(func() error {
		f, err := os.Open(namespace)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return dial()
	})
	if err != nil {
		t.Errorf("nobody answers in the namespace that was named: %v", err)
	}
}

func TestANetworkNamespaceThatIsNone(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "net")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, namespace := range []string{file, file + "-missing"} {
		s, err := registry.Listen(t.Context(), registry.ServerConfig{
			Address: "127.0.0.1:0", Namespace: namespace, Handler: http.NotFoundHandler(),
		})
		if err == nil {
			_ = s.Close()
			t.Errorf("the registry listens in %s", namespace)
		}
	}
}
