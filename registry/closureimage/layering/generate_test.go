package layering_test

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"

	"github.com/closured/closured/registry/closureimage/layering"
)

// generate makes a closure of n paths that looks like those of nixpkgs: sizes
// with a heavy tail, some libraries that nearly all need, references mostly to paths
// that are older and often used, and a last path that needs all that nobody else
// does. The same n and seed give the same closure on every machine.
func generate(n int, seed uint64) (paths []layering.Path, root string) {
	random := rand.New(rand.NewPCG(seed, uint64(n)))
	paths = make([]layering.Path, n)
	used := make([]bool, n)
	var drawn []int // each path about as often as it is referred to, plus once
	for i := range paths {
		paths[i] = layering.Path{Name: generatedName(i, random), NarSize: generatedSize(random)}
		var chosen []int
		if i > 0 && random.IntN(10) > 0 {
			chosen = append(chosen, 0) // the C library
		}
		for range random.IntN(8) * min(i, 1) {
			if random.IntN(3) == 0 {
				chosen = append(chosen, max(0, i-1-random.IntN(40))) // of the same project
			} else {
				chosen = append(chosen, drawn[random.IntN(len(drawn))])
			}
		}
		if i == n-1 {
			chosen = append(chosen, unused(used[:i])...)
		}
		slices.Sort(chosen)
		for _, r := range slices.Compact(chosen) {
			paths[i].References = append(paths[i].References, paths[r].Name)
			used[r] = true
		}
		drawn = append(append(drawn, chosen...), i)
	}
	return paths, paths[n-1].Name
}

func unused(used []bool) []int {
	var free []int
	for i, u := range used {
		if !u {
			free = append(free, i)
		}
	}
	return free
}

func generatedName(i int, random *rand.Rand) string {
	const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
	hash := make([]byte, 32)
	for k := range hash {
		hash[k] = alphabet[random.IntN(len(alphabet))]
	}
	return fmt.Sprintf("%s-part%d-%d.%d", hash, i, 1+random.IntN(9), random.IntN(30))
}

// generatedSize has a median of 100 kB; one in fifty is above 9 MB. The number of
// heads in 40 throws of a coin stands for a normal distribution of the logarithm: in
// integers, so that all machines get the same sizes.
func generatedSize(random *rand.Rand) int64 {
	heads := bits.OnesCount64(random.Uint64N(1 << 40))
	return 512 + (1<<10+random.Int64N(1<<10))<<heads>>14
}
