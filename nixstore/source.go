package nixstore

import (
	"fmt"
	"slices"
)

// SourceKind says how a user named a closure. Its values are the words of the
// policy file.
type SourceKind string

// The kinds of sources.
const (
	SourceStorePath SourceKind = "storePath" // also the "<system>" attributes
	SourcePackages  SourceKind = "packages"
	SourceFlake     SourceKind = "flakeRef"
	SourceExpr      SourceKind = "nixExpr"
	SourceImage     SourceKind = "image"
)

// Source is what a user named, validated in form but not yet resolved. Only the
// field of its kind is set.
type Source struct {
	Kind     SourceKind  `json:"kind"`
	Paths    []StorePath `json:"paths,omitempty"`    // SourceStorePath: the roots, at least one
	Packages []string    `json:"packages,omitempty"` // SourcePackages: attribute names, dotted
	Flake    string      `json:"flake,omitempty"`    // SourceFlake: a flake reference with attribute
	Expr     string      `json:"expr,omitempty"`     // SourceExpr: a Nix expression
	Image    string      `json:"image,omitempty"`    // SourceImage: <namespace>/<name>
	// Origin is what the one path of a SourceStorePath was made of, to make it again
	// when nobody has it any more; nil: nothing is known. It is no part of what is
	// named, and so not of Key.
	Origin *Origin `json:"-"`
}

// Origin is what a store path was made of.
type Origin struct {
	Source Source // of another kind than SourceStorePath and SourceImage
	Build  bool   // policy lets it be built; false: fetched and merged only
}

// Canonical gives the source with its lists sorted and without doubles. Two
// sources that name the same set of things are the same thing, whatever their order.
func (s Source) Canonical() Source {
	s.Paths = slices.Clone(s.Paths)
	slices.SortFunc(s.Paths, StorePath.Compare)
	s.Paths = slices.Compact(s.Paths)
	s.Packages = slices.Clone(s.Packages)
	slices.Sort(s.Packages)
	s.Packages = slices.Compact(s.Packages)
	return s
}

// Key identifies the source: equal for sources that name the same things, and
// different for all others. It may hold what the user wrote, credentials too:
// never log it.
func (s Source) Key() string {
	c := s.Canonical()
	// Quoted, so that no value can look like the next field. JSON would not do: it
	// writes all bytes that are no UTF-8 as the same character.
	return fmt.Sprintf("%q %q %q %q %q %q", c.Kind, c.Paths, c.Packages, c.Flake, c.Expr, c.Image)
}

// Output is one thing to realise: a path and, when an evaluation named it, the
// derivation that builds it.
type Output struct {
	Path       StorePath
	Derivation StorePath // zero: substitute only
	Name       string    // the derivation's output, such as "out"; empty without derivation
}

// Holder names who needs a closure: one volume or one image. It is the name of
// a pin, so that it must be a plain file name of at most 255 bytes.
type Holder struct {
	Kind HolderKind
	Name string
}

// HolderKind is the folder of a pin.
type HolderKind string

// The kinds of holders.
const (
	HolderVolume HolderKind = "volumes"
	HolderImage  HolderKind = "images"
	HolderBuilt  HolderKind = "built"   // what this node built for described images
	HolderFlight HolderKind = "flights" // derivations between their evaluation and their build
)
