package pins

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/closured/closured/nixstore"
)

// Pin is one root: who needs it, and what it keeps.
type Pin struct {
	Holder nixstore.Holder
	Root   nixstore.StorePath
}

// Pins is the folder of pins with its index. Make it with Open.
type Pins struct {
	dir    string
	strays []string

	// writing serialises all changes of the folder, so that the index changes in
	// the same order as the disk. It is taken before mu.
	writing sync.Mutex
	made    uint64 // temporary names given so far; guarded by writing

	// mu guards what follows and is never held while the disk is touched.
	mu     sync.RWMutex
	index  map[nixstore.HolderKind][]Pin // sorted by name
	byRoot map[nixstore.StorePath]map[nixstore.Holder]struct{}
}

// Put pins root for h. It is idempotent, and makes the link anew when somebody
// removed it by hand. Errors: ErrInvalid (holder or root), ErrConflict (h pins
// another root, or a foreign file has its name), ErrNoSpace.
func (p *Pins) Put(h nixstore.Holder, root nixstore.StorePath) error {
	if err := CheckHolder(h); err != nil {
		return err
	}
	if root.IsZero() {
		return nixstore.Fail(nixstore.ErrInvalid, "", "the pin %s has no store path", nixstore.Quote(h.Name))
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	if have, ok := p.Get(h); ok && have != root {
		return nixstore.Fail(nixstore.ErrConflict, "release it first",
			"%s %s already pins %s, not %s", h.Kind, nixstore.Quote(h.Name), have, root)
	}
	there, err := p.linked(h, root)
	if err != nil {
		return err
	}
	if !there && !p.linkAgain(h, root) {
		if err := p.link(h, root); err != nil {
			return err
		}
	}
	p.insert(Pin{Holder: h, Root: root})
	return nil
}

// Get gives what h pins.
func (p *Pins) Get(h nixstore.Holder) (nixstore.StorePath, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	at, ok := find(p.index[h.Kind], h.Name)
	if !ok {
		return nixstore.StorePath{}, false
	}
	return p.index[h.Kind][at].Root, true
}

// Drop removes the pin of h; an unknown holder is fine. The link goes before the
// index does: after an error the pin is still there, and still found.
func (p *Pins) Drop(h nixstore.Holder) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	if _, ok := p.Get(h); !ok {
		return nil
	}
	if err := os.Remove(p.path(h)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("dropping a pin: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	pins := p.index[h.Kind]
	if at, ok := find(pins, h.Name); ok {
		p.forgetLocked(pins[at])
		p.index[h.Kind] = slices.Delete(pins, at, at+1)
	}
	return nil
}

// Find gives the pins of a kind whose names begin with prefix, sorted by name.
func (p *Pins) Find(kind nixstore.HolderKind, prefix string) []Pin {
	p.mu.RLock()
	defer p.mu.RUnlock()
	pins := p.index[kind]
	first, _ := find(pins, prefix)
	last := first
	for last < len(pins) && strings.HasPrefix(pins[last].Holder.Name, prefix) {
		last++
	}
	return slices.Clone(pins[first:last])
}

// List gives all pins of a kind, sorted by name.
func (p *Pins) List(kind nixstore.HolderKind) []Pin { return p.Find(kind, "") }

// Count gives the number of pins of all kinds.
func (p *Pins) Count() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	sum := 0
	for _, pins := range p.index {
		sum += len(pins)
	}
	return sum
}

// Strays gives the paths of what Open found in the folder and did not
// understand, sorted. They are left alone; those that are links still are roots for Nix.
func (p *Pins) Strays() []string { return slices.Clone(p.strays) }

func (p *Pins) path(h nixstore.Holder) string {
	return filepath.Join(p.dir, string(h.Kind), h.Name)
}

// linked tells whether the link of h is on disk. Anything else under its name is
// not ours to replace.
func (p *Pins) linked(h nixstore.Holder, root nixstore.StorePath) (bool, error) {
	target, err := os.Readlink(p.path(h))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil && !errors.Is(err, syscall.EINVAL): // EINVAL: not a link
		return false, fmt.Errorf("reading a pin: %w", err)
	case err == nil && target == root.String():
		return true, nil
	}
	return false, nixstore.Fail(nixstore.ErrConflict, "move it away",
		"%s is in the way of a pin: it was not made by this agent", nixstore.Quote(p.path(h)))
}

// linkAgain gives the link of another pin of the same root one more name, which
// is as much a root for Nix, and tells whether that worked. Like a rename it
// happens as a whole. It spares a new inode, which on ext4 costs sixty times more
// (see the package comment).
func (p *Pins) linkAgain(h nixstore.Holder, root nixstore.StorePath) bool {
	other, ok := p.any(root)
	if !ok {
		return false
	}
	// Any failure (65,000 names, the limit of ext4; the other link was removed by
	// hand) is answered by a link of its own, whose failure is told.
	if os.Link(p.path(other), p.path(h)) != nil {
		return false
	}
	if same, err := p.linked(h, root); err == nil && same {
		return true
	}
	_ = os.Remove(p.path(h)) // somebody changed the other link; when this fails too, link tells
	return false
}

// any gives a holder that pins root.
func (p *Pins) any(root nixstore.StorePath) (nixstore.Holder, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for h := range p.byRoot[root] {
		return h, true
	}
	return nixstore.Holder{}, false
}

// link makes a link. The temporary name is a root for Nix too, for a moment,
// which does no harm.
func (p *Pins) link(h nixstore.Holder, root nixstore.StorePath) error {
	p.made++
	temporary := filepath.Join(p.dir, string(h.Kind), temporaryPrefix+strconv.FormatUint(p.made, 10))
	err := os.Symlink(root.String(), temporary)
	if err == nil {
		err = os.Rename(temporary, p.path(h))
	}
	if err == nil {
		return nil
	}
	// When this fails too, the next Open sweeps it.
	_ = os.Remove(temporary)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return nixstore.Fail(nixstore.ErrNoSpace, "free space or inodes on the file system of the store",
			"pinning %s: no space left below %s", root, p.dir)
	}
	return fmt.Errorf("pinning %s: %w", root, err)
}

func (p *Pins) insert(pin Pin) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pins := p.index[pin.Holder.Kind]
	if at, ok := find(pins, pin.Holder.Name); !ok {
		p.index[pin.Holder.Kind] = slices.Insert(pins, at, pin)
		p.rememberLocked(pin)
	}
}

func (p *Pins) rememberLocked(pin Pin) {
	holders := p.byRoot[pin.Root]
	if holders == nil {
		holders = map[nixstore.Holder]struct{}{}
		p.byRoot[pin.Root] = holders
	}
	holders[pin.Holder] = struct{}{}
}

func (p *Pins) forgetLocked(pin Pin) {
	delete(p.byRoot[pin.Root], pin.Holder)
	if len(p.byRoot[pin.Root]) == 0 {
		delete(p.byRoot, pin.Root)
	}
}

// find gives where name is, or belongs, among sorted pins.
func find(pins []Pin, name string) (int, bool) {
	return slices.BinarySearchFunc(pins, name, func(p Pin, name string) int {
		return strings.Compare(p.Holder.Name, name)
	})
}
