//go:build privileged

package view_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
)

var errInjected = errors.New("injected")

// snapshot is all that a Mount may leave behind.
func (e *env) snapshot() []string {
	e.tb.Helper()
	found := mountsBelow(e.tb, filepath.Dir(e.state))
	for _, dir := range []string{e.kubelet, filepath.Join(e.state, "writable"), filepath.Join(e.state, "linkviews"), filepath.Join(e.state, "views")} {
		found = append(found, childrenOf(e.tb, dir)...)
	}
	slices.Sort(found)
	return found
}

// childrenOf gives what is below dir, without entering mounts and meta layers.
func childrenOf(tb testing.TB, dir string) []string {
	tb.Helper()
	var found []string
	entries, err := os.ReadDir(dir)
	must(tb, err)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		found = append(found, path)
		if filepath.Base(dir) != "views" && filepath.Base(dir) != "linkviews" && e.IsDir() && e.Name() != "mount" {
			found = append(found, childrenOf(tb, path)...)
		}
	}
	return found
}

func TestFault04FailedMountIsUndone(t *testing.T) {
	for name, change := range kinds {
		for _, writable := range []bool{false, true} {
			t.Run(name+map[bool]string{true: " writable", false: ""}[writable], func(t *testing.T) {
				e := newEnv(t)
				m := e.start(change...)
				e.mount(e.volume("warm", e.small)) // so that the view is no difference
				v, steps := e.volume("vol", e.small), view.ReadOnlySteps
				if writable {
					v, steps = e.writable("vol", e.small), view.WritableSteps
				}
				target := e.target("vol")
				before := e.snapshot()
				for _, fatal := range steps {
					reached := false
					m.Before(func(step string) error {
						if step != fatal {
							return nil
						}
						reached = true
						return errInjected
					})
					if err := m.Mount(context.Background(), v, target); !errors.Is(err, errInjected) || !reached {
						t.Errorf("failing at %s: %v", fatal, err)
					}
					if after := e.snapshot(); !slices.Equal(before, after) {
						t.Errorf("failing at %s leaves %v, before it was %v", fatal, after, before)
					}
				}
				m.Before(nil)
				must(t, m.Mount(context.Background(), v, target))
				e.unmount("vol")
				e.noLayers()
				e.unmount("warm")
				m.DropIdle(time.Now().Add(time.Hour))
				if n := m.Count(); n != 0 {
					t.Errorf("%d views are still held", n)
				}
			})
		}
	}
}

func TestMissingPathIsCorrupt(t *testing.T) {
	for name, change := range kinds {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			m := e.start(change...)
			before := e.snapshot()
			gone := storePath(2, "file.conf")
			must(t, os.Remove(e.physical(gone, "")))
			target := e.target("vol")
			err := m.Mount(context.Background(), e.volume("vol", e.small), target)
			var f *nixstore.Failure
			if !errors.Is(err, nixstore.ErrCorrupt) || !errors.As(err, &f) {
				t.Fatalf("got %v, want ErrCorrupt", err)
			}
			must(t, os.RemoveAll(filepath.Join(e.kubelet, "pods")))
			if after := e.snapshot(); !slices.Equal(before, after) {
				t.Errorf("left: %v", after)
			}
			// A failure is not remembered.
			e.write(gone, "", "back", 0o444)
			e.mount(e.volume("vol", e.small))
		})
	}
}

func TestFault26BusyUnmount(t *testing.T) {
	e := newEnv(t)
	m := e.start()
	at := e.mount(e.volume("vol", e.small))
	f, err := os.Open(filepath.Join(at, "store", storePath(1, "root").BaseName(), "bin", "tool"))
	must(t, err)
	defer f.Close()
	start := time.Now()
	e.unmount("vol") // detached: in use until f is closed
	if time.Since(start) < 100*time.Millisecond {
		t.Error("it was detached without waiting")
	}
	if text := make([]byte, 9); !readsAt(f, text) || string(text) != "#!/bin/sh" {
		t.Errorf("the open file reads %q", text)
	}
	if state, err := m.Mounted(e.target("vol"), e.volume("vol", e.small)); err != nil || state != view.Absent {
		t.Errorf("state %v, %v", state, err)
	}
}

func readsAt(f *os.File, p []byte) bool {
	_, err := f.ReadAt(p, 0)
	return err == nil
}

