package pins

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/closured/closured/nixstore"
)

const (
	// temporaryPrefix begins the names of half-made pins. No holder's name begins
	// with a dot, so the two never meet.
	temporaryPrefix = ".new-"
	// nameMax is NAME_MAX, the longest file name of Linux in bytes.
	nameMax = 255
)

// kinds gives the folders that belong to this package.
func kinds() []nixstore.HolderKind {
	return []nixstore.HolderKind{nixstore.HolderVolume, nixstore.HolderImage, nixstore.HolderBuilt, nixstore.HolderFlight}
}

// Open reads all pins below dir, which is
// <store-root>/nix/var/nix/gcroots/closured, and makes what is missing of the
// folders. It sweeps half-made pins, and leaves alone what it does not
// understand (see Strays).
func Open(dir string) (*Pins, error) {
	p := &Pins{
		dir:    dir,
		index:  map[nixstore.HolderKind][]Pin{},
		byRoot: map[nixstore.StorePath]map[nixstore.Holder]struct{}{},
	}
	for _, kind := range kinds() {
		// Everybody may read what the roots are, as in Nix's own folders.
		if err := os.MkdirAll(filepath.Join(dir, string(kind)), 0o755); err != nil {
			return nil, fmt.Errorf("making the folders of pins: %w", err)
		}
		if err := p.load(kind); err != nil {
			return nil, fmt.Errorf("reading the %s pins: %w", kind, err)
		}
	}
	if err := p.findForeignKinds(); err != nil {
		return nil, fmt.Errorf("reading the folder of pins: %w", err)
	}
	slices.Sort(p.strays)
	return p, nil
}

// load reads one kind. os.ReadDir sorts by name, which is the order of the index.
func (p *Pins) load(kind nixstore.HolderKind) error {
	entries, err := os.ReadDir(filepath.Join(p.dir, string(kind)))
	if err != nil {
		return err
	}
	for _, e := range entries {
		h := nixstore.Holder{Kind: kind, Name: e.Name()}
		isLink := e.Type()&fs.ModeSymlink != 0
		if isLink && strings.HasPrefix(h.Name, temporaryPrefix) {
			if err := os.Remove(p.path(h)); err != nil {
				return err
			}
			continue
		}
		root, ok := p.parse(h)
		if !isLink || !ok {
			p.strays = append(p.strays, p.path(h))
			continue
		}
		pin := Pin{Holder: h, Root: root}
		p.index[kind] = append(p.index[kind], pin)
		p.rememberLocked(pin) // nobody else has p yet
	}
	return nil
}

// parse reads the link of h; ok tells whether it is a pin.
func (p *Pins) parse(h nixstore.Holder) (nixstore.StorePath, bool) {
	target, err := os.Readlink(p.path(h))
	if err != nil {
		return nixstore.StorePath{}, false
	}
	root, err := nixstore.ParseStorePath(target)
	if err != nil {
		return nixstore.StorePath{}, false
	}
	return root, CheckHolder(h) == nil
}

func (p *Pins) findForeignKinds() error {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.Contains(kinds(), nixstore.HolderKind(e.Name())) {
			p.strays = append(p.strays, filepath.Join(p.dir, e.Name()))
		}
	}
	return nil
}

// CheckHolder tells whether h can have a pin: its kind is known, and its name is
// a plain file name, without a dot in front. Its errors are ErrInvalid.
func CheckHolder(h nixstore.Holder) error {
	switch {
	case !slices.Contains(kinds(), h.Kind):
		return nixstore.Fail(nixstore.ErrInvalid, "", "%s is no kind of pin", nixstore.Quote(string(h.Kind)))
	case h.Name == "" || len(h.Name) > nameMax || h.Name[0] == '.' || strings.ContainsFunc(h.Name, isNotNameRune):
		return nixstore.Fail(nixstore.ErrInvalid, "use 1 to 255 of A-Z a-z 0-9 . _ + = @ - with no dot in front",
			"%s cannot be the name of a pin", nixstore.Quote(h.Name))
	}
	return nil
}

func isNotNameRune(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return false
	}
	return !strings.ContainsRune("._+=@-", r)
}
