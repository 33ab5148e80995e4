package layering_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/closured/closured/registry/closureimage/layering"
)

// FuzzCut lays out graphs made of arbitrary bytes, right and wrong ones: it must refuse
// just those that are no closures, and give the others layers that do not depend
// on the order of the input.
func FuzzCut(f *testing.F) {
	f.Add([]byte{}, 1, uint64(0))
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, 2, uint64(1))
	random := rand.New(rand.NewPCG(9, 9))
	for _, n := range []int{20, 100, 400} {
		raw := make([]byte, n*bytesPerPath)
		for i := range raw {
			raw[i] = byte(random.Uint32())
		}
		f.Add(raw, n/10, uint64(n))
	}
	f.Fuzz(func(t *testing.T, raw []byte, maxLayers int, seed uint64) {
		paths, root := decode(raw)
		layers, err := layering.Cut(paths, root, maxLayers)
		if valid := maxLayers > 0 && isClosure(paths, root); valid != (err == nil) {
			t.Fatalf("a closure: %t, but the error is %v", valid, err)
		}
		if err != nil {
			if !errors.Is(err, layering.ErrInput) {
				t.Fatalf("error %v is not ErrInput", err)
			}
			return
		}
		if problem := check(paths, root, maxLayers, layers); problem != "" {
			t.Fatal(problem)
		}
		shuffle(paths, rand.New(rand.NewPCG(seed, 0)))
		again, err := layering.Cut(paths, root, maxLayers)
		if err != nil || !equalLayers(layers, again) {
			t.Fatalf("another order gives other layers (or %v):\n%v\n%v", err, layers, again)
		}
	})
}

const bytesPerPath = 8

// decode makes a graph of arbitrary bytes: for each path a shift and two bytes of its size,
// a byte of flags, and four references. Most of them lead to earlier paths; the
// last path refers to all paths that nobody else does, unless its flags say otherwise.
func decode(raw []byte) (paths []layering.Path, root string) {
	n := len(raw) / bytesPerPath
	used := make([]bool, n)
	for i := range n {
		b := raw[i*bytesPerPath:]
		p := layering.Path{
			Name:    fmt.Sprintf("%02x%04x-n%d", b[1], i, b[2]%16),
			NarSize: int64(binary.LittleEndian.Uint16(b[1:])) << (b[0] % 32),
		}
		root = p.Name
		for _, r := range b[4:bytesPerPath] {
			if i > 0 && r < 200 {
				p.References = append(p.References, paths[int(r)%i].Name)
				used[int(r)%i] = true
			}
		}
		for r := range i {
			if i == n-1 && !used[r] && b[3] != 7 {
				p.References = append(p.References, paths[r].Name)
			}
		}
		paths = append(paths, p)
		if b[3] == 255 && i > 0 { // a reference back, which may close a cycle
			at := int(b[4]) % i
			paths[at].References = append(paths[at].References, p.Name)
		}
		if b[3] == 254 {
			paths[i].References = append(paths[i].References, "0-nowhere")
		}
	}
	return paths, root
}

// isClosure is slow and plain: root needs every path, and no path needs another
// one that needs it.
func isClosure(paths []layering.Path, root string) bool {
	index := indexOf(paths)
	at, ok := index[root]
	if !ok || len(index) < len(paths) {
		return false
	}
	refs := make([][]int, len(paths))
	for i, p := range paths {
		for _, name := range p.References {
			r, ok := index[name]
			if !ok {
				return false
			}
			if r != i {
				refs[i] = append(refs[i], r)
			}
		}
	}
	for i := range paths {
		for _, r := range refs[i] {
			if slices.Contains(reachedFrom(refs, r), i) {
				return false
			}
		}
	}
	return len(reachedFrom(refs, at)) == len(paths)
}

// FuzzVector lays out closures that are written as those in testdata are.
func FuzzVector(f *testing.F) {
	for _, name := range []string{"small-1", "small-2", "small-3"} {
		raw, err := os.ReadFile(filepath.Join("testdata", name+".json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		v, err := parseVector(raw)
		if err != nil {
			t.Skip("no vector")
		}
		layers, err := layering.Cut(v.paths, v.root, v.maxLayers)
		if err != nil {
			return
		}
		if problem := check(v.paths, v.root, v.maxLayers, layers); problem != "" {
			t.Error(problem)
		}
	})
}
