//go:build privileged

package view_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
)

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithCancel(context.Background())
}

func TestMountedTellsVolumesApart(t *testing.T) {
	e := newEnv(t)
	m := e.start()
	readOnly, writable, inUser := e.volume("ro", e.small), e.writable("rw", e.small), e.volume("user", e.small)
	inUser.UserNamespace = true
	for _, v := range []view.Volume{readOnly, writable, inUser} {
		e.mount(v)
	}
	must(t, os.MkdirAll(e.path("plain"), 0o755))
	must(t, os.MkdirAll(e.path("foreign"), 0o755))
	must(t, unix.Mount("tmpfs", e.path("foreign"), "tmpfs", 0, ""))
	must(t, os.MkdirAll(e.path("bound"), 0o755))
	must(t, unix.Mount(e.store.dir, e.path("bound"), "", unix.MS_BIND, ""))

	otherRoot := func(v view.Volume) view.Volume { v.Root = e.other.Root; return v }
	tests := map[string]struct {
		at   string
		v    view.Volume
		want view.State
	}{
		"the same":                               {"ro", readOnly, view.Same},
		"the same, writable":                     {"rw", writable, view.Same},
		"the same, for a user namespace":         {"user", inUser, view.Same},
		"a hard link view will do":               {"user", e.volume("user", e.small), view.Same},
		"an overlay will not do":                 {"ro", inUser, view.Other},
		"another root":                           {"ro", otherRoot(readOnly), view.Other},
		"another root, writable":                 {"rw", otherRoot(writable), view.Other},
		"another root, for a user namespace":     {"user", otherRoot(inUser), view.Other},
		"read-only instead of writable":          {"rw", e.volume("rw", e.small), view.Other},
		"writable instead of read-only":          {"ro", e.writable("ro", e.small), view.Other},
		"writable of another volume":             {"rw", e.writable("ro", e.small), view.Other},
		"no root asked":                          {"ro", view.Volume{ID: "ro"}, view.Other},
		"a folder":                               {"plain", readOnly, view.Absent},
		"nothing":                                {"nothing", readOnly, view.Absent},
		"a tmpfs of somebody":                    {"foreign", readOnly, view.Other},
		"a tmpfs of somebody, asked as writable": {"foreign", writable, view.Other},
		"a bind mount of somebody":               {"bound", readOnly, view.Other},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			state, err := m.Mounted(e.target(test.at), test.v)
			if err != nil || state != test.want {
				t.Errorf("got %v, %v, want %v", state, err, test.want)
			}
		})
	}
}

func TestVolumesAndUsage(t *testing.T) {
	e := newEnv(t)
	m := e.start()
	readOnly, writable, inUser := e.volume("ro", e.small), e.writable("rw", e.other), e.volume("user", e.small)
	inUser.UserNamespace = true
	want := []view.Mounted{
		{Path: e.mount(readOnly), Root: e.small.Root, Kind: view.KindRedirect, Own: true},
		{Path: e.mount(writable), Root: e.other.Root, Kind: view.KindWritable, Own: true},
		{Path: e.mount(inUser), Root: e.small.Root, Kind: view.KindHardLink, Own: true},
	}
	// A part of a volume elsewhere, as kubelet makes it for subPath, is no volume.
	part := filepath.Join(e.kubelet, "part")
	must(t, os.Mkdir(part, 0o755))
	must(t, unix.Mount(filepath.Join(e.path("ro"), "store"), part, "", unix.MS_BIND, ""))
	compare := func(m *view.Manager) {
		have, err := m.Volumes()
		must(t, err)
		have = slices.DeleteFunc(have, func(v view.Mounted) bool { return !v.Own }) // of agents that other tests run
		byPath := cmpopts.SortSlices(func(a, b view.Mounted) bool { return a.Path < b.Path })
		if diff := cmp.Diff(want, have, byPath, cmp.Comparer(func(a, b nixstore.StorePath) bool { return a == b })); diff != "" {
			t.Error(diff)
		}
		for id, size := range map[string]int64{"ro": 4000, "user": 4000} {
			u, err := m.Usage(e.target(id), view.Volume{ID: id})
			if err != nil || u.TotalBytes != size || u.UsedBytes != size || u.AvailableBytes != 0 {
				t.Errorf("usage of %s: %+v, %v", id, u, err)
			}
		}
		u, err := m.Usage(e.target("rw"), view.Volume{ID: "rw"})
		if err != nil || u.TotalBytes < 6*mib || u.TotalBytes > 8*mib || u.AvailableBytes > u.TotalBytes || u.TotalInodes < 100 {
			t.Errorf("usage of a writable volume: %+v, %v", u, err)
		}
		if _, err := m.Usage(e.target("none"), view.Volume{ID: "none"}); !errors.Is(err, nixstore.ErrNotFound) {
			t.Errorf("usage of nothing: %v", err)
		}
	}
	compare(m)
	must(t, m.Close())
	compare(e.start()) // the next life sees the same

	must(t, os.MkdirAll(e.state+"-2", 0o755))
	t.Cleanup(func() { must(t, os.RemoveAll(e.state+"-2")) })
	other, err := view.New(t.Context(), view.Config{StateDir: e.state + "-2", StoreDir: e.store.dir, Closures: e.store})
	must(t, err)
	defer func() { must(t, other.Close()) }()
	have, err := other.Volumes()
	must(t, err)
	for _, v := range have {
		if v.Own {
			t.Errorf("an agent with another state directory takes %+v for its own", v)
		}
	}
}

