package layering_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/registry/closureimage/layering"
)

// vector is a closure with the layers that it must get.
type vector struct {
	paths     []layering.Path
	root      string
	maxLayers int
	layers    []layering.Layer
}

// vectors are the names of the files in testdata.
func vectors() []string {
	return []string{"small-1", "small-2", "small-3", "large-1", "large-2"}
}

func readVector(tb testing.TB, name string) vector {
	tb.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		tb.Fatal(err)
	}
	v, err := parseVector(raw)
	if err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	return v
}

func parseVector(raw []byte) (vector, error) {
	var file struct {
		MaxLayers int    `json:"maxLayers"`
		Root      string `json:"root"`
		Paths     []struct {
			Path       string   `json:"path"`
			NarSize    int64    `json:"narSize"`
			References []string `json:"references"`
		} `json:"paths"`
		Layers []struct {
			Size  int64    `json:"size"`
			Paths []string `json:"paths"`
		} `json:"layers"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return vector{}, err
	}
	v := vector{root: file.Root, maxLayers: file.MaxLayers}
	for _, p := range file.Paths {
		v.paths = append(v.paths, layering.Path{Name: p.Path, NarSize: p.NarSize, References: p.References})
	}
	for _, l := range file.Layers {
		v.layers = append(v.layers, layering.Layer{Size: l.Size, Paths: l.Paths})
	}
	return v, nil
}

func TestVectors(t *testing.T) {
	t.Parallel()
	for _, name := range vectors() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := readVector(t, name)
			got, err := layering.Cut(v.paths, v.root, v.maxLayers)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(v.layers, got); diff != "" {
				t.Errorf("layers (-want +got):\n%s", diff)
			}
		})
	}
}

// shuffles is how often the closure of a vector is shuffled: 1000 times. When the
// test has to be quick, or is slowed down by the race detector, large-1 is shuffled 100
// times and large-2 ten times. A layout of large-2 takes some
// 25 ms of a core, and ten times as long under the race detector.
func shuffles(name string) int {
	less := map[string]int{"large-1": 100, "large-2": 10}
	if n, ok := less[name]; ok && quick() {
		return n
	}
	return 1000
}

// quick tells that thousands of layouts would take too long.
func quick() bool { return raceEnabled || testing.Short() }

func TestOrderOfInputDoesNotMatter(t *testing.T) {
	t.Parallel()
	for _, name := range vectors() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := readVector(t, name)
			random := rand.New(rand.NewPCG(1, 2))
			for i := range shuffles(name) {
				shuffle(v.paths, random)
				got, err := layering.Cut(v.paths, v.root, v.maxLayers)
				if err != nil {
					t.Fatal(err)
				}
				if !equalLayers(got, v.layers) {
					t.Fatalf("shuffle %d changes the layers (-want +got):\n%s", i, cmp.Diff(v.layers, got))
				}
			}
		})
	}
}

// shuffle changes the order of the paths and of each path's references.
func shuffle(paths []layering.Path, random *rand.Rand) {
	random.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	for _, p := range paths {
		refs := p.References
		random.Shuffle(len(refs), func(i, j int) { refs[i], refs[j] = refs[j], refs[i] })
	}
}

func equalLayers(a, b []layering.Layer) bool {
	return slices.EqualFunc(a, b, func(a, b layering.Layer) bool {
		return a.Size == b.Size && slices.Equal(a.Paths, b.Paths)
	})
}

// TestLayoutsOfManyPathsAreKnown holds layouts that are too large for a file, by
// their digest. A digest that changes means that all nodes would pull such images anew.
func TestLayoutsOfManyPathsAreKnown(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{
		1500:   "998939900b4664fd895e17ab35802b8b2754d66bda648e72ca71c17cb9809d5b",
		10_000: "ef52bd5b8024a648eaf3cc687db896d2abf5ef463d050bf6fd2c4e3fe31b2227",
	} {
		paths, root := generate(n, 11)
		layers, err := layering.Cut(paths, root, 99)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.New()
		for _, l := range layers {
			fmt.Fprintln(digest, l.Size, l.Paths)
		}
		if got := hex.EncodeToString(digest.Sum(nil)); got != want {
			t.Errorf("the %d layers of %d paths have the digest %s, want %s", len(layers), n, got, want)
		}
	}
}
