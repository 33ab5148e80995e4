//go:build privileged

package view_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
)

const mib = 1 << 20

func (e *env) writable(id string, c nixstore.Closure) view.Volume {
	v := e.volume(id, c)
	v.Writable, v.SizeLimitBytes = true, 8*mib
	return v
}

func TestWritableVolume(t *testing.T) {
	for name, change := range kinds {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.start(change...)
			before := describe(t, e.store.dir)
			v := e.writable("vol", e.small)
			at := e.mount(v)

			if n := len(mountsBelow(t, e.kubelet)) + len(mountsBelow(t, e.state)); n != 3 {
				t.Errorf("%d mounts: want the volume, the tmpfs and the view", n)
			}
			if state, err := e.m.Mounted(e.target("vol"), v); err != nil || state != view.Same {
				t.Errorf("state %v, %v", state, err)
			}
			root := filepath.Join(at, "store", e.small.Root.BaseName())
			must(t, os.WriteFile(filepath.Join(root, "bin", "tool"), []byte("changed"), 0o755))
			must(t, os.Remove(filepath.Join(root, "share", "tool")))
			must(t, os.Rename(filepath.Join(root, "share"), filepath.Join(root, "renamed")))
			must(t, os.RemoveAll(filepath.Join(at, "store", storePath(2, "file.conf").BaseName())))
			must(t, os.Chmod(filepath.Join(at, "store", storePath(3, "program.sh").BaseName()), 0o777))
			must(t, os.WriteFile(filepath.Join(at, "store", "new"), []byte("new"), 0o644))
			must(t, os.Remove(filepath.Join(at, "var", "result")))
			if text, err := os.ReadFile(filepath.Join(root, "renamed", "doc", "readme")); err != nil || len(text) == 0 {
				t.Errorf("reading below a renamed folder: %v", err)
			}

			e.sameStore(before)
			if state, err := e.m.Mounted(e.target("vol"), v); err != nil || state != view.Same {
				t.Errorf("state %v, %v after the pod removed var/result", state, err)
			}
			e.sameAsStore(e.mount(e.volume("reader", e.small)), e.small)

			e.unmount("vol")
			e.noLayers()
		})
	}
}

// sameStore compares the store with what it was.
func (e *env) sameStore(before map[string]string) {
	e.tb.Helper()
	after := describe(e.tb, e.store.dir)
	for name, text := range before {
		if after[name] != text {
			e.tb.Errorf("%s in the store is now %.60q", name, after[name])
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			e.tb.Errorf("%s is new in the store", name)
		}
	}
}

// noLayers makes sure that no private layer and no loop device of the node is left.
func (e *env) noLayers() {
	e.tb.Helper()
	left, err := os.ReadDir(filepath.Join(e.state, "writable"))
	must(e.tb, err)
	for _, l := range left {
		e.tb.Errorf("private layer %s is left", l.Name())
	}
	for range 50 {
		if !strings.Contains(backingFiles(e.tb), e.state) {
			return
		}
		time.Sleep(20 * time.Millisecond) // others may look at a device for a moment
	}
	e.tb.Errorf("loop devices are left:\n%s", backingFiles(e.tb))
}

func backingFiles(tb testing.TB) string {
	tb.Helper()
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	must(tb, err)
	var all strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil {
			all.Write(text)
		}
	}
	return all.String()
}

func TestFullWritableVolume(t *testing.T) {
	e := newEnv(t)
	m := e.start()
	v := e.writable("vol", e.small)
	at := e.mount(v)
	chunk := make([]byte, mib)
	var err error
	for i := 0; err == nil && i < 20; i++ {
		err = os.WriteFile(filepath.Join(at, "var", "fill"+string(rune('a'+i))), chunk, 0o600)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("writing past the limit gives %v, want no space", err)
	}
	u, err := m.Usage(e.target("vol"), v)
	must(t, err)
	if u.TotalBytes > 8*mib || u.AvailableBytes > mib || u.UsedBytes < 6*mib || u.TotalInodes == 0 {
		t.Errorf("usage of a full volume: %+v", u)
	}
	// Only this volume is full, and it can be emptied.
	must(t, os.WriteFile(filepath.Join(e.state, "free"), chunk, 0o600))
	must(t, os.Remove(filepath.Join(at, "var", "filla")))
	must(t, os.WriteFile(filepath.Join(at, "var", "again"), chunk[:mib/2], 0o600))
	e.unmount("vol")
	e.noLayers()
}

