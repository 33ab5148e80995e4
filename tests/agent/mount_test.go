//go:build privileged

package agent_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// mountTmpfs mounts at dir, which it makes, and unmounts it when the test ends.
func mountTmpfs(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
}
