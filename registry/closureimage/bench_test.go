package closureimage_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage"
)

// benchClosure makes a closure of 130 paths with 300 MB in some 9,000 files: a few
// large libraries, and many small files, as closures have them.
func benchClosure(b *testing.B) (*fakeStore, nixstore.StorePath) {
	b.Helper()
	s := newStore(b)
	rng := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 40<<20)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	piece := func(n int) string {
		at := rng.IntN(len(noise) - n)
		return string(noise[at : at+n])
	}
	var all []nixstore.StorePath
	for n := range 129 {
		tree := files{"lib/lib.so*": piece(1 << 20)}
		if n%32 == 0 {
			tree["lib/large.so*"] = piece(25 << 20)
		}
		for f := range 70 {
			tree[fmt.Sprintf("share/d%d/f%d", f%9, f)] = piece(rng.IntN(rng.IntN(32<<10) + 1))
		}
		var refs []nixstore.StorePath
		for range min(len(all), 3) {
			refs = append(refs, all[rng.IntN(len(all))])
		}
		slices.SortFunc(refs, nixstore.StorePath.Compare)
		all = append(all, s.add(b, fmt.Sprintf("p%d-1.0", n), tree, slices.Compact(refs)...))
	}
	return s, s.add(b, "root", files{"bin/x*": "x"}, all...)
}

// regular lists the store's files, the largest first, and their bytes.
func regular(b *testing.B, dir string) (names []string, total int64) {
	b.Helper()
	sizes := map[string]int64{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			names, sizes[p] = append(names, p), info.Size()
			total += info.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	slices.SortFunc(names, func(p, q string) int { return int(sizes[q] - sizes[p]) })
	return names, total
}

// onAllCores calls work with each number below n.
func onAllCores(n int, work func(int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				work(int(i))
			}
		})
	}
	wg.Wait()
}

func timed(work func()) time.Duration {
	start := time.Now()
	work()
	return time.Since(start)
}

// median gives the middle of some times, in seconds.
func median(d []time.Duration) float64 {
	slices.Sort(d)
	return d[len(d)/2].Seconds()
}

// BenchmarkColdManifest compares an unknown image with plain SHA-256 on all cores:
// over the same files, read once each, and over their bytes in memory.
func BenchmarkColdManifest(b *testing.B) {
	s, root := benchClosure(b)
	names, total := regular(b, s.dir)
	var memory [][]byte
	for _, n := range names {
		data, err := os.ReadFile(n)
		if err != nil {
			b.Fatal(err)
		}
		memory = append(memory, data)
	}
	buffers := sync.Pool{New: func() any { return new([256 << 10]byte) }}
	var cold, plain, inMemory []time.Duration
	for b.Loop() {
		builder := s.builder(b)
		cold = append(cold, timed(func() { mustImage(b, builder, spec(root, closureimage.Root)) }))
		plain = append(plain, timed(func() {
			onAllCores(len(names), func(i int) {
				f, err := os.Open(names[i])
				if err != nil {
					b.Error(err)
					return
				}
				buf, _ := buffers.Get().(*[256 << 10]byte)
				h := sha256.New()
				_, err = io.CopyBuffer(h, struct{ io.Reader }{f}, buf[:])
				if err != nil {
					b.Error(err)
				}
				buffers.Put(buf)
				_ = f.Close()
			})
		}))
		inMemory = append(inMemory, timed(func() { onAllCores(len(memory), func(i int) { sha256.Sum256(memory[i]) }) }))
	}
	b.ReportMetric(median(cold)*1000, "cold-ms")
	b.ReportMetric(median(cold)/median(plain), "times-plain-files")
	b.ReportMetric(median(cold)/median(inMemory), "times-plain-memory")
	b.ReportMetric(float64(total)/1e6, "MB")
	b.ReportMetric(float64(len(names)), "files")
}

// BenchmarkBlobStream compares the layers, read by a client that hashes them, with
// tar of the same paths piped to sha256sum.
func BenchmarkBlobStream(b *testing.B) {
	s, root := benchClosure(b)
	_, total := regular(b, s.dir)
	image := mustImage(b, s.builder(b), spec(root, closureimage.Root))
	blobs := layersOf(b, image)
	var ours, theirs []time.Duration
	for b.Loop() {
		ours = append(ours, timed(func() {
			for _, blob := range blobs {
				r, err := blob.Open(b.Context(), 0)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(sha256.New(), r); err != nil {
					b.Fatal(err)
				}
				_ = r.Close()
			}
		}))
		theirs = append(theirs, timed(func() { tarToSum(b, s.dir) }))
	}
	b.ReportMetric(float64(total)/1e6/median(ours), "MB/s")
	b.ReportMetric(float64(total)/1e6/median(theirs), "tar-MB/s")
	b.ReportMetric(median(theirs)/median(ours), "times-tar")
}

