package registry

import (
	"context"
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
	var how net.ListenConfig
	if namespace == "" {
		return how.Listen(ctx, "tcp", address)
	}
	type answer struct {
		listener net.Listener
		err      error
	}
	made := make(chan answer)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and takes the
		// namespace along, so that no other goroutine comes to run there.
		runtime.LockOSThread()
		if err := enter(namespace); err != nil {
			made <- answer{err: err}
			return
		}
		l, err := how.Listen(ctx, "tcp", address)
		made <- answer{l, err}
	}()
	got := <-made
	return got.listener, got.err
}

// enter moves this thread.
func enter(namespace string) error {
	f, err := os.Open(namespace)
	if err != nil {
		return fmt.Errorf("opening the network namespace: %w", err)
	}
	defer func() { _ = f.Close() }()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil { //nolint:gosec // a descriptor fits
		return fmt.Errorf("entering the network namespace %s: %w", namespace, err)
	}
	return nil
}
