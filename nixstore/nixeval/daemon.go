package nixeval

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/closured/closured/nixstore"
)

// The first words of the daemon protocol, libstore/worker-protocol.hh.
const (
	magicClient = 0x6e697863
	magicDaemon = 0x6478696f
)

// daemonTimeout is how long a daemon may take to say its first word.
const daemonTimeout = 5 * time.Second

// checkDaemon tells whether somebody answers at the socket, so that a daemon
// which hangs is not taken for an expression that does. Its error is
// ErrUnavailable, or ctx's.
func (e *Evaluator) checkDaemon(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	err := greet(limited, e.cfg.Socket)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nixstore.Fail(nixstore.ErrUnavailable, "look at the daemon's log; the agent tries again by itself",
		"the Nix daemon at %s does not answer (%v)", e.cfg.Socket, err)
}

func greet(ctx context.Context, socket string) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var word [8]byte
	binary.LittleEndian.PutUint64(word[:], magicClient)
	if _, err := conn.Write(word[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, word[:]); err != nil {
		return err
	}
	if got := binary.LittleEndian.Uint64(word[:]); got != magicDaemon {
		return fmt.Errorf("what listens there is no Nix daemon")
	}
	return nil
}
