package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// listenIn opens a TCP address in the network namespace of a file such as
// /proc/1/ns/net, and in the own one when the file is "". A socket belongs to the
// namespace that its thread was in when it made it (network_namespaces(7)), so
// that nothing but the listener and what it accepts is there. It needs
// CAP_SYS_ADMIN in both, setns(2).
func listenIn(ctx context.Context, namespace, address string) (net.Listener, error) {
	if namespace == "" {
		var how net.ListenConfig
		return how.Listen(ctx, "tcp", address)
	}
	// The thread must not end here: children that were started on it and asked for
	// a signal at its end, as Nix's daemon is, would get it (PR_SET_PDEATHSIG(2)).
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("opening the own network namespace: %w", err)
	}
	defer func() { _ = home.Close() }()
	l, err := listenThere(ctx, namespace, address)
	if back := enter(home); back != nil {
		// Still locked, so that no other goroutine comes to run there.
		return nil, errors.Join(err, back, closeIfOpen(l))
	}
	runtime.UnlockOSThread()
	return l, err
}

func listenThere(ctx context.Context, namespace, address string) (net.Listener, error) {
	f, err := os.Open(namespace)
	if err != nil {
		return nil, fmt.Errorf("opening the network namespace: %w", err)
	}
	defer func() { _ = f.Close() }()
	if err := enter(f); err != nil {
		return nil, err
	}
	var how net.ListenConfig
	return how.Listen(ctx, "tcp", address)
}

// enter moves this thread.
func enter(namespace *os.File) error {
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering the network namespace %s: %w", namespace.Name(), err)
	}
	return nil
}

func closeIfOpen(l net.Listener) error {
	if l == nil {
		return nil
	}
	return l.Close()
}
