//go:build privileged

package view_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
)

const base32 = "0123456789abcdfghijklmnpqrsvwxyz"

// storePath makes the n-th store path of a name.
func storePath(n int, name string) nixstore.StorePath {
	hash := make([]byte, 32)
	for i := range hash {
		hash[i] = base32[n%32]
		n /= 32
	}
	return nixstore.MustParseStorePath(nixstore.Dir + "/" + string(hash) + "-" + name)
}

// fakeStore is a physical store folder, and what its database would say.
type fakeStore struct {
	dir      string
	closures map[nixstore.StorePath]nixstore.Closure
	asked    atomic.Int64
	fail     error
	delay    time.Duration
}

func (s *fakeStore) Closure(ctx context.Context, root nixstore.StorePath) (nixstore.Closure, error) {
	s.asked.Add(1)
	select {
	case <-ctx.Done():
		return nixstore.Closure{}, ctx.Err()
	case <-time.After(s.delay):
	}
	if s.fail != nil {
		return nixstore.Closure{}, s.fail
	}
	c, ok := s.closures[root]
	if !ok {
		return c, nixstore.Fail(nixstore.ErrNotFound, "", "%s is not valid", root)
	}
	return c, nil
}

// add registers a closure; the first path is its root.
func (s *fakeStore) add(registration int64, paths ...nixstore.StorePath) nixstore.Closure {
	c := nixstore.Closure{Root: paths[0], Registration: registration}
	slices.SortFunc(paths, nixstore.StorePath.Compare)
	for _, p := range paths {
		c.Paths = append(c.Paths, nixstore.PathInfo{Path: p, NarHash: "sha256-x", NarSize: 1000})
	}
	s.closures[c.Root] = c
	return c
}

// env is one node: state directory, store, kubelet folder, manager.
type env struct {
	tb      testing.TB
	state   string
	kubelet string
	store   *fakeStore
	m       *view.Manager
	small   nixstore.Closure // a directory, a file, a program and a symlink
	other   nixstore.Closure // one more directory
}

// newEnv makes a node with a small store and no manager.
func newEnv(tb testing.TB) *env {
	tb.Helper()
	base := tempDir(tb)
	e := &env{tb: tb, state: filepath.Join(base, "state"), kubelet: filepath.Join(base, "kubelet")}
	e.store = &fakeStore{dir: filepath.Join(e.state, "nix", "store"), closures: map[nixstore.StorePath]nixstore.Closure{}}
	must(tb, os.MkdirAll(e.store.dir, 0o755))
	must(tb, os.MkdirAll(e.kubelet, 0o755))
	e.fill()
	return e
}

// tempDir is tb.TempDir on a short path; what tests leave mounted is detached first.
func tempDir(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	tb.Cleanup(func() { detachBelow(tb, dir) })
	return dir
}

func detachBelow(tb testing.TB, dir string) {
	tb.Helper()
	for range 3 {
		points := mountsBelow(tb, dir)
		for _, p := range slices.Backward(points) {
			_ = unix.Unmount(p, unix.MNT_DETACH)
		}
		if len(points) == 0 {
			return
		}
	}
}

// fill makes the store's content: two closures, and one path of none.
func (e *env) fill() {
	d, f, x, l := storePath(1, "root"), storePath(2, "file.conf"), storePath(3, "program.sh"), storePath(4, "link")
	o, h := storePath(5, "other"), storePath(6, "hidden")
	e.write(d, "bin/tool", "#!/bin/sh\necho tool\n", 0o555)
	e.write(d, "share/doc/readme", strings.Repeat("read me\n", 1000), 0o444)
	e.write(d, "share/empty", "", 0o444)
	must(e.tb, os.Symlink("../bin/tool", e.physical(d, "share/tool")))
	must(e.tb, os.Symlink("/nix/store/"+o.BaseName(), e.physical(d, "share/absolute")))
	must(e.tb, os.MkdirAll(e.physical(d, "emptydir"), 0o755))
	e.write(f, "", "key = value\n", 0o444)
	e.write(x, "", "#!/bin/sh\necho program\n", 0o555)
	must(e.tb, os.Symlink("/nix/store/"+d.BaseName()+"/bin/tool", e.physical(l, "")))
	e.write(o, "lib/lib.so", "library", 0o444)
	e.write(h, "secret", "secret", 0o444)
	for _, p := range []nixstore.StorePath{d, f, x, l, o, h} {
		canonicalise(e.tb, e.physical(p, ""))
	}
	must(e.tb, unix.UtimesNanoAt(unix.AT_FDCWD, e.store.dir, []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0))
	e.small = e.store.add(7, d, f, x, l)
	e.other = e.store.add(8, o)
}

func (e *env) physical(p nixstore.StorePath, rel string) string {
	return filepath.Join(e.store.dir, p.BaseName(), rel)
}

func (e *env) write(p nixstore.StorePath, rel, text string, mode fs.FileMode) {
	e.tb.Helper()
	name := e.physical(p, rel)
	must(e.tb, os.MkdirAll(filepath.Dir(name), 0o755))
	must(e.tb, os.WriteFile(name, []byte(text), 0o600))
	must(e.tb, os.Chmod(name, mode))
}