func tarToSum(b *testing.B, dir string) {
	b.Helper()
	tar := exec.CommandContext(b.Context(), "tar", "-C", dir, "-cf", "-", ".")
	sum := exec.CommandContext(b.Context(), "sha256sum")
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	tar.Stdout, sum.Stdin = w, r
	if err := tar.Start(); err != nil {
		b.Fatal(err)
	}
	if err := sum.Start(); err != nil {
		b.Fatal(err)
	}
	_, _ = r.Close(), w.Close()
	if err := tar.Wait(); err != nil {
		b.Fatal(err)
	}
	if err := sum.Wait(); err != nil {
		b.Fatal(err)
	}
}

func layersOf(tb testing.TB, i *closureimage.Image) []closureimage.Blob {
	tb.Helper()
	image, err := i.V1(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	m, err := image.Manifest()
	if err != nil {
		tb.Fatal(err)
	}
	var blobs []closureimage.Blob
	for _, d := range m.Layers {
		blob, ok := i.Blob(d.Digest.String())
		if !ok {
			tb.Fatalf("the image lacks its layer %s", d.Digest)
		}
		blobs = append(blobs, blob)
	}
	return blobs
}

// BenchmarkSixteenPulls reads sixteen blobs at once, in turns, and reports the
// memory that the process had from the system at most, beyond that of before.
func BenchmarkSixteenPulls(b *testing.B) {
	for _, c := range []closureimage.Compression{closureimage.None, closureimage.Gzip, closureimage.Zstd} {
		b.Run(c.String(), func(b *testing.B) {
			s, root := benchClosure(b)
			image := mustImage(b, s.builder(b, func(cfg *closureimage.Config) { cfg.Compression = c }), spec(root, closureimage.Root))
			blobs := layersOf(b, image)
			runtime.GC()
			var before, now runtime.MemStats
			runtime.ReadMemStats(&before)
			var peak uint64
			for b.Loop() {
				var wg sync.WaitGroup
				for n := range 16 {
					wg.Go(func() {
						for m := n; m < len(blobs); m += 16 {
							if err := copyBlob(b.Context(), blobs[m]); err != nil {
								b.Error(err)
							}
						}
					})
				}
				done := make(chan struct{})
				go func() { wg.Wait(); close(done) }()
				for running := true; running; {
					select {
					case <-done:
						running = false
					case <-time.After(5 * time.Millisecond):
						runtime.ReadMemStats(&now)
						peak = max(peak, now.HeapInuse+now.StackInuse)
					}
				}
			}
			b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
			b.ReportMetric(float64(peak-min(peak, before.HeapInuse+before.StackInuse))/(1<<20), "more-MiB")
		})
	}
}

func copyBlob(ctx context.Context, blob closureimage.Blob) error {
	r, err := blob.Open(ctx, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

// BenchmarkKnownManifest asks for a known image: from memory, and from its file as
// after a restart. It reads neither the closure nor its files.
func BenchmarkKnownManifest(b *testing.B) {
	s, root := benchClosure(b)
	dir := b.TempDir()
	cfg := closureimage.Config{StoreDir: s.dir, CacheDir: dir, Closures: s}
	open := func() *closureimage.Builder {
		builder, err := closureimage.New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		return builder
	}
	builder := open()
	want := mustImage(b, builder, spec(root, closureimage.Root)).Manifest()
	reads := s.closureReads()
	b.Run("memory", func(b *testing.B) {
		for b.Loop() {
			if got := mustImage(b, builder, spec(root, closureimage.Root)).Manifest(); !bytes.Equal(got, want) {
				b.Fatal("another manifest")
			}
		}
	})
	b.Run("restart", func(b *testing.B) {
		for b.Loop() {
			if got := mustImage(b, open(), spec(root, closureimage.Root)).Manifest(); !bytes.Equal(got, want) {
				b.Fatal("another manifest")
			}
		}
	})
	if s.closureReads() != reads {
		b.Errorf("the closure was read %d times more", s.closureReads()-reads)
	}
}
