package layering

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
)

// ErrInput says that what Cut was given is not a closure, or leaves no layer to
// put it in. Since a store's own database cannot give such a closure, the
// database or the caller is broken.
var ErrInput = errors.New("not a closure to cut into layers")

// significantBits of a size are looked at: a size counts as the greatest number
// below it that has no further bits set, at most a quarter less. Thus the usual
// change of a size in an update changes no decision.
const significantBits = 3

// line is the closure in the order in which everything here looks at paths:
// few dependencies first, then by name, then by hash. The place of a path is
// its rank. A path comes after all that it needs, the root comes last. Nothing
// but the hash changes with an update, and it is compared last: so updated paths keep
// their place as long as names and references stay.
//
// All slices are indexed by rank.
type line struct {
	paths  []Path
	refs   graph    // without references of paths to themselves
	height []int    // number of paths that a path reaches, itself included
	size   []uint64 // rounded down to significantBits
}

// newLine checks a closure and puts it in line. Errors: ErrInput.
func newLine(paths []Path, root string) (*line, error) {
	number, err := numberPaths(paths)
	if err != nil {
		return nil, err
	}
	if _, ok := number[root]; !ok {
		return nil, fmt.Errorf("%w: the root %q is not among the %d paths", ErrInput, root, len(paths))
	}
	refs, err := numberReferences(paths, number)
	if err != nil {
		return nil, err
	}
	// Two numberings: heights need any order that is right, the line needs heights.
	sequence, inCycle := order(refs)
	if len(sequence) < len(paths) {
		return nil, fmt.Errorf("%w: %q needs itself through other paths", ErrInput, paths[inCycle].Name)
	}
	g, place := renumber(refs, sequence)
	heightAt := g.heights()
	height := func(node int) int { return heightAt[place[node]] }
	if err := checkReached(paths, root, height(number[root])); err != nil {
		return nil, err
	}
	slices.SortFunc(sequence, func(a, b int) int {
		if ha, hb := height(a), height(b); ha != hb {
			return cmp.Compare(ha, hb)
		}
		return compareNames(paths[a].Name, paths[b].Name)
	})
	l := &line{
		paths:  make([]Path, len(paths)),
		height: make([]int, len(paths)),
		size:   make([]uint64, len(paths)),
	}
	l.refs, _ = renumber(refs, sequence)
	for rank, node := range sequence {
		l.paths[rank] = paths[node]
		l.height[rank] = height(node)
		l.size[rank] = roundDown(unsigned(paths[node].NarSize))
	}
	return l, nil
}

// numberPaths gives of each name its index in paths.
func numberPaths(paths []Path) (map[string]int, error) {
	number := make(map[string]int, len(paths))
	total := uint64(0)
	for i, p := range paths {
		hash, name, _ := strings.Cut(p.Name, "-")
		if hash == "" || name == "" {
			return nil, fmt.Errorf("%w: %q is not <hash>-<name>", ErrInput, p.Name)
		}
		if _, double := number[p.Name]; double {
			return nil, fmt.Errorf("%w: %q is there twice", ErrInput, p.Name)
		}
		if p.NarSize < 0 {
			return nil, fmt.Errorf("%w: %q has %d bytes", ErrInput, p.Name, p.NarSize)
		}
		number[p.Name] = i
		total += uint64(p.NarSize)
		// A cost is at most bytes times paths, and is kept in 64 bits. For 10,000
		// paths that is the case up to 1.8 PB.
		if high, _ := bits.Mul64(total, uint64(len(paths))); high != 0 || total > math.MaxInt64 {
			return nil, fmt.Errorf("%w: %d bytes in %d paths are too many", ErrInput, total, len(paths))
		}
	}
	return number, nil
}

// numberReferences gives the references of each path as numbers: each once, and
// without the path itself.
func numberReferences(paths []Path, number map[string]int) ([][]int, error) {
	refs := make([][]int, len(paths))
	for i, p := range paths {
		refs[i] = make([]int, 0, len(p.References))
		for _, name := range p.References {
			r, ok := number[name]
			if !ok {
				return nil, fmt.Errorf("%w: %q refers to %q, which is not among the %d paths", ErrInput, p.Name, name, len(paths))
			}
			if r != i {
				refs[i] = append(refs[i], r)
			}
		}
		slices.Sort(refs[i])
		refs[i] = slices.Compact(refs[i])
	}
	return refs, nil
}

// checkReached refuses paths that the root does not need: an image of them would
// not be an image of the root's closure.
func checkReached(paths []Path, root string, reached int) error {
	if reached == len(paths) {
		return nil
	}
	return fmt.Errorf("%w: the root %q needs only %d of the %d paths", ErrInput, root, reached, len(paths))
}

// compareNames compares what follows the hash, then the hash, both as bytes.
func compareNames(a, b string) int {
	hashA, nameA, _ := strings.Cut(a, "-")
	hashB, nameB, _ := strings.Cut(b, "-")
	return cmp.Or(strings.Compare(nameA, nameB), strings.Compare(hashA, hashB))
}

// unsigned converts a count or a checked size: neither is ever negative.
func unsigned[T int | int64](n T) uint64 {
	return uint64(n)
}

// roundDown clears all but the highest significantBits of n.
func roundDown(n uint64) uint64 {
	drop := max(bits.Len64(n)-significantBits, 0)
	return n >> drop << drop
}