func TestWritableVolumeIsMadeForNonRoot(t *testing.T) {
	e := newEnv(t)
	e.start()
	at := e.mount(e.writable("vol", e.small))
	// The pod sees the volume bound in its own root; the way here is for root only.
	inside := tempDir(t)
	openWay(t, inside)
	must(t, unix.Mount(at, inside, "", unix.MS_BIND, ""))
	cmd := exec.Command("sh", "-c", "echo hi > $1/var/mine && echo hi > $1/store/mine && mkdir $1/etc && ! echo x > $1/store/*-root/bin/tool && ! rm -rf $1/store/*-root/bin", "sh", inside)
	cmd.SysProcAttr = asNobody()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if text, err := os.ReadFile(filepath.Join(at, "store", e.small.Root.BaseName(), "bin", "tool")); err != nil || len(text) == 0 {
		t.Errorf("a user changed what is root's: %v", err)
	}
}

// A privileged pod can set overlayfs's own xattrs; they must mean nothing.
func TestWritableVolumeCannotRedirect(t *testing.T) {
	e := newEnv(t)
	e.start()
	at := e.mount(e.writable("vol", e.small))
	hidden := storePath(6, "hidden")
	trap := filepath.Join(at, "store", "trap")
	must(t, os.Mkdir(trap, 0o755))
	file := filepath.Join(at, "store", "file")
	must(t, os.WriteFile(file, []byte("mine"), 0o600))
	for _, set := range []struct{ path, name, value string }{
		{trap, "trusted.overlay.redirect", "/" + hidden.BaseName()},
		{trap, "trusted.overlay.overlay.redirect", "/" + hidden.BaseName()},
		{trap, "trusted.overlay.opaque", "n"},
		{file, "trusted.overlay.redirect", "/" + hidden.BaseName() + "/secret"},
		{file, "trusted.overlay.metacopy", ""},
		{filepath.Join(at, "store"), "trusted.overlay.redirect", "/"},
		{at, "trusted.overlay.redirect", "/"},
	} {
		if err := unix.Lsetxattr(set.path, set.name, []byte(set.value), 0); err != nil {
			t.Logf("setting %s: %v", set.name, err)
		}
	}
	dropCaches(t)
	if entries, err := os.ReadDir(trap); err != nil || len(entries) != 0 {
		t.Errorf("the trap shows %v, %v", entries, err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "mine" {
		t.Errorf("the file shows %q, %v", text, err)
	}
	for name := range describeNames(t, at) {
		if strings.Contains(name, hidden.BaseName()) || strings.Contains(name, "secret") {
			t.Errorf("%s is visible", name)
		}
	}
}

// dropCaches makes the kernel look everything up again.
func dropCaches(tb testing.TB) {
	tb.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0o600); err != nil {
		tb.Logf("cannot drop caches: %v", err)
	}
}

func TestWritableVolumeIsRefused(t *testing.T) {
	e := newEnv(t)
	m := e.start()
	tests := map[string]func(*view.Volume){
		"in a user namespace":      func(v *view.Volume) { v.UserNamespace = true },
		"with a limit of one byte": func(v *view.Volume) { v.SizeLimitBytes = 1 },
		"with a negative limit":    func(v *view.Volume) { v.SizeLimitBytes = -1 },
		"with an endless limit":    func(v *view.Volume) { v.SizeLimitBytes = 1 << 60 },
		"with a slash in its id":   func(v *view.Volume) { v.ID = "a/../b" },
		"with a dot before its id": func(v *view.Volume) { v.ID = ".." },
		"with a long id":           func(v *view.Volume) { v.ID = strings.Repeat("a", 300) },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			v := e.writable("vol", e.small)
			change(&v)
			err := m.Mount(context.Background(), v, e.target("vol"))
			if !errors.Is(err, nixstore.ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
			if _, err := os.Lstat(e.path("vol")); !os.IsNotExist(err) {
				t.Errorf("the target is there: %v", err)
			}
		})
	}
}

func TestSweepWritable(t *testing.T) {
	e := newEnv(t)
	m := e.start()
	e.mount(e.writable("keep.me", e.small))
	e.mount(e.writable("drop", e.small))
	must(t, os.Mkdir(filepath.Join(e.state, "writable", "junk"), 0o700))
	var asked []string
	must(t, m.SweepWritable(func(id string) bool {
		asked = append(asked, id)
		return id == "keep.me"
	}))
	left, err := os.ReadDir(filepath.Join(e.state, "writable"))
	must(t, err)
	if len(left) != 1 || !strings.HasPrefix(left[0].Name(), "keep.me.") || len(asked) != 2 {
		t.Errorf("left %v, asked %v", left, asked)
	}
	e.unmount("drop")
	e.unmount("keep.me")
	e.noLayers()
}
