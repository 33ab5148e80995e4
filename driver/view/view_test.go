//go:build privileged

package view_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
)

// kinds are the ways to show a closure read-only.
var kinds = map[string][]func(*view.Config){
	"redirect overlay": nil,
	"hard link view":   {forceHardLinks},
}

func TestVolumeEqualsStore(t *testing.T) {
	for name, change := range kinds {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			m := e.start(change...)
			if mode, reason := m.Mode(); (mode == view.ModeRedirect) != (change == nil) {
				t.Fatalf("mode %s: %s", mode, reason)
			}
			at := e.mount(e.volume("vol", e.small))
			e.sameAsStore(at, e.small)

			// Added later: it stays invisible, also by name.
			late := storePath(99, "late")
			e.write(late, "f", "late", 0o444)
			e.sameAsStore(at, e.small)
			for _, p := range []nixstore.StorePath{late, storePath(5, "other"), storePath(6, "hidden")} {
				if _, err := os.Lstat(filepath.Join(at, "store", p.BaseName())); !os.IsNotExist(err) {
					t.Errorf("%s is visible: %v", p, err)
				}
			}
			if n := len(mountsBelow(t, e.kubelet)); n != 1 {
				t.Errorf("%d mounts for one volume", n)
			}
			e.unmount("vol")
			if n := len(mountsBelow(t, e.kubelet)); n != 0 {
				t.Errorf("%d mounts left", n)
			}
		})
	}
}
