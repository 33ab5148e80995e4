package pins

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

// Touch notes on disk that h was in use at the time when, as the modification
// time of its link, which nobody else reads. Pins of one root may be names of one
// link (see Put), so that a touch counts for all of them: such a pin may look used
// later than it was, never earlier. The error is ErrNotFound when h has no pin.
func (p *Pins) Touch(h nixstore.Holder, when time.Time) error {
	if _, ok := p.Get(h); !ok {
		return noPin(h)
	}
	stamp, err := unix.TimeToTimespec(when)
	if err != nil {
		return fmt.Errorf("noting the use of a pin: %w", err)
	}
	// Without following the link: its target is a logical path, somebody else's here.
	err = unix.UtimesNanoAt(unix.AT_FDCWD, p.path(h), []unix.Timespec{stamp, stamp}, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return noPin(h)
	}
	if err != nil {
		return fmt.Errorf("noting the use of a pin: %w", err)
	}
	return nil
}

// Used gives the time of h's last Touch, or of the making of its link when there
// was none. The error is ErrNotFound when h has no pin.
func (p *Pins) Used(h nixstore.Holder) (time.Time, error) {
	if _, ok := p.Get(h); !ok {
		return time.Time{}, noPin(h)
	}
	info, err := os.Lstat(p.path(h))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, noPin(h)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the use of a pin: %w", err)
	}
	return info.ModTime(), nil
}

func noPin(h nixstore.Holder) error {
	return nixstore.Fail(nixstore.ErrNotFound, "", "%s %s has no pin", h.Kind, nixstore.Quote(h.Name))
}
