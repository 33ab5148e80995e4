//go:build privileged

package binarycache_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/binarycache"
)

// BenchmarkFetch copies one closure from one store to new ones on the same disk,
// in each of the ways there are: from another node, from a folder of ready NARs
// over the same HTTP, and without network by Nix's own programs.
func BenchmarkFetch(b *testing.B) {
	key := newKey(b, "install-1")
	a := newNode(b, key)
	for _, shape := range []struct {
		name           string
		paths          int
		files, sizeKiB string
	}{
		{"16-of-12MiB", 16, "4", "12288"},
		{"300-of-64KiB", 300, "8", "64"},
	} {
		root := nixtest.SyntheticClosure(b, a.dir, shape.paths, shape.name, "--arg", "files", shape.files, "--arg", "sizeKiB", shape.sizeKiB)
		closure, err := a.store.Closure(b.Context(), nixstore.MustParseStorePath(root))
		if err != nil {
			b.Fatal(err)
		}
		for name, run := range map[string]func(b *testing.B, n *node){
			"node":          fetchFrom(a.serve(b, nil), root),
			"ready-nars":    fetchFrom(readyNARs(b, a, root), root),
			"nix-copy":      copyFrom(a, root),
			"export-import": exportFrom(a, closure),
		} {
			b.Run(shape.name+"/"+name, func(b *testing.B) {
				b.SetBytes(closure.NarSize())
				for b.Loop() {
					b.StopTimer()
					n := newNode(b, key).run(b)
					b.StartTimer()
					run(b, n)
				}
			})
		}
		b.Run(shape.name+"/against-nix-copy", againstCopy(key, fetchFrom(a.serve(b, nil), root), copyFrom(a, root)))
	}
}

// againstCopy fetches and copies by turns, and gives the speed of fetches as a
// multiple of that of copies: what else the machine does slows down both.
func againstCopy(key binarycache.SecretKey, fetch, byCopy func(*testing.B, *node)) func(*testing.B) {
	return func(b *testing.B) {
		var took, copied time.Duration
		for b.Loop() {
			b.StopTimer()
			n, other := newNode(b, key).run(b), newNode(b, key)
			b.StartTimer()
			begin := time.Now()
			fetch(b, n)
			took += time.Since(begin)
			b.StopTimer()
			begin = time.Now()
			byCopy(b, other)
			copied += time.Since(begin)
			b.StartTimer()
		}
		b.ReportMetric(copied.Seconds()/took.Seconds(), "x-nix-copy")
	}
}

func fetchFrom(address, root string) func(*testing.B, *node) {
	return func(b *testing.B, n *node) {
		b.Helper()
		n.knows(b, address)
		if err := n.fetch(b, root, address); err != nil {
			b.Fatal(err)
		}
	}
}

// readyNARs serves a folder that nix copy has filled.
func readyNARs(b *testing.B, a *node, root string) string {
	b.Helper()
	dir := b.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(a.key.Secret()), 0o600); err != nil {
		b.Fatal(err)
	}
	nixtest.Run(b, a.dir, "nix", "copy", "--to", "file://"+dir+"/cache?compression=none&secret-key="+secret, root)
	server := httptest.NewServer(http.FileServer(http.Dir(dir + "/cache")))
	b.Cleanup(server.Close)
	return server.URL[len("http://"):]
}

func copyFrom(a *node, root string) func(*testing.B, *node) {
	return func(b *testing.B, n *node) {
		b.Helper()
		nixtest.Run(b, a.dir, "nix", "copy", "--no-check-sigs", "--from", "local?root="+a.dir, "--to", "local?root="+n.dir, root)
	}
}

func exportFrom(a *node, closure nixstore.Closure) func(*testing.B, *node) {
	return func(b *testing.B, n *node) {
		b.Helper()
		paths := nixtest.Run(b, a.dir, "nix-store", "-qR", closure.Root.String()) // references first
		args := append([]string{"--export"}, paths...)
		export := nixtest.Command(b, a.dir, "nix-store", args...)
		imp := nixtest.Command(b, n.dir, "nix-store", "--import", "--option", "require-sigs", "false")
		pipe, err := export.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		imp.Stdin = pipe
		for _, cmd := range []*exec.Cmd{export, imp} {
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
		}
		if err := imp.Wait(); err != nil {
			b.Fatal(err)
		}
		if err := export.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}
