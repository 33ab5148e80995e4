// Package statedir lets one agent at a time own a state directory.
//
// The lock is flock(2) on <state>/lock, so the kernel drops it when the process
// ends, however it ends: there is no stale lock to clean up after kill -9. The
// file's content (process id, host name) is for people only, and decides nothing.
// The file itself is never removed, as removing it would let a third process lock
// a new file while a second one still waits on the old.
//
// It is no lock between threads of one program's work, and it does not work
// across machines on network file systems that do not pass flock on.
package statedir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

// lockName is the name of the lock file in the state directory.
const lockName = "lock"

// maxOwnerBytes bounds what is read of the lock file: a number and a host name
// of at most 64 bytes (HOST_NAME_MAX of Linux).
const maxOwnerBytes = 128

// attempts bounds how often Acquire begins again when somebody replaces the file
// under its hands.
const attempts = 8

const (
	// patience is how long an owner may take to end. A child that a killed agent was
	// about to start has the lock's descriptor too, from fork(2) to execve(2): on a
	// loaded machine a next agent comes before it is through, and must not give up.
	patience = 2 * time.Second
	// poll is how often the lock is tried meanwhile; flock(2) cannot wait with a context.
	poll = 20 * time.Millisecond
)

// Lock is a state directory that this process owns.
type Lock struct {
	file *os.File
}

// Acquire makes the state directory dir when it is missing and takes its lock.
// When another process owns the directory it waits for that one to end, until ctx
// ends but at most patience; then the error is nixstore.ErrConflict and names that
// process. dir must be absolute.
func Acquire(ctx context.Context, dir string) (*Lock, error) {
	if !filepath.IsAbs(dir) {
		return nil, nixstore.Fail(nixstore.ErrInvalid, "give --state-dir an absolute path",
			"the state directory %s is not an absolute path", nixstore.Quote(dir))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		lock, err := tryAgain(dir)
		if !errors.Is(err, nixstore.ErrConflict) {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(poll):
		}
	}
}

// tryAgain tries as long as the file is replaced under its hands.
func tryAgain(dir string) (*Lock, error) {
	for range attempts {
		lock, err := try(dir)
		if lock != nil || err != nil {
			return lock, err
		}
	}
	return nil, nixstore.Fail(nixstore.ErrConflict, "look for the program that replaces it",
		"the lock file of the state directory %s is replaced again and again", nixstore.Quote(dir))
}

// try takes the lock once. It gives no lock and no error when the file was
// replaced between opening and locking it.
func try(dir string) (*Lock, error) {
	path := filepath.Join(dir, lockName)
	// O_NOFOLLOW: a link in the directory must not make root truncate a file elsewhere.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of the state directory: %w", err)
	}
	ours, err := take(file, path, dir)
	if err == nil && ours {
		err = sign(file)
	}
	if err != nil || !ours {
		return nil, errors.Join(err, file.Close())
	}
	return &Lock{file: file}, nil
}

// take locks file, and tells whether path still names it.
func take(file *os.File, path, dir string) (bool, error) {
	err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, occupied(file, dir)
	}
	if err != nil {
		return false, fmt.Errorf("locking %s: %w", path, err)
	}
	opened, err := file.Stat()
	if err != nil {
		return false, fmt.Errorf("looking at %s: %w", path, err)
	}
	named, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking at %s: %w", path, err)
	}
	return os.SameFile(opened, named), nil
}

// sign writes down who owns the directory, for the message of the next one.
func sign(file *os.File) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	text := fmt.Sprintf("%d %s\n", os.Getpid(), host)
	if err := file.Truncate(0); err != nil {
		return fmt.Errorf("writing the lock of the state directory: %w", err)
	}
	if _, err := file.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("writing the lock of the state directory: %w", err)
	}
	return nil
}

func occupied(file *os.File, dir string) error {
	text, err := io.ReadAll(io.NewSectionReader(file, 0, maxOwnerBytes))
	if err != nil {
		text = nil // the name of the owner is a courtesy; that there is one is the news
	}
	return nixstore.Fail(nixstore.ErrConflict, "stop that one first, or give this one another --state-dir",
		"another closured (%s) uses the state directory %s", describeOwner(string(text)), nixstore.Quote(dir))
}

// describeOwner gives the words for the content of a lock file, which is foreign:
// an older or newer agent, or anybody else, may have written it.
func describeOwner(text string) string {
	fields := strings.Fields(text)
	if len(fields) == 0 {
		return "pid unknown"
	}
	pid, err := strconv.Atoi(fields[0])
	if err != nil || pid <= 0 {
		return "pid unknown"
	}
	if len(fields) == 1 {
		return "pid " + strconv.Itoa(pid)
	}
	// Two agents in two containers may both be pid 1: the host name tells them apart.
	return "pid " + strconv.Itoa(pid) + " on host " + nixstore.Quote(fields[1])
}

// Close gives the directory free. The lock file stays.
func (l *Lock) Close() error {
	if err := l.file.Close(); err != nil {
		return fmt.Errorf("releasing the state directory: %w", err)
	}
	return nil
}
