package drivertest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
)

// Views is a driver.Views whose mounts are entries of a map. Target folders are
// real, as kubelet and csi-sanity look at them.
type Views struct {
	// Hook is called as a step ("mount", "mount late", "unmount", "mounted",
	// "volumes", "sweep", "usage") begins; its error is the step's. "mount late"
	// is a mount that fails after it has made the target.
	Hook func(step string) error

	// NoRoots makes Volumes unable to tell what is mounted.
	NoRoots bool
	// Foreign makes Volumes say that the mounts are another agent's.
	Foreign bool

	mu     sync.Mutex             // guards what follows
	mounts map[string]view.Volume // by target path without symlinks
	layers map[string]bool        // by volume id
}

func newViews() *Views {
	return &Views{mounts: map[string]view.Volume{}, layers: map[string]bool{}}
}

func (v *Views) step(name string) error {
	if v.Hook == nil {
		return nil
	}
	return v.Hook(name)
}

// Mount makes the target and the entry.
func (v *Views) Mount(ctx context.Context, vol view.Volume, t *view.Target) error {
	if err := errors.Join(ctx.Err(), v.step("mount")); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.mounts[place(t)]; ok {
		return nixstore.Fail(nixstore.ErrConflict, "unmount it", "something is mounted at the target")
	}
	if err := os.Mkdir(t.Path(), 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := v.step("mount late"); err != nil {
		return errors.Join(err, os.Remove(t.Path()))
	}
	v.mounts[place(t)] = vol
	if vol.Writable {
		v.layers[vol.ID] = true
	}
	return nil
}

// same compares as much as a mount table tells.
func same(have, want view.Volume) bool {
	return have.Root == want.Root && have.Writable == want.Writable
}

// place gives the target's path as a mount table does, without symlinks.
func place(t *view.Target) string {
	dir, err := filepath.EvalSymlinks(filepath.Dir(t.Path()))
	if err != nil {
		return t.Path()
	}
	return filepath.Join(dir, filepath.Base(t.Path()))
}

// Unmount removes entry, target and layer.
func (v *Views) Unmount(ctx context.Context, id string, t *view.Target) error {
	if err := errors.Join(ctx.Err(), v.step("unmount")); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.layers, id)
	if t == nil {
		return nil
	}
	delete(v.mounts, place(t))
	if err := os.Remove(t.Path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Mounted looks the target up.
func (v *Views) Mounted(t *view.Target, vol view.Volume) (view.State, error) {
	if err := v.step("mounted"); err != nil {
		return view.Absent, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	have, ok := v.mounts[place(t)]
	switch {
	case !ok:
		return view.Absent, nil
	case same(have, vol):
		return view.Same, nil
	default:
		return view.Other, nil
	}
}

// Volumes gives all entries.
func (v *Views) Volumes() ([]view.Mounted, error) {
	if err := v.step("volumes"); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []view.Mounted
	for path, vol := range v.mounts {
		m := view.Mounted{Path: path, Root: vol.Root, Own: !v.Foreign}
		if v.NoRoots {
			m.Root = nixstore.StorePath{}
		}
		all = append(all, m)
	}
	return all, nil
}

// SweepWritable forgets layers.
func (v *Views) SweepWritable(keep func(id string) bool) error {
	if err := v.step("sweep"); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for id := range v.layers {
		if !keep(id) {
			delete(v.layers, id)
		}
	}
	return nil
}

// Usage gives numbers that can be told apart.
func (v *Views) Usage(t *view.Target, _ view.Volume) (view.Usage, error) {
	if err := v.step("usage"); err != nil {
		return view.Usage{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.mounts[place(t)]; !ok {
		return view.Usage{}, nixstore.Fail(nixstore.ErrNotFound, "", "nothing is mounted there")
	}
	return view.Usage{TotalBytes: 7, UsedBytes: 5, AvailableBytes: 2, TotalInodes: 70, UsedInodes: 50, AvailableInodes: 20}, nil
}

// Mounts gives the number of entries.
func (v *Views) Mounts() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.mounts)
}

// Lose forgets all mounts but not the target folders, as a reboot does.
func (v *Views) Lose() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.mounts)
}

func (v *Views) state() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var state []string
	for path, vol := range v.mounts {
		state = append(state, fmt.Sprintf("mount %s of %s", path, vol.Root))
	}
	for id := range v.layers {
		state = append(state, "layer "+id)
	}
	return state
}
