//go:build privileged

package view_test

import (
	"bufio"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
)

// Volumes of a killed agent go on; the next one sweeps the rest.
func TestFault07KilledAgent(t *testing.T) {
	e := newEnv(t)
	dir, file := storePath(1, "root"), storePath(2, "file.conf")
	c := e.store.add(1, dir)
	for round := range 20 {
		e.runAndKill(dir.String(), file.String())
		fixed, private := filepath.Join(e.kubelet, "fixed-0", "mount"), filepath.Join(e.kubelet, "fixed-1", "mount")
		e.sameAsStore(fixed, c)

		m, err := view.New(t.Context(), view.Config{StateDir: e.state, StoreDir: e.store.dir, Closures: e.store})
		must(t, err)
		e.sameAsStore(fixed, c)
		e.stillWorks(private, file)
		volumes, err := m.Volumes()
		must(t, err)
		for _, v := range volumes {
			id := filepath.Base(filepath.Dir(v.Path))
			if v.Own && v.Root.IsZero() {
				t.Errorf("round %d: the root of %s (%s) is unknown", round, id, v.Kind)
			}
			if v.Own && !strings.HasPrefix(id, "fixed") {
				e.takeAway(m, id)
			}
		}
		must(t, m.SweepWritable(func(id string) bool { return strings.HasPrefix(id, "fixed") }))
		if n := len(mountsBelow(t, e.kubelet)); n != 2 {
			t.Errorf("round %d: %d volumes, want the 2 fixed ones", round, n)
		}
		e.sameAsStore(fixed, c)
		must(t, m.Close())
		if points := mountsBelow(t, e.state); len(points) != 0 {
			t.Errorf("round %d: a closed manager leaves %v", round, points)
		}
		if n := strings.Count(backingFiles(t), e.state); n != 1 {
			t.Errorf("round %d: %d loop devices for one writable volume", round, n)
		}
	}
	e.takeAway(e.start(), "fixed-1")
	e.noLayers()
}

// stillWorks reads and writes a writable volume of an earlier life.
func (e *env) stillWorks(at string, file nixstore.StorePath) {
	e.tb.Helper()
	dropCaches(e.tb)
	text, err := os.ReadFile(filepath.Join(at, "store", file.BaseName()))
	if err != nil || string(text) != "key = value\n" {
		e.tb.Errorf("a writable volume reads %q, %v", text, err)
	}
	must(e.tb, os.WriteFile(filepath.Join(at, "store", "own"), []byte("x"), 0o600))
}

// takeAway unmounts a volume of the agent's.
func (e *env) takeAway(m *view.Manager, id string) {
	e.tb.Helper()
	target, err := view.OpenTarget(e.kubelet, filepath.Join(e.kubelet, id, "mount"))
	must(e.tb, err)
	defer target.Close()
	must(e.tb, m.Unmount(e.tb.Context(), id, target))
}

// runAndKill runs an agent and kills it in the middle of its work.
func (e *env) runAndKill(roots ...string) {
	e.tb.Helper()
	cmd := roleCommand(e.tb, roleAgent, append([]string{e.state, e.kubelet}, roots...)...)
	out, err := cmd.StdoutPipe()
	must(e.tb, err)
	must(e.tb, cmd.Start())
	waitFor(e.tb, bufio.NewScanner(out), "ready")
	time.Sleep(time.Duration(rand.IntN(100_000)) * time.Microsecond)
	must(e.tb, cmd.Process.Kill())
	_ = cmd.Wait() // killed
}

