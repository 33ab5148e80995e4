package storetest

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/closured/closured/nixstore"
)

// everybody is the weight of the whole barrier: a collector takes all of it, a
// hold takes one.
const everybody = 1 << 30

// Step is a moment of a Memory at which its hook is called.
type Step struct {
	// Op is "registration", "closure", "realise", "build", "substitute", "merge",
	// "hold" (before the barrier is taken), "held" (after) or "collect" (between
	// reading the roots and deleting).
	Op   string
	Path nixstore.StorePath // what it is about; zero for the barrier and collections
}

// Hook is called at each step, without a lock of the store (but "held" and
// "collect" with the barrier). It may wait, collect, or give an error, which the
// step gives to its caller.
type Hook func(ctx context.Context, s Step) error

// Recipe is a derivation of a Memory.
type Recipe struct {
	Name   string
	Inputs []nixstore.Output // what the result refers to; built before it
	Fails  bool              // the builder fails
	Hangs  bool              // the builder runs until it is cancelled
}

// Memory is a store in memory. Make it with NewMemory.
type Memory struct {
	barrier *semaphore.Weighted

	mu        sync.Mutex // guards all below
	valid     map[nixstore.StorePath]entry
	recipes   map[nixstore.StorePath]Recipe            // by derivation
	offered   map[nixstore.StorePath]nixstore.PathInfo // by the cache
	busy      map[nixstore.StorePath]chan struct{}     // being built; closed when over
	temporary map[nixstore.StorePath]int               // roots of running realisations
	rooted    map[nixstore.StorePath]int
	counts    map[Step]int
	last      int64 // registration given last
	hook      Hook
	roots     func() []nixstore.StorePath
}

type entry struct {
	info         nixstore.PathInfo
	registration int64
}

// NewMemory makes an empty store.
func NewMemory() *Memory {
	return &Memory{
		barrier:   semaphore.NewWeighted(everybody),
		valid:     map[nixstore.StorePath]entry{},
		recipes:   map[nixstore.StorePath]Recipe{},
		offered:   map[nixstore.StorePath]nixstore.PathInfo{},
		busy:      map[nixstore.StorePath]chan struct{}{},
		temporary: map[nixstore.StorePath]int{},
		rooted:    map[nixstore.StorePath]int{},
		counts:    map[Step]int{},
	}
}

// SetHook sets what is called at each step; nil: nothing.
func (m *Memory) SetHook(h Hook) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hook = h
}

// SetRoots sets where collections find further roots, such as the pins; it is
// called without a lock.
func (m *Memory) SetRoots(roots func() []nixstore.StorePath) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.roots = roots
}

// Count tells how often op happened to p; for the zero path: to anything.
func (m *Memory) Count(op string, p nixstore.StorePath) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !p.IsZero() {
		return m.counts[Step{op, p}]
	}
	sum := 0
	for s, n := range m.counts {
		if s.Op == op {
			sum += n
		}
	}
	return sum
}

// Valid gives all valid paths, sorted.
func (m *Memory) Valid() []nixstore.StorePath {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Keys(m.valid), nixstore.StorePath.Compare)
}

// AddText makes a valid path that refers to refs, as nix-store --add would.
func (m *Memory) AddText(name, text string, refs ...nixstore.StorePath) nixstore.StorePath {
	m.mu.Lock()
	defer m.mu.Unlock()
	info := describe("text", name, text, refs)
	m.registerLocked(info)
	return info.Path
}

// Offer puts a path into the binary cache that the store substitutes from.
func (m *Memory) Offer(name string, refs ...nixstore.StorePath) nixstore.StorePath {
	m.mu.Lock()
	defer m.mu.Unlock()
	info := describe("offered", name, "", refs)
	m.offered[info.Path] = info
	return info.Path
}

// AddRecipe makes a derivation, valid but not built. Equal recipes are one derivation.
func (m *Memory) AddRecipe(r Recipe) nixstore.Output {
	m.mu.Lock()
	defer m.mu.Unlock()
	var refs []nixstore.StorePath
	for _, in := range r.Inputs {
		refs = append(refs, in.Derivation)
	}
	info := describe("derivation", r.Name+".drv", fmt.Sprint(r.Fails, r.Hangs), refs)
	m.recipes[info.Path] = r
	m.registerLocked(info)
	return nixstore.Output{Path: result(info.Path, r).Path, Derivation: info.Path, Name: "out"}
}

// AddRoot keeps p at collections until remove is called.
func (m *Memory) AddRoot(p nixstore.StorePath) (remove func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rooted[p]++
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.rooted[p]--; m.rooted[p] == 0 {
			delete(m.rooted, p)
		}
	}
}

// Lose makes p invalid whatever needs it, as rm -r and a repair would.
func (m *Memory) Lose(p nixstore.StorePath) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.valid, p)
}

func (m *Memory) registerLocked(info nixstore.PathInfo) {
	if _, ok := m.valid[info.Path]; ok {
		return
	}
	m.last++
	m.valid[info.Path] = entry{info: info, registration: m.last}
}

// result describes what building r gives.
func result(drv nixstore.StorePath, r Recipe) nixstore.PathInfo {
	var refs []nixstore.StorePath
	for _, in := range r.Inputs {
		refs = append(refs, in.Path)
	}
	return describe("output", r.Name, drv.String(), refs)
}

// describe makes a path whose hash depends on all that is given.
func describe(kind, name, text string, refs []nixstore.StorePath) nixstore.PathInfo {
	refs = slices.SortedFunc(slices.Values(refs), nixstore.StorePath.Compare)
	refs = slices.Compact(refs)
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%v", kind, name, text, refs))
	return nixstore.PathInfo{
		Path:       nixstore.MustParseStorePath(nixstore.Dir + "/" + hash(sum[:]) + "-" + name),
		NarHash:    "sha256-" + base64.StdEncoding.EncodeToString(sum[:]),
		NarSize:    int64(len(text)) + 112,
		References: refs,
	}
}

// hash writes the first 160 bits with 32 digits of Nix's alphabet.
func hash(sum []byte) string {
	const digits = "0123456789abcdefghijklmnopqrstuv" // math/big's
	const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
	s := new(big.Int).SetBytes(sum[:20]).Text(32)
	s = strings.Repeat("0", 32-len(s)) + s
	return strings.Map(func(r rune) rune { return rune(alphabet[strings.IndexRune(digits, r)]) }, s)
}
