package drivertest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/closured/closured/driver"
	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
)

// ViewsUnderTest is what RunViews needs.
type ViewsUnderTest struct {
	Views driver.Views
	Base  string                // an empty folder for targets
	Roots [2]nixstore.StorePath // two closures that can be shown
	// Registration is that of the first closure, see nixstore.Closure.
	Registration int64
}

// RunViews tries what the driver relies on in views: the ones here and the real
// ones must behave alike.
func RunViews(t *testing.T, newViews func(t *testing.T) ViewsUnderTest) {
	t.Helper()
	for name, run := range map[string]func(viewsTrial){
		"a volume is mounted once and unmounted twice":             mountAndUnmount,
		"another volume is not mounted over it":                    refuseStacking,
		"the state tells the root and the mode apart":              compareStates,
		"a target whose folder above is gone has nothing":          unmountNowhere,
		"what is mounted is listed, and what is not is not":        listMounts,
		"a volume can be measured, and nothing cannot":             measure,
		"an unmount without the volume's id takes the mount alone": unmountWithoutID,
	} {
		t.Run(name, func(t *testing.T) {
			u := newViews(t)
			c := viewsTrial{T: t, ViewsUnderTest: u, path: filepath.Join(u.Base, "pod", "mount")}
			if err := os.Mkdir(filepath.Dir(c.path), 0o750); err != nil {
				t.Fatal(err)
			}
			c.target = c.open()
			c.volume = view.Volume{ID: "volume-1", Root: u.Roots[0], Registration: u.Registration}
			run(c)
		})
	}
}

// viewsTrial is one case: a target with nothing at it, and a volume for it.
type viewsTrial struct {
	*testing.T
	ViewsUnderTest

	path   string
	target *view.Target
	volume view.Volume
}

func (t viewsTrial) open() *view.Target {
	t.Helper()
	target, err := view.OpenTarget(t.Base, t.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := target.Close(); err != nil {
			t.Error(err)
		}
	})
	return target
}

func (t viewsTrial) mount() {
	t.Helper()
	if err := t.Views.Mount(t.Context(), t.volume, t.target); err != nil {
		t.Fatal(err)
	}
}

func (t viewsTrial) expect(v view.Volume, want view.State) {
	t.Helper()
	got, err := t.Views.Mounted(t.target, v)
	if err != nil || got != want {
		t.Errorf("it is %s, %v, want %s", got, err, want)
	}
}

func mountAndUnmount(t viewsTrial) {
	t.expect(t.volume, view.Absent)
	t.mount()
	t.expect(t.volume, view.Same)
	for range 2 {
		if err := t.Views.Unmount(t.Context(), t.volume.ID, t.target); err != nil {
			t.Fatal(err)
		}
		t.expect(t.volume, view.Absent)
		if _, err := os.Lstat(t.path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the target is left: %v", err)
		}
	}
}

func refuseStacking(t viewsTrial) {
	t.mount()
	for _, root := range t.Roots {
		other := t.volume
		other.Root = root
		if err := t.Views.Mount(t.Context(), other, t.target); !errors.Is(err, nixstore.ErrConflict) {
			t.Errorf("got %v, want ErrConflict", err)
		}
	}
	t.expect(t.volume, view.Same)
	unmount(t)
}

func compareStates(t viewsTrial) {
	t.mount()
	other := t.volume
	other.Root = t.Roots[1]
	t.expect(other, view.Other)
	writable := t.volume
	writable.Writable = true
	t.expect(writable, view.Other)
	t.expect(view.Volume{ID: t.volume.ID}, view.Other) // as unpublish asks
	again := t.volume
	again.Registration = 0
	t.expect(again, view.Same) // as a repeated publish asks
	unmount(t)
}

func unmountNowhere(t viewsTrial) {
	if err := t.Views.Unmount(t.Context(), t.volume.ID, nil); err != nil {
		t.Error(err)
	}
}

func listMounts(t viewsTrial) {
	t.mount()
	if got := t.listed(); len(got) != 1 || got[0].Root != t.volume.Root {
		t.Errorf("%+v is listed, want one of %s", got, t.volume.Root)
	}
	unmount(t)
	if got := t.listed(); len(got) > 0 {
		t.Errorf("%+v is still listed", got)
	}
}

// listed gives the mounts at the case's target.
func (t viewsTrial) listed() []view.Mounted {
	t.Helper()
	all, err := t.Views.Volumes()
	if err != nil {
		t.Fatal(err)
	}
	var here []view.Mounted
	for _, m := range all {
		if m.Path == t.path {
			here = append(here, m)
		}
	}
	return here
}

func measure(t viewsTrial) {
	if _, err := t.Views.Usage(t.target, t.volume); !errors.Is(err, nixstore.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	t.mount()
	if _, err := t.Views.Usage(t.target, t.volume); err != nil {
		t.Error(err)
	}
	unmount(t)
}

func unmountWithoutID(t viewsTrial) {
	t.mount()
	if err := t.Views.Unmount(t.Context(), "", t.target); err != nil {
		t.Fatal(err)
	}
	t.expect(t.volume, view.Absent)
}

func unmount(t viewsTrial) {
	t.Helper()
	if err := t.Views.Unmount(t.Context(), t.volume.ID, t.target); err != nil {
		t.Error(err)
	}
}
