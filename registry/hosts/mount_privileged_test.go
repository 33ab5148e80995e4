//go:build privileged

package hosts_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/hosts"
)

// TestAFolderThatWasRemovedUnderAMount: older k3s does that when it starts. The
// agent's container keeps what it has mounted, which is then nowhere.
func TestAFolderThatWasRemovedUnderAMount(t *testing.T) {
	t.Parallel()
	node, certs := filepath.Join(t.TempDir(), "node"), filepath.Join(t.TempDir(), "certs.d")
	if err := errors.Join(os.Mkdir(node, 0o755), os.Mkdir(certs, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(node, certs, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(certs, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	f := newFile(t, func(c *hosts.Config) { c.CertsDir = certs })
	put(t, f)
	if got := read(t, filepath.Join(node, host, hosts.FileName)); got != string(hosts.Containerd(address)) {
		t.Errorf("the node has %q", got)
	}
	if err := os.RemoveAll(node); err != nil {
		t.Fatal(err)
	}
	_, err := f.Put()
	if !errors.Is(err, nixstore.ErrUnavailable) || !strings.Contains(err.Error(), "delete the agent's pod") {
		t.Errorf("Put: %v", err)
	}
	if removed, err := f.Remove(); removed || err != nil {
		t.Errorf("Remove: %v, %v", removed, err)
	}
}
