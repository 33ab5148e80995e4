//go:build privileged

package view_test

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
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

// Only the meta layer's own view folder counts, whatever the store holds.
func TestStoreWithAFolderNamedView(t *testing.T) {
	e := newEnv(t)
	must(t, os.MkdirAll(filepath.Join(e.store.dir, "view", "store", "evil"), 0o755))
	must(t, os.MkdirAll(filepath.Join(e.store.dir, "view", "more"), 0o755))
	if mode, reason := e.start().Mode(); mode != view.ModeRedirect {
		t.Errorf("mode %s: %s", mode, reason) // the self-test would see it, too
	}
	e.sameAsStore(e.mount(e.volume("vol", e.small)), e.small)
}

// A node may show some large closures in hundreds of volumes: a view keeps sums,
// not the closure.
func TestMemoryOfManyVolumes(t *testing.T) {
	e := newEnv(t)
	const paths, volumes, views = 1500, 500, 20
	all := make([]nixstore.StorePath, paths)
	for i := range all {
		all[i] = storePath(1000+i, "package")
		must(t, os.Mkdir(e.physical(all[i], ""), 0o555))
	}
	m := e.start()
	before := heap()
	for i := range volumes {
		id := "vol" + itoa(i)
		c := e.store.add(1, slices.Concat([]nixstore.StorePath{all[i%views]}, all[views:])...)
		must(t, m.Mount(t.Context(), e.volume(id, c), e.target(id)))
		e.store.closures = map[nixstore.StorePath]nixstore.Closure{}
	}
	const limit = 4 << 20
	if grown := heap() - before; grown > limit || m.Count() != views {
		t.Errorf("%d views and %d volumes take %d bytes", m.Count(), volumes, grown)
	} else {
		t.Logf("%d views and %d volumes take %d bytes", m.Count(), volumes, grown)
	}
	if n := len(mountsBelow(t, e.kubelet)); n != volumes {
		t.Errorf("%d mounts", n)
	}
}

// heap gives the bytes in use.
func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
