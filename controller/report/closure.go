package report

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/closured/closured/nixstore"
)

// closureMax bounds var/closure.json in bytes: some 300 for each path, and the
// greatest closures have tens of thousands.
const closureMax = 64 << 20

// manifestVersion is the version of closure.json that this package reads.
const manifestVersion = 1

// Volume is the closure that a volume shows.
type Volume struct {
	// Closure is what closure.json says. Its registration is 0: a volume does not
	// know it, and never changes.
	Closure nixstore.Closure
	// System is the Nix system that the volume was made for.
	System string
}

// Open reads closure.json at path. Errors: ErrInvalid when it is none, or of
// another version, and those of the file system.
func Open(path string) (Volume, error) {
	file, err := os.Open(path)
	if err != nil {
		return Volume{}, fmt.Errorf("reading the volume's closure: %w", err)
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, closureMax+1))
	switch {
	case err != nil:
		return Volume{}, fmt.Errorf("reading the volume's closure: %w", err)
	case len(data) > closureMax:
		return Volume{}, badClosure(fmt.Sprintf("it has more than %d bytes", closureMax))
	}
	return ParseClosure(data)
}

// ParseClosure reads the bytes of closure.json. Its errors are ErrInvalid.
func ParseClosure(data []byte) (Volume, error) {
	var doc struct {
		Version int                 `json:"version"`
		Root    nixstore.StorePath  `json:"root"`
		System  string              `json:"system"`
		Paths   []nixstore.PathInfo `json:"paths"`
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&doc); err != nil {
		return Volume{}, badClosure(err.Error())
	}
	v := Volume{Closure: nixstore.Closure{Root: doc.Root, Paths: doc.Paths}, System: doc.System}
	sorted := slices.IsSortedFunc(doc.Paths, func(a, b nixstore.PathInfo) int { return a.Path.Compare(b.Path) })
	switch {
	case doc.Version != manifestVersion:
		return Volume{}, badClosure(fmt.Sprintf("it has version %d, and this program reads %d", doc.Version, manifestVersion))
	case doc.System == "":
		return Volume{}, badClosure("it names no system")
	case !sorted, slices.ContainsFunc(doc.Paths, func(p nixstore.PathInfo) bool { return p.Path.IsZero() || p.NarSize < 0 }):
		return Volume{}, badClosure("its paths are out of order or malformed")
	case doc.Root.IsZero(), !v.Closure.Has(doc.Root):
		return Volume{}, badClosure("its root is not among its paths")
	}
	return v, nil
}

func badClosure(problem string) error {
	return nixstore.Fail(nixstore.ErrInvalid, "use the same release of the controller and of the agents",
		"the volume's closure.json cannot be used: %s", problem)
}

// Reader gives the volume as a store that holds its closure only. What it does
// not hold is ErrNotFound.
func (v Volume) Reader() nixstore.Reader { return reader{v.Closure} }

type reader struct{ closure nixstore.Closure }

func (r reader) Registration(_ context.Context, root nixstore.StorePath) (int64, error) {
	if root != r.closure.Root {
		return 0, other(root)
	}
	return r.closure.Registration, nil
}

func (r reader) Closure(_ context.Context, root nixstore.StorePath) (nixstore.Closure, error) {
	if root != r.closure.Root {
		return nixstore.Closure{}, other(root)
	}
	return r.closure, nil
}

func other(root nixstore.StorePath) error {
	return nixstore.Fail(nixstore.ErrNotFound, "", "the volume is not that of %s", root)
}
