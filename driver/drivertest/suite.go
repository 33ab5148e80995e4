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
	for name, run := range map[string]func(*testing.T, viewsCase){
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
			c := viewsCase{ViewsUnderTest: u, path: filepath.Join(u.Base, "pod", "mount")}
			if err := os.Mkdir(filepath.Dir(c.path), 0o750); err != nil {
				t.Fatal(err)
			}
			c.target = c.open(t)
			c.volume = view.Volume{ID: "volume-1", Root: u.Roots[0], Registration: u.Registration}
			run(t, c)
		})
	}
}

// viewsCase is one case: a target with nothing at it, and a volume for it.
type viewsCase struct {
	ViewsUnderTest

	path   string
	target *view.Target
	volume view.Volume
}

func (c viewsCase) open(t *testing.T) *view.Target {
	t.Helper()
	target, err := view.OpenTarget(c.Base, c.path)
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

func (c viewsCase) mount(t *testing.T) {
	t.Helper()
	if err := c.Views.Mount(t.Context(), c.volume, c.target); err != nil {
		t.Fatal(err)
	}
}

func (c viewsCase) expect(t *testing.T, v view.Volume, want view.State) {
	t.Helper()
	got, err := c.Views.Mounted(c.target, v)
	if err != nil || got != want {
		t.Errorf("it is %s, %v, want %s", got, err, want)
	}
}

func mountAndUnmount(t *testing.T, c viewsCase) {
	c.expect(t, c.volume, view.Absent)
	c.mount(t)
	c.expect(t, c.volume, view.Same)
	for range 2 {
		if err := c.Views.Unmount(t.Context(), c.volume.ID, c.target); err != nil {
			t.Fatal(err)
		}
		c.expect(t, c.volume, view.Absent)
		if _, err := os.Lstat(c.path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the target is left: %v", err)
		}
	}
}

func refuseStacking(t *testing.T, c viewsCase) {
	c.mount(t)
	for _, root := range c.Roots {
		other := c.volume
		other.Root = root
		if err := c.Views.Mount(t.Context(), other, c.target); !errors.Is(err, nixstore.ErrConflict) {
			t.Errorf("got %v, want ErrConflict", err)
		}
	}
	c.expect(t, c.volume, view.Same)
	unmount(t, c)
}

func compareStates(t *testing.T, c viewsCase) {
	c.mount(t)
	other := c.volume
	other.Root = c.Roots[1]
	c.expect(t, other, view.Other)
	writable := c.volume
	writable.Writable = true
	c.expect(t, writable, view.Other)
	c.expect(t, view.Volume{ID: c.volume.ID}, view.Other) // as unpublish asks
	again := c.volume
	again.Registration = 0
	c.expect(t, again, view.Same) // as a repeated publish asks
	unmount(t, c)
}

func unmountNowhere(t *testing.T, c viewsCase) {
	if err := c.Views.Unmount(t.Context(), c.volume.ID, nil); err != nil {
		t.Error(err)
	}
}

func listMounts(t *testing.T, c viewsCase) {
	c.mount(t)
	if got := c.listed(t); len(got) != 1 || got[0].Root != c.volume.Root {
		t.Errorf("%+v is listed, want one of %s", got, c.volume.Root)
	}
	unmount(t, c)
	if got := c.listed(t); len(got) > 0 {
		t.Errorf("%+v is still listed", got)
	}
}

// listed gives the mounts at the case's target.
func (c viewsCase) listed(t *testing.T) []view.Mounted {
	t.Helper()
	all, err := c.Views.Volumes()
	if err != nil {
		t.Fatal(err)
	}
	var here []view.Mounted
	for _, m := range all {
		if m.Path == c.path {
			here = append(here, m)
		}
	}
	return here
}

func measure(t *testing.T, c viewsCase) {
	if _, err := c.Views.Usage(c.target, c.volume); !errors.Is(err, nixstore.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	c.mount(t)
	if _, err := c.Views.Usage(c.target, c.volume); err != nil {
		t.Error(err)
	}
	unmount(t, c)
}

func unmountWithoutID(t *testing.T, c viewsCase) {
	c.mount(t)
	if err := c.Views.Unmount(t.Context(), "", c.target); err != nil {
		t.Fatal(err)
	}
	c.expect(t, c.volume, view.Absent)
}

func unmount(t *testing.T, c viewsCase) {
	t.Helper()
	if err := c.Views.Unmount(t.Context(), c.volume.ID, c.target); err != nil {
		t.Error(err)
	}
}
