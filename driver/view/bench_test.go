//go:build privileged

package view_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
)

// shapes are closures of several sizes.
var shapes = []struct{ paths, files int }{{60, 3000}, {400, 30_000}, {1500, 150_000}}

// bigEnv makes a node whose store holds a closure of a shape.
func bigEnv(b *testing.B, paths, files int) (*env, nixstore.Closure) {
	b.Helper()
	e := newEnv(b)
	all := make([]nixstore.StorePath, paths)
	perPath := files / paths
	for i := range all {
		all[i] = storePath(1000+i, fmt.Sprintf("package-%d", i))
		for f := range perPath {
			dir := e.physical(all[i], fmt.Sprintf("share/d%d", f/10))
			if f%10 == 0 {
				must(b, os.MkdirAll(dir, 0o755))
			}
			must(b, os.WriteFile(filepath.Join(dir, fmt.Sprint(f)), nil, 0o444))
		}
	}
	return e, e.store.add(1, all...)
}

// BenchmarkFirstView makes and mounts the view of a closure that no volume had
// before, and takes it down outside of the measured time.
func BenchmarkFirstView(b *testing.B) {
	for _, s := range shapes {
		e, c := bigEnv(b, s.paths, s.files)
		for _, kind := range []string{"redirect overlay", "hard link view"} {
			b.Run(fmt.Sprintf("%s/%d paths, %d files", kind, s.paths, s.files), func(b *testing.B) {
				e.tb = b
				m := e.start(kinds[kind]...)
				target, v := e.target("vol"), e.volume("vol", c)
				for b.Loop() {
					must(b, m.Mount(context.Background(), v, target))
					b.StopTimer()
					must(b, m.Unmount(context.Background(), v.ID, target))
					m.DropIdle(time.Now().Add(time.Hour))
					b.StartTimer()
				}
			})
		}
	}
}

// BenchmarkWarm publishes and unpublishes a volume whose view is there, as the
// driver does it, beside other mounts on the node.
func BenchmarkWarm(b *testing.B) {
	for _, others := range []int{0, 500, 10_000} {
		e, c := bigEnv(b, 1500, 1500)
		e.start()
		e.mount(e.volume("keeper", c))
		crowd(b, others)
		b.Run(fmt.Sprintf("%d other mounts", others), func(b *testing.B) {
			v, path := e.volume("vol", c), e.path("vol")
			must(b, os.MkdirAll(filepath.Dir(path), 0o755))
			var publishing []time.Duration
			for b.Loop() {
				publishing = append(publishing, once(b, e, v, path))
			}
			slices.Sort(publishing)
			b.ReportMetric(float64(publishing[len(publishing)/2].Nanoseconds()), "publish-p50-ns")
			b.ReportMetric(float64(publishing[len(publishing)*99/100].Nanoseconds()), "publish-p99-ns")
		})
	}
}

// once publishes and unpublishes, and tells how long publishing took.
func once(b *testing.B, e *env, v view.Volume, path string) time.Duration {
	b.Helper()
	start := time.Now()
	t, err := view.OpenTarget(e.kubelet, path)
	must(b, err)
	defer t.Close()
	state, err := e.m.Mounted(t, v)
	if err != nil || state != view.Absent {
		b.Fatalf("state %v, %v", state, err)
	}
	must(b, e.m.Mount(context.Background(), v, t))
	took := time.Since(start)
	must(b, e.m.Unmount(context.Background(), v.ID, t))
	return took
}

// crowd makes n bind mounts.
func crowd(b *testing.B, n int) {
	b.Helper()
	dir := tempDir(b)
	must(b, unix.Mount("tmpfs", dir, "tmpfs", 0, "nr_inodes=0"))
	for i := range n {
		at := filepath.Join(dir, fmt.Sprint(i))
		must(b, os.Mkdir(at, 0o755))
		must(b, unix.Mount(at, at, "", unix.MS_BIND, ""))
	}
}

// BenchmarkWritable publishes and unpublishes a writable volume.
func BenchmarkWritable(b *testing.B) {
	e := newEnv(b)
	m := e.start()
	target, v := e.target("vol"), e.volume("vol", e.small)
	v.Writable = true
	for b.Loop() {
		must(b, m.Mount(context.Background(), v, target))
		must(b, m.Unmount(context.Background(), v.ID, target))
	}
}

// BenchmarkBareBind mounts and unmounts the whole store: the limit.
func BenchmarkBareBind(b *testing.B) {
	e := newEnv(b)
	at := filepath.Join(e.kubelet, "mount")
	for b.Loop() {
		must(b, os.Mkdir(at, 0o750))
		must(b, unix.Mount(e.store.dir, at, "", unix.MS_BIND, ""))
		must(b, unix.Unmount(at, 0))
		must(b, os.Remove(at))
	}
}