// canonicalise sets modes and times as Nix does.
func canonicalise(tb testing.TB, root string) {
	tb.Helper()
	var all []string
	must(tb, filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		all = append(all, p)
		return err
	}))
	for _, p := range slices.Backward(all) {
		st, err := os.Lstat(p)
		must(tb, err)
		if st.Mode()&fs.ModeSymlink == 0 {
			must(tb, os.Chmod(p, st.Mode().Perm()&0o555))
		}
		times := []unix.Timespec{{Sec: 1}, {Sec: 1}}
		must(tb, unix.UtimesNanoAt(unix.AT_FDCWD, p, times, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// start makes the node's manager.
func (e *env) start(change ...func(*view.Config)) *view.Manager {
	e.tb.Helper()
	cfg := view.Config{StateDir: e.state, StoreDir: e.store.dir, Closures: e.store}
	for _, f := range change {
		f(&cfg)
	}
	m, err := view.New(context.Background(), cfg)
	must(e.tb, err)
	e.m = m
	e.tb.Cleanup(func() {
		if err := m.Close(); err != nil {
			e.tb.Errorf("closing the manager: %v", err)
		}
	})
	return m
}

func forceHardLinks(c *view.Config) { c.ForceHardLinks = true }

// target opens the target of a volume, whose parent it makes.
func (e *env) target(id string) *view.Target {
	e.tb.Helper()
	path := e.path(id)
	must(e.tb, os.MkdirAll(filepath.Dir(path), 0o755))
	t, err := view.OpenTarget(e.kubelet, path)
	must(e.tb, err)
	e.tb.Cleanup(func() { _ = t.Close() })
	return t
}

func (e *env) path(id string) string {
	return filepath.Join(e.kubelet, "pods", id, "volumes", "kubernetes.io~csi", "nix", "mount")
}

func (e *env) volume(id string, c nixstore.Closure) view.Volume {
	return view.Volume{ID: id, Root: c.Root, Registration: c.Registration}
}

// mount mounts a volume and gives its path.
func (e *env) mount(v view.Volume) string {
	e.tb.Helper()
	must(e.tb, e.m.Mount(context.Background(), v, e.target(v.ID)))
	return e.path(v.ID)
}

func (e *env) unmount(id string) {
	e.tb.Helper()
	must(e.tb, e.m.Unmount(context.Background(), id, e.target(id)))
	if _, err := os.Lstat(e.path(id)); !os.IsNotExist(err) {
		e.tb.Errorf("the target of %s is still there: %v", id, err)
	}
}

// sameAsStore walks everything that a view shows and compares it with the store.
func (e *env) sameAsStore(at string, c nixstore.Closure) {
	e.tb.Helper()
	want := map[string]string{".": "d555", "store": "d555", "var": "d555", "var/result": "l" + c.Root.String()}
	manifest, err := c.Manifest(nixstore.System())
	must(e.tb, err)
	want["var/closure.json"] = "f444:" + string(manifest)
	for _, p := range c.Paths {
		for rel, text := range describe(e.tb, e.physical(p.Path, "")) {
			want[filepath.Join("store", p.Path.BaseName(), rel)] = text
		}
	}
	have := describe(e.tb, at)
	for name, text := range want {
		if have[name] != text {
			e.tb.Errorf("%s is %.60q, want %.60q", name, have[name], text)
		}
	}
	for name := range have {
		if _, ok := want[name]; !ok {
			e.tb.Errorf("%s is visible", name)
		}
	}
}

// describe gives for each name below root its type, permissions, time and content.
func describe(tb testing.TB, root string) map[string]string {
	tb.Helper()
	found := make(map[string]string)
	must(tb, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		found[rel] = describeOne(tb, p)
		if d.Type() != lstat(tb, p).Mode().Type() {
			tb.Errorf("%s has another type in its folder's listing", p)
		}
		return nil
	}))
	return found
}

func describeOne(tb testing.TB, p string) string {
	tb.Helper()
	st := lstat(tb, p)
	sys, _ := st.Sys().(*syscall.Stat_t)
	if st.ModTime().Unix() != 1 || sys.Uid != 0 || sys.Gid != 0 {
		tb.Errorf("%s: time %v, owner %d:%d", p, st.ModTime(), sys.Uid, sys.Gid)
	}
	switch {
	case st.IsDir():
		return fmt.Sprintf("d%o", unixMode(st))
	case st.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(p)
		must(tb, err)
		return "l" + to
	}
	text, err := os.ReadFile(p)
	must(tb, err)
	if int64(len(text)) != st.Size() {
		tb.Errorf("%s: size %d, content of %d bytes", p, st.Size(), len(text))
	}
	return fmt.Sprintf("f%o:%s", unixMode(st), text)
}

func unixMode(st fs.FileInfo) uint32 {
	sys, _ := st.Sys().(*syscall.Stat_t)
	return sys.Mode & 0o7777
}

func lstat(tb testing.TB, p string) fs.FileInfo {
	tb.Helper()
	st, err := os.Lstat(p)
	must(tb, err)
	return st
}

// mountsBelow gives the mount points at or below dir, in the order of the table.
func mountsBelow(tb testing.TB, dir string) []string {
	tb.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	must(tb, err)
	var points []string
	for line := range strings.SplitSeq(string(data), "\n") {
		fields := strings.Fields(line)
		if len(fields) > 4 && (fields[4] == dir || strings.HasPrefix(fields[4], dir+"/")) {
			points = append(points, fields[4])
		}
	}
	return points
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// describeNames gives the names below root.
func describeNames(tb testing.TB, root string) map[string]bool {
	tb.Helper()
	names := make(map[string]bool)
	must(tb, filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		names[p] = true
		return err
	}))
	return names
}

// asNobody makes a command run without any privilege.
func asNobody() *syscall.SysProcAttr {
	const nobody = 65534
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}

// openWay lets everybody walk to dir.
func openWay(tb testing.TB, dir string) {
	tb.Helper()
	for ; strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
		must(tb, os.Chmod(dir, 0o755))
	}
}

func nlink(st fs.FileInfo) uint64 {
	sys, _ := st.Sys().(*syscall.Stat_t)
	return uint64(sys.Nlink) //nolint:unconvert // it is narrower on other architectures, such as arm64
}