// A hard link view of an earlier life serves new volumes and goes with the last one.
func TestHardLinkViewsOutliveTheAgent(t *testing.T) {
	for _, writable := range []bool{false, true} {
		t.Run(map[bool]string{true: "writable", false: "read-only"}[writable], func(t *testing.T) {
			e := newEnv(t)
			m := e.start(forceHardLinks)
			e.mount(e.volume("unused", e.other))
			v := e.volume("old", e.small)
			if writable {
				v = e.writable("old", e.small)
			}
			at := e.mount(v)
			e.unmount("unused")
			must(t, m.Close())

			m = e.start(forceHardLinks)
			if n := len(childrenOf(t, filepath.Join(e.state, "linkviews"))); n != 1 {
				t.Errorf("%d hard link views are left, want the used one", n)
			}
			if state, err := m.Mounted(e.target("old"), v); err != nil || state != view.Same {
				t.Errorf("state %v, %v", state, err)
			}
			asked := e.store.asked.Load()
			e.sameAsStore(e.mount(e.volume("new", e.small)), e.small)
			if e.store.asked.Load() != asked || m.Count() != 1 {
				t.Error("the old view was not shared")
			}
			e.unmount("new")
			m.DropIdle(time.Now().Add(time.Hour))
			if _, err := os.ReadFile(filepath.Join(at, "store", e.small.Root.BaseName(), "bin", "tool")); err != nil {
				t.Errorf("a view in use was dropped: %v", err)
			}
			e.unmount("old")
			m.DropIdle(time.Now().Add(time.Hour))
			if left := childrenOf(t, filepath.Join(e.state, "linkviews")); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestTrashOfAnEarlierLifeIsRemoved(t *testing.T) {
	e := newEnv(t)
	links := filepath.Join(e.state, "linkviews")
	for _, name := range []string{".trash-1", ".trash-2", ".tmp-1", "0123.1.1"} {
		must(t, os.MkdirAll(filepath.Join(links, name, "view", "store"), 0o555))
	}
	m := e.start(forceHardLinks, func(c *view.Config) { c.IdleTime = 20 * time.Millisecond })
	e.mount(e.volume("vol", e.small))
	done := make(chan error, 1)
	ctx, cancel := contextOf(t)
	go func() { done <- m.Run(ctx) }()
	for range 100 {
		if len(childrenOf(t, links)) == 1 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	cancel()
	must(t, <-done)
	if left := childrenOf(t, links); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// The agent runs in a container that has the kubelet folder with bidirectional
// propagation: its volumes appear on the host, its helper mounts do not.
func TestMountsPropagate(t *testing.T) {
	e := newEnv(t)
	must(t, unix.Mount(e.kubelet, e.kubelet, "", unix.MS_BIND, ""))
	must(t, unix.Mount("", e.kubelet, "", unix.MS_SHARED, ""))
	must(t, unix.Mount(e.state, e.state, "", unix.MS_BIND, "")) // the worst case: this one is shared, too
	must(t, unix.Mount("", e.state, "", unix.MS_SHARED, ""))
	root := storePath(1, "root")
	c := e.store.add(1, root)
	cmd := roleCommand(t, roleAgent, e.state, e.kubelet, root.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	waitFor(t, bufio.NewScanner(out), "ready")
	at := filepath.Join(e.kubelet, "fixed-0", "mount")
	e.sameAsStore(at, c)
	e.checkFlags(at)
	for _, p := range mountsBelow(t, filepath.Join(e.state, "views")) {
		if p != filepath.Join(e.state, "views") { // the tmpfs itself comes through before it is made private
			t.Errorf("helper mount on the host: %s", p)
		}
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	e.sameAsStore(at, c)
	// The next agent's container takes it away on the host, too.
	m := e.start()
	e.takeAway(m, "fixed-0")
}

func TestClosedManager(t *testing.T) {
	e := newEnv(t)
	m := e.start()
	v := e.volume("vol", e.small)
	at := e.mount(v)
	must(t, m.Close())
	e.sameAsStore(at, e.small)
	if state, err := m.Mounted(e.target("vol"), v); err != nil || state != view.Same {
		t.Errorf("state %v, %v", state, err)
	}
	if err := m.Mount(t.Context(), v, e.target("late")); err == nil {
		t.Error("a closed manager mounts")
	}
	e.unmount("vol")
}

// A reboot leaves the state directory and the targets' folders, and no mount.
func TestFault12Reboot(t *testing.T) {
	for name, change := range kinds {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			m := e.start(change...)
			readOnly, writable := e.volume("ro", e.small), e.writable("rw", e.small)
			for _, v := range []view.Volume{readOnly, writable} {
				at := e.mount(v)
				if v.Writable {
					must(t, os.WriteFile(filepath.Join(at, "store", "own"), nil, 0o600))
				}
				must(t, unix.Unmount(at, 0))
			}
			must(t, m.Close())

			m = e.start(change...)
			must(t, m.SweepWritable(func(string) bool { return true }))
			for _, v := range []view.Volume{readOnly, writable} {
				if state, err := m.Mounted(e.target(v.ID), v); err != nil || state != view.Absent {
					t.Errorf("state %v, %v", state, err)
				}
				e.mount(v)
			}
			e.sameAsStore(e.path("ro"), e.small)
			if _, err := os.Lstat(filepath.Join(e.path("rw"), "store", "own")); !os.IsNotExist(err) {
				t.Errorf("a private layer outlived a reboot: %v", err)
			}
			e.unmount("ro")
			e.unmount("rw")
			e.noLayers()
		})
	}
}

// An unpublish that was killed between two of its steps is finished by the next one.
func TestFault08KilledDuringUnmount(t *testing.T) {
	tests := map[string]func(e *env, at string){
		"before anything":       func(*env, string) {},
		"after the unmount":     func(e *env, at string) { must(e.tb, unix.Unmount(at, 0)) },
		"after the folder went": func(e *env, at string) { must(e.tb, unix.Unmount(at, 0)); must(e.tb, os.Remove(at)) },
	}
	for name, partly := range tests {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			m := e.start()
			volumes := []view.Volume{e.volume("ro", e.small), e.writable("rw", e.small)}
			for _, v := range volumes {
				partly(e, e.mount(v))
			}
			must(t, m.Close()) // stands for the kill: nothing of the process is left
			e.start()
			for _, v := range volumes {
				e.unmount(v.ID)
			}
			if points := mountsBelow(t, e.kubelet); len(points) != 0 {
				t.Errorf("mounts left: %v", points)
			}
			e.noLayers()
		})
	}
}

// Nothing of the agent is in the way of a volume's data: with the agent and its
// mount namespace gone, all files read, also after the kernel forgot about them.
func TestFault09VolumesWithoutAgent(t *testing.T) {
	e := newEnv(t)
	must(t, unix.Mount(e.kubelet, e.kubelet, "", unix.MS_BIND, ""))
	must(t, unix.Mount("", e.kubelet, "", unix.MS_SHARED, ""))
	root, file := storePath(1, "root"), storePath(2, "file.conf")
	c := e.store.add(1, root)
	cmd := roleCommand(t, roleAgent, e.state, e.kubelet, root.String(), file.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	waitFor(t, bufio.NewScanner(out), "ready")
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	dropCaches(t)
	e.sameAsStore(filepath.Join(e.kubelet, "fixed-0", "mount"), c)
	e.stillWorks(filepath.Join(e.kubelet, "fixed-1", "mount"), file)
}