// Publishing must not read the mount table, which is long on a busy node. The
// kernel tells who opens it.
func TestFault29PublishReadsNoMountTable(t *testing.T) {
	e := newEnv(t)
	m := e.start()
	e.mount(e.volume("warm", e.small))
	opened := watchOpens(t, "/proc/self/mountinfo", "/proc/self/mounts", "/proc/self/mountstats")
	for _, v := range []view.Volume{e.volume("ro", e.small), e.writable("rw", e.small)} {
		target := e.target(v.ID)
		for _, want := range []view.State{view.Absent, view.Same} {
			state, err := m.Mounted(target, v)
			if err != nil || state != want {
				t.Errorf("state %v, %v", state, err)
			}
			if state == view.Absent {
				must(t, m.Mount(t.Context(), v, target))
			}
		}
		_, err := m.Usage(target, v)
		must(t, err)
		must(t, m.Unmount(t.Context(), v.ID, target))
	}
	if opened() {
		t.Error("publishing opened the mount table")
	}
	_, err := m.Volumes()
	must(t, err)
	if !opened() {
		t.Error("the watch does not see opens")
	}
}

// watchOpens gives a function that tells whether one of the files was opened since its last call.
func watchOpens(tb testing.TB, files ...string) func() bool {
	tb.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	must(tb, err)
	tb.Cleanup(func() { _ = unix.Close(fd) })
	for _, f := range files {
		_, err := unix.InotifyAddWatch(fd, f, unix.IN_OPEN|unix.IN_ACCESS)
		must(tb, err)
	}
	return func() bool {
		buf := make([]byte, 4096)
		n, err := unix.Read(fd, buf)
		return err == nil && n > 0
	}
}

func TestOlderMountCalls(t *testing.T) {
	for name, change := range kinds {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			m := e.start(change...)
			m.Classic()
			at := e.mount(e.volume("vol", e.small))
			e.sameAsStore(at, e.small)
			e.checkFlags(at)
			rw := e.mount(e.writable("rw", e.small))
			must(t, os.WriteFile(filepath.Join(rw, "var", "x"), nil, 0o600))
			if n := len(mountsBelow(t, e.kubelet)); n != 2 {
				t.Errorf("%d mounts for two volumes", n)
			}
			cmd := roleCommand(t, roleAttacker, at)
			cmd.SysProcAttr = asNobody()
			if out, err := cmd.Output(); err != nil || len(out) != 0 {
				t.Errorf("%v\n%s", err, out)
			}
			e.unmount("vol")
			e.unmount("rw")
			e.noLayers()
		})
	}
}

func TestHardLinkViewCopiesWhatCannotBeLinked(t *testing.T) {
	e := newEnv(t)
	m := e.start(forceHardLinks)
	m.LimitLinks(2)
	at := e.mount(e.volume("vol", e.small))
	e.sameAsStore(at, e.small)
	links := 0
	for name := range describeNames(t, filepath.Join(at, "store")) {
		if st := lstat(t, name); st.Mode().IsRegular() && nlink(st) > 1 {
			links++
		}
	}
	if links == 0 {
		t.Error("no file is linked")
	}
}

func TestHardLinkViewNeedsOneMount(t *testing.T) {
	e := newEnv(t)
	must(t, unix.Mount(e.store.dir, e.store.dir, "", unix.MS_BIND, ""))
	m := e.start()
	v := e.volume("vol", e.small)
	v.UserNamespace = true
	before := e.snapshot()
	err := m.Mount(t.Context(), v, e.target("vol"))
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "one mount") {
		t.Errorf("got %v", err)
	}
	must(t, os.RemoveAll(filepath.Join(e.kubelet, "pods")))
	if after := e.snapshot(); !slices.Equal(before, after) {
		t.Errorf("left: %v", after)
	}
	v.UserNamespace = false
	e.sameAsStore(e.mount(v), e.small)
}

func TestSelfTestFailureMeansHardLinks(t *testing.T) {
	e := newEnv(t)
	// Overlayfs takes no layer that is two overlays deep already.
	for range 2 {
		must(t, unix.Mount("overlay", e.store.dir, "overlay", 0, "lowerdir="+e.store.dir+":"+t.TempDir()))
	}
	m := e.start()
	mode, reason := m.Mode()
	if mode != view.ModeHardLink || !strings.Contains(reason, e.store.dir) {
		t.Errorf("mode %s: %s", mode, reason)
	}
}

func TestNewRefusesBadConfigurations(t *testing.T) {
	e := newEnv(t)
	good := view.Config{StateDir: e.state, StoreDir: e.store.dir, Closures: e.store}
	for name, change := range map[string]func(*view.Config){
		"no state directory":         func(c *view.Config) { c.StateDir = "" },
		"a relative state directory": func(c *view.Config) { c.StateDir = "state" },
		"a colon":                    func(c *view.Config) { c.StateDir += "/a:b" },
		"a comma":                    func(c *view.Config) { c.StoreDir += "/a,b" },
		"a backslash":                func(c *view.Config) { c.StoreDir += `/a\b` },
		"no closures":                func(c *view.Config) { c.Closures = nil },
		"a negative time":            func(c *view.Config) { c.IdleTime = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			change(&c)
			if _, err := view.New(t.Context(), c); !errors.Is(err, nixstore.ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
		})
	}
}
