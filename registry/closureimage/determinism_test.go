package closureimage_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage"
)

// shuffled makes the same closure with its files written in another order, with
// other times, and with other modes where Nix would not mind.
func shuffled(t *testing.T, rng *rand.Rand) (*fakeStore, nixstore.StorePath) {
	t.Helper()
	s := newStore(t)
	tree := files{"lib/deep/er/": "", "lib.so@": "lib/x.so"}
	for i := range 40 {
		tree[fmt.Sprintf("lib/f%d", i)] = strings.Repeat("x", i*37)
		tree[fmt.Sprintf("lib-%d/g*", i)] = "program"
	}
	parts := []nixstore.StorePath{}
	for _, n := range rng.Perm(30) {
		p := s.add(t, fmt.Sprintf("part-%d", n), files{"file": fmt.Sprint(n)})
		parts = append(parts, p)
	}
	lib := s.add(t, "lib-1.0", files{"lib/": ""})
	names := slices.Sorted(maps.Keys(tree))
	for _, n := range rng.Perm(len(names)) {
		s.write(t, s.real(lib), files{names[n]: tree[names[n]]})
	}
	s.register(t, lib)
	root := s.add(t, "root", files{"bin/x*": "x", "share/y": "y"}, append(parts, lib)...)
	age(t, s.dir, rng)
	return s, root
}

// age gives everything a random time.
func age(t *testing.T, dir string, rng *rand.Rand) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink != 0 {
			return err
		}
		at := time.Unix(rng.Int64N(2e9), 0)
		return os.Chtimes(p, at, at)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFault53EachStoreAndRunGivesTheSameDigest(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	digests := map[string]int{}
	runs := map[closureimage.Compression]int{closureimage.None: 20, closureimage.Gzip: 3, closureimage.Zstd: 3}
	for _, form := range allForms {
		for _, c := range allCompressions {
			for range 2 {
				s, root := shuffled(t, rng)
				for range runs[c] {
					b := s.builder(t, compressed(c))
					digests[fmt.Sprint(form, c, " ", mustImage(t, b, spec(root, form)).Digest())]++
				}
			}
		}
	}
	if want := len(allForms) * len(allCompressions); len(digests) != want {
		t.Errorf("there are %d digests, want %d: %v", len(digests), want, digests)
	}
}

func TestTheNumberOfWorkersDoesNotMatter(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	// Large enough to be read ahead, of parts that do not end where buffers do.
	big := s.add(t, "big", files{"a": strings.Repeat("0123456789", 1_700_003), "b": "b"}, root)
	for _, c := range allCompressions {
		var digests []string
		for _, workers := range []int{1, 2, 7} {
			b := s.builder(t, compressed(c), func(cfg *closureimage.Config) { cfg.Workers = workers })
			digests = append(digests, mustImage(t, b, spec(big, closureimage.Root)).Digest().String())
		}
		if slices.Sort(digests); len(slices.Compact(digests)) != 1 {
			t.Errorf("with %s the digests are %v", c, digests)
		}
	}
}
