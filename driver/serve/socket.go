package serve

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

const (
	// maxSocketPath is what fits into sun_path with its NUL, unix(7).
	maxSocketPath = 107
	// hiddenName is the length of the name under which a socket is made.
	hiddenName = len("/.12345678")
	// answerLimit is how long a foreign socket may take to accept a connection.
	answerLimit = time.Second
	// socketMode: root alone may call the driver.
	socketMode = 0o600
	// folderMode is for folders that are missing above a socket.
	folderMode = 0o750
)

// SocketPath gives the path of an endpoint: unix:///path, unix:/path or an
// absolute path. Its errors are nixstore.ErrInvalid.
func SocketPath(endpoint string) (string, error) {
	path := endpoint
	if rest, ok := strings.CutPrefix(endpoint, "unix:"); ok {
		path = strings.TrimPrefix(rest, "//")
	}
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" || strings.ContainsRune(path, 0) {
		return "", nixstore.Fail(nixstore.ErrInvalid, "write it as unix:///path/csi.sock",
			"the endpoint %s is not a unix socket with an absolute path", nixstore.Quote(endpoint))
	}
	return path, checkLength(path)
}

func checkLength(path string) error {
	longest := max(len(path), len(filepath.Dir(path))+hiddenName)
	if longest <= maxSocketPath {
		return nil
	}
	return nixstore.Fail(nixstore.ErrInvalid, "choose a shorter folder",
		"the socket path %s is longer than the %d bytes that Linux allows", nixstore.Quote(path), maxSocketPath)
}

// socket is a unix socket that listens at a path.
type socket struct {
	*net.UnixListener
	path string
	id   fileID
}

// fileID tells files apart. As long as the socket is open its inode is not used again.
type fileID struct{ dev, ino uint64 }

func identify(path string) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fileID{}, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return fileID{dev: st.Dev, ino: st.Ino}, nil
}

// listen makes a socket at path, in place of one that nobody serves any more.
func listen(ctx context.Context, path string) (*socket, error) {
	if err := os.MkdirAll(filepath.Dir(path), folderMode); err != nil {
		return nil, fmt.Errorf("making the folder of the socket: %w", err)
	}
	if err := mayTake(ctx, path); err != nil {
		return nil, err
	}
	hidden := filepath.Join(filepath.Dir(path), "."+rand.Text()[:8])
	l, err := new(net.ListenConfig).Listen(ctx, "unix", hidden)
	if err != nil {
		return nil, fmt.Errorf("listening on the socket %s: %w", path, err)
	}
	s := &socket{path: path}
	if unixListener, ok := l.(*net.UnixListener); ok {
		s.UnixListener = unixListener
		s.SetUnlinkOnClose(false) // its name is not the one that Go knows
	}
	if err := s.publish(hidden); err != nil {
		return nil, errors.Join(err, l.Close(), ignoreMissing(os.Remove(hidden)))
	}
	return s, nil
}

// publish gives the socket its mode and then its name. rename(2) replaces a stale
// socket in one step.
func (s *socket) publish(hidden string) error {
	if err := os.Chmod(hidden, socketMode); err != nil {
		return fmt.Errorf("protecting the socket %s: %w", s.path, err)
	}
	id, err := identify(hidden)
	if err != nil {
		return fmt.Errorf("looking at the socket %s: %w", s.path, err)
	}
	s.id = id
	if err := os.Rename(hidden, s.path); err != nil {
		return fmt.Errorf("naming the socket: %w", err)
	}
	return nil
}

// mayTake tells whether path is free, or holds a socket that nobody serves.
func mayTake(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at the socket: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return nixstore.Fail(nixstore.ErrConflict, "move it away, or give another endpoint",
			"%s is there and is no socket", nixstore.Quote(path))
	}
	dialer := net.Dialer{Timeout: answerLimit}
	conn, err := dialer.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		err = conn.Close()
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOENT):
		return nil // nobody listens: stale
	case ctx.Err() != nil:
		return fmt.Errorf("asking who serves %s: %w", path, ctx.Err())
	}
	// Also a process that accepts nothing within the limit lives.
	return errors.Join(nixstore.Fail(nixstore.ErrConflict, "stop that process, or give this one another endpoint",
		"another process serves the socket %s", nixstore.Quote(path)), err)
}

// state is what a look at a socket's path found.
type state int

const (
	ours     state = iota
	removed        // nothing is there
	replaced       // something else is there
	unknown        // the look failed
)

// look tells whether the path still names this socket.
func (s *socket) look() (state, error) {
	id, err := identify(s.path)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return removed, nil
	case err != nil:
		return unknown, err
	case id != s.id:
		return replaced, nil
	}
	return ours, nil
}

// remove takes the path away when it still names this socket, and stops listening.
// Connections that were accepted go on.
func (s *socket) remove() error {
	var err error
	if found, _ := s.look(); found == ours {
		err = ignoreMissing(os.Remove(s.path))
	}
	return errors.Join(err, ignoreClosed(s.Close()))
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
