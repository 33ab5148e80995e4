package nixcli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

// holdPoll is how often Hold looks whether a collection has ended. flock(2)
// cannot wait with a context, and a waiting thread for each volume is worse.
const holdPoll = 2 * time.Millisecond

// Hold implements nixstore.Barrier by a shared lock on Nix's gc.lock, which each
// collector holds exclusively from before it reads the roots to its end
// (LocalStore::collectGarbage, libstore/gc.cc). When ctx ends first the error is
// ErrBusy. Nix's clients need no exclusive lock and are not held up.
func (s *Store) Hold(ctx context.Context) (func(), error) {
	path := filepath.Join(s.cfg.StoreRoot, "nix", "var", "nix", "gc.lock")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("holding off garbage collectors: %w", err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("holding off garbage collectors: %w", err)
	}
	if err := lockShared(ctx, file); err != nil {
		_ = file.Close() // nothing was written
		return nil, err
	}
	var once sync.Once
	return func() { once.Do(func() { _ = file.Close() }) }, nil // the lock goes with its file
}

func lockShared(ctx context.Context, file *os.File) error {
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("locking %s: %w", file.Name(), err)
		}
		if !sleep(ctx, holdPoll) {
			return nixstore.Fail(nixstore.ErrBusy, "ask again", "a garbage collection of the store goes on (%s is locked)", file.Name())
		}
	}
}