func TestFault26UnmountOfBusyFolderFails(t *testing.T) {
	e := newEnv(t)
	m := e.start()
	target := e.target("vol")
	must(t, os.MkdirAll(filepath.Join(e.path("vol"), "somebody's"), 0o755))
	if err := m.Unmount(context.Background(), "vol", target); err == nil {
		t.Error("success, though the folder stays")
	}
}

func TestFault27AbsentTargets(t *testing.T) {
	e := newEnv(t)
	m := e.start()
	ctx := context.Background()
	must(t, m.Unmount(ctx, "never", e.target("never"))) // nothing there
	e.mount(e.volume("vol", e.small))
	target := e.target("vol")
	must(t, unix.Unmount(e.path("vol"), 0)) // somebody was here before us
	must(t, m.Unmount(ctx, "vol", target))
	must(t, m.Unmount(ctx, "vol", target)) // twice

	e.mount(e.writable("vol", e.small))
	must(t, unix.Unmount(e.path("vol"), 0))
	must(t, os.RemoveAll(filepath.Join(e.kubelet, "pods", "vol")))
	must(t, m.Unmount(ctx, "vol", target)) // the folder above went, too
	e.noLayers()

	e.mount(e.writable("vol", e.small))
	must(t, unix.Unmount(e.path("vol"), 0))
	must(t, os.RemoveAll(filepath.Join(e.kubelet, "pods", "vol")))
	if _, err := view.OpenTarget(e.kubelet, e.path("vol")); !errors.Is(err, nixstore.ErrNotFound) {
		t.Errorf("opening a target without parent: %v", err)
	}
	must(t, m.Unmount(ctx, "vol", nil))
	e.noLayers()
	m.DropIdle(time.Now().Add(time.Hour))
	if n := m.Count(); n != 0 {
		t.Errorf("%d views are still held", n)
	}
}

// A FUSE server that is gone makes every look at its mount fail with ENOTCONN.
func TestFault27DeadFileSystem(t *testing.T) {
	e := newEnv(t)
	m := e.start()
	target := e.target("vol")
	must(t, os.Mkdir(e.path("vol"), 0o750))
	deadMount(t, e.path("vol"))
	if _, err := os.Lstat(e.path("vol")); !errors.Is(err, unix.ENOTCONN) {
		t.Fatalf("the mount is not dead: %v", err)
	}
	if state, err := m.Mounted(target, e.volume("vol", e.small)); err != nil || state != view.Other {
		t.Errorf("state %v, %v", state, err)
	}
	if err := m.Mount(context.Background(), e.volume("vol", e.small), target); err == nil {
		t.Error("mounting over a dead mount succeeds")
	}
	e.unmount("vol")
}

func deadMount(tb testing.TB, at string) {
	tb.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		tb.Skipf("no FUSE here: %v", err)
	}
	options := "fd=" + itoa(fd) + ",rootmode=40000,user_id=0,group_id=0"
	must(tb, unix.Mount("dead", at, "fuse", 0, options))
	must(tb, unix.Close(fd))
}

func TestFault28StackedMounts(t *testing.T) {
	e := newEnv(t)
	m := e.start()
	v := e.volume("vol", e.small)
	at := e.mount(v)
	if err := m.Mount(context.Background(), v, e.target("vol")); !errors.Is(err, nixstore.ErrConflict) {
		t.Errorf("a second Mount gives %v, want ErrConflict", err)
	}
	if n := len(mountsBelow(t, e.kubelet)); n != 1 {
		t.Errorf("%d mounts after the refused one", n)
	}
	for range 3 {
		must(t, unix.Mount("tmpfs", at, "tmpfs", 0, ""))
	}
	if state, err := m.Mounted(e.target("vol"), v); err != nil || state != view.Other {
		t.Errorf("state %v, %v", state, err)
	}
	e.unmount("vol")
	if n := len(mountsBelow(t, e.kubelet)); n != 0 {
		t.Errorf("%d mounts left", n)
	}
}

