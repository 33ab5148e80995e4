// Package nixdaemon asks a Nix daemon whether it is well, in the daemon's own
// protocol and without starting a process. It gives no orders: stores and
// evaluators have Nix's programs do that.
//
// Everything may be called concurrently; a call makes one connection and leaves
// nothing behind.
package nixdaemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/closured/closured/nixstore"
)

// Timeout is how long a daemon may take to answer. It opens its database before,
// which waits for a disk that is busy.
const Timeout = 5 * time.Second

// Words of the daemon protocol, libstore/worker-protocol.hh.
const (
	magicClient = 0x6e697863
	magicDaemon = 0x6478696f
	stderrLast  = 0x616c7473
	protoNewest = 1<<8 | 35 // the newest that we speak; newer daemons speak it too
	protoOldest = 1<<8 | 34 // Nix 2.8
	versionMax  = 64        // bytes of a version text
)

// Greet makes a connection to the daemon at socket, waits until the daemon has
// opened its store, and goes. It gives the version of Nix. A daemon that is
// stopped or hangs is ErrUnavailable after Timeout; when ctx ends before, the
// error is its cause.
func Greet(ctx context.Context, socket string) (version string, err error) {
	limited, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	version, err = greet(limited, socket)
	switch {
	case err == nil:
		return version, nil
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	}
	return "", nixstore.Fail(nixstore.ErrUnavailable, "look at the daemon's log; the agent tries again by itself",
		"the Nix daemon at %s does not answer (%v)", socket, err)
}

func greet(ctx context.Context, socket string) (string, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	return handshake(conn)
}

// handshake greets a daemon over conn and gives its version. It follows
// processConnection of libstore/daemon.cc, Nix 2.8 to 2.34.
func handshake(conn io.ReadWriter) (string, error) {
	if err := writeWords(conn, magicClient); err != nil {
		return "", err
	}
	words, err := readWords(conn, 2)
	if err != nil {
		return "", err
	}
	if words[0] != magicDaemon {
		return "", errors.New("what listens there is no Nix daemon")
	}
	speak := words[1]
	if speak < protoOldest || speak>>8 != protoNewest>>8 {
		return "", fmt.Errorf("its protocol %d.%d is not one of Nix 2.8 or later", speak>>8, speak&0xff)
	}
	speak = min(speak, protoNewest)
	// version, no CPU affinity, no space to reserve
	if err := writeWords(conn, speak, 0, 0); err != nil {
		return "", err
	}
	return readGreeting(conn, speak)
}

// readGreeting reads what the daemon says before it takes orders.
func readGreeting(conn io.Reader, speak uint64) (string, error) {
	version, err := readText(conn)
	if err != nil {
		return "", err
	}
	if speak > protoOldest { // whether it trusts us
		if _, err := readWords(conn, 1); err != nil {
			return "", err
		}
	}
	words, err := readWords(conn, 1)
	if err != nil {
		return "", err
	}
	if words[0] != stderrLast {
		return "", errors.New("it cannot open its store")
	}
	return version, nil
}

func writeWords(w io.Writer, words ...uint64) error {
	var b bytes.Buffer
	for _, word := range words {
		b.Write(binary.LittleEndian.AppendUint64(nil, word))
	}
	_, err := w.Write(b.Bytes())
	return err
}

func readWords(r io.Reader, n int) ([]uint64, error) {
	words := make([]uint64, n)
	if err := binary.Read(r, binary.LittleEndian, words); err != nil {
		return nil, err
	}
	return words, nil
}

// readText reads a string: its length, its bytes, zeroes up to a multiple of 8.
func readText(r io.Reader) (string, error) {
	words, err := readWords(r, 1)
	if err != nil {
		return "", err
	}
	if words[0] > versionMax {
		return "", errors.New("its version is too long")
	}
	data := make([]byte, (words[0]+7)/8*8)
	if _, err := io.ReadFull(r, data); err != nil {
		return "", err
	}
	return string(data[:words[0]]), nil
}
