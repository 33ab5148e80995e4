package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
)

// endpoint is one gRPC server on one socket, which it keeps in place.
type endpoint struct {
	path  string
	grpc  *grpc.Server
	log   *slog.Logger
	every time.Duration

	mu      sync.Mutex // guards what follows
	socket  *socket
	closed  bool
	problem error // why the socket could not be made again; nil: it is in place

	accepting sync.WaitGroup // of the goroutines in grpc.Serve
}

// open makes the socket: from now on clients can connect, and are answered once
// serve runs.
func (e *endpoint) open(ctx context.Context) error {
	s, err := listen(ctx, e.path)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.socket = s
	return nil
}

// close removes the socket and lets nobody make it again.
func (e *endpoint) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	if e.socket == nil {
		return
	}
	if err := e.socket.remove(); err != nil {
		e.log.Warn("socket not removed", slog.String(logkey.Socket, e.path), slog.String(logkey.Error, err.Error()))
	}
	e.socket = nil
}

// serve answers, and looks after the socket, until ctx ends or the socket cannot
// be kept. The caller then calls end.
func (e *endpoint) serve(ctx context.Context) error {
	// A server that ends on its own ends this, too.
	failed := make(chan error, 1)
	e.accept(failed)
	ticker := time.NewTicker(e.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return fmt.Errorf("serving the socket %s: %w", e.path, err)
		case <-ticker.C:
		}
		if err := e.keep(ctx, failed); err != nil {
			return err
		}
	}
}

// end closes the socket and stops the gRPC server; running calls get limit to
// finish. It tells whether that was enough.
func (e *endpoint) end(limit time.Duration) bool {
	e.close()
	enough := stopWithin(e.grpc, limit)
	e.accepting.Wait()
	return enough
}

// trouble says why the socket is not in place, or nil.
func (e *endpoint) trouble() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.problem
}

// accept starts to answer on the present socket.
func (e *endpoint) accept(failed chan<- error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	s := e.socket
	e.accepting.Go(func() {
		err := e.grpc.Serve(s)
		if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, grpc.ErrServerStopped) {
			return // the socket was given up on purpose
		}
		select {
		case failed <- err:
		default: // one reason to end is enough
		}
	})
}

// keep makes the socket again when it is gone.
func (e *endpoint) keep(ctx context.Context, failed chan<- error) error {
	again, err := e.renew(ctx)
	if again {
		e.log.Warn("socket was gone, made it again", slog.String(logkey.Socket, e.path))
		e.accept(failed)
	}
	return err
}

// renew replaces the socket when it is no longer at its path, and tells whether it
// did. Of all that can go wrong only what somebody else put there is an error: a
// folder that cannot be written now is tried again at the next look.
func (e *endpoint) renew(ctx context.Context) (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false, nil
	}
	found, err := e.socket.look()
	if found == ours {
		e.problem = nil
		return false, nil
	}
	var fresh *socket
	if err == nil {
		fresh, err = listen(ctx, e.path)
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return false, nil
	case errors.Is(err, nixstore.ErrConflict):
		return false, err
	default:
		e.noteLocked(err)
		return false, nil
	}
	old := e.socket
	e.socket, e.problem = fresh, nil
	if err := old.remove(); err != nil { // the path is not its own any more, so this only closes it
		e.log.Warn("old socket not closed", slog.String(logkey.Socket, e.path), slog.String(logkey.Error, err.Error()))
	}
	return true, nil
}

// noteLocked keeps why the socket is not in place, and logs each new reason once.
func (e *endpoint) noteLocked(err error) {
	if e.problem == nil || e.problem.Error() != err.Error() {
		e.log.Error("socket is gone and cannot be made again", slog.String(logkey.Socket, e.path), slog.String(logkey.Error, err.Error()))
	}
	e.problem = err
}