func TestConcurrentMountsMakeOneView(t *testing.T) {
	for name, change := range kinds {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.store.delay = 50 * time.Millisecond
			m := e.start(change...)
			const volumes = 50
			errs := make([]error, volumes)
			targets := make([]*view.Target, volumes)
			for i := range volumes {
				targets[i] = e.target("vol" + itoa(i))
			}
			var wg sync.WaitGroup
			for i := range volumes {
				wg.Go(func() {
					errs[i] = m.Mount(context.Background(), e.volume("vol"+itoa(i), e.small), targets[i])
				})
			}
			wg.Wait()
			must(t, errors.Join(errs...))
			if n := e.store.asked.Load(); n != 1 || m.Count() != 1 {
				t.Errorf("the closure was read %d times for %d views", n, m.Count())
			}
			if n := len(mountsBelow(t, e.kubelet)); n != volumes {
				t.Errorf("%d mounts for %d volumes", n, volumes)
			}
			e.sameAsStore(e.path("vol49"), e.small)
			for i := range volumes {
				e.unmount("vol" + itoa(i))
			}
		})
	}
}

func TestErrorsReachAllWhoWait(t *testing.T) {
	e := newEnv(t)
	e.store.delay = 50 * time.Millisecond
	e.store.fail = nixstore.Fail(nixstore.ErrUnavailable, "", "no database")
	m := e.start()
	const volumes = 10
	targets := make([]*view.Target, volumes)
	for i := range volumes {
		targets[i] = e.target("vol" + itoa(i))
	}
	var wg sync.WaitGroup
	for i := range volumes {
		wg.Go(func() {
			err := m.Mount(context.Background(), e.volume("vol"+itoa(i), e.small), targets[i])
			if !errors.Is(err, nixstore.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	e.store.fail = nil
	e.mount(e.volume("later", e.small))
}

func TestWaiterTakesOverFromMakerThatGaveUp(t *testing.T) {
	e := newEnv(t)
	e.store.delay = 200 * time.Millisecond
	m := e.start()
	ctx, cancel := context.WithCancel(context.Background())
	first, second := e.target("first"), e.target("second")
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := m.Mount(ctx, e.volume("first", e.small), first); !errors.Is(err, context.Canceled) {
			t.Errorf("the cancelled call gives %v", err)
		}
	})
	time.Sleep(50 * time.Millisecond)
	wg.Go(func() {
		if err := m.Mount(context.Background(), e.volume("second", e.small), second); err != nil {
			t.Errorf("the waiting call gives %v", err)
		}
	})
	time.Sleep(50 * time.Millisecond)
	cancel()
	wg.Wait()
}

func TestIdleViews(t *testing.T) {
	for name, change := range kinds {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			m := e.start(append(slices.Clone(change), func(c *view.Config) { c.IdleTime = time.Minute })...)
			before := e.snapshot()
			e.mount(e.volume("a", e.small))
			e.mount(e.volume("b", e.small))
			e.unmount("a")
			m.DropIdle(time.Now().Add(time.Hour))
			e.sameAsStore(e.path("b"), e.small) // in use
			e.unmount("b")
			m.DropIdle(time.Now())
			e.mount(e.volume("c", e.small)) // still warm
			if n := e.store.asked.Load(); n != 1 {
				t.Errorf("the closure was read %d times", n)
			}
			// Collected and realised again: a new view.
			again := e.small
			again.Registration = 70
			e.store.closures[again.Root] = again
			e.mount(e.volume("d", again))
			if m.Count() != 2 {
				t.Errorf("%d views, want one for each registration", m.Count())
			}
			err := m.Mount(context.Background(), view.Volume{ID: "e", Root: again.Root, Registration: 71}, e.target("e"))
			if !errors.Is(err, nixstore.ErrBusy) {
				t.Errorf("mounting an unknown registration gives %v, want ErrBusy", err)
			}
			e.unmount("c")
			e.unmount("d")
			m.DropIdle(time.Now().Add(time.Hour))
			must(t, os.RemoveAll(filepath.Join(e.kubelet, "pods")))
			if after := e.snapshot(); !slices.Equal(before, after) {
				t.Errorf("left: %v", after)
			}
		})
	}
}

func TestRunDropsIdleViews(t *testing.T) {
	e := newEnv(t)
	m := e.start(func(c *view.Config) { c.IdleTime = 20 * time.Millisecond })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	e.mount(e.volume("stays", e.other))
	e.mount(e.volume("goes", e.small))
	e.unmount("goes")
	for range 250 {
		if m.Count() == 1 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if n := m.Count(); n != 1 {
		t.Errorf("%d views", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run gives %v", err)
	}
	e.sameAsStore(e.path("stays"), e.other)
}
