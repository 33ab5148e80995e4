//go:build privileged

package pins_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

// TestFault21NoInodesForPins fills the inodes of a small tmpfs, which gives the
// same error as a full disk.
func TestFault21NoInodesForPins(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "nr_inodes=40,size=1m"); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	p := open(t, filepath.Join(dir, "pins"))
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		err = p.Put(volume(fmt.Sprint(n)), root(n))
	}
	wantKind(t, err, nixstore.ErrNoSpace)
	entries, readErr := os.ReadDir(filepath.Join(dir, "pins", "volumes"))
	if readErr != nil || len(entries) != p.Count() {
		t.Errorf("%d entries for %d pins, %v: something is half-made", len(entries), p.Count(), readErr)
	}
	// It fails closed, and releasing still works.
	if err := errors.Join(p.Drop(volume("0")), p.Put(volume("again"), root(100))); err != nil {
		t.Error(err)
	}
}
