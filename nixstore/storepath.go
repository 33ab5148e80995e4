package nixstore

import (
	"fmt"
	"strings"
)

// Dir is the logical store directory. Its physical place on a node may be below
// another root (a Nix chroot store), but references between paths always say this.
const Dir = "/nix/store"

const (
	hashLen = 32  // base-32 characters of a 160-bit hash, Nix manual "Store path"
	nameMax = 211 // libstore/path.hh, StorePath::MaxPathLen
	base32  = "0123456789abcdfghijklmnpqrsvwxyz"
)

// StorePath is the name of one object of a Nix store, <hash>-<name>. It is
// comparable and may be a map key; the zero value is no path. A StorePath that
// is not zero always follows the grammar, so it never holds a slash, a NUL or a
// dot-dot and can be joined to a folder without further checks.
type StorePath struct {
	base string // "<32 base32>-<name>"
}

// ParseStorePath parses an absolute logical path, "/nix/store/<hash>-<name>",
// with nothing before or after it. Its errors are ErrInvalid.
func ParseStorePath(s string) (StorePath, error) {
	base, ok := strings.CutPrefix(s, Dir+"/")
	if !ok {
		return StorePath{}, invalidPath(s, "it does not begin with "+Dir+"/")
	}
	p, err := ParseBaseName(base)
	if err != nil {
		return StorePath{}, invalidPath(s, baseNameProblem(base))
	}
	return p, nil
}

// ParseBaseName parses the last element of a store path, "<hash>-<name>". Its
// errors are ErrInvalid.
func ParseBaseName(s string) (StorePath, error) {
	if problem := baseNameProblem(s); problem != "" {
		return StorePath{}, invalidPath(s, problem)
	}
	return StorePath{base: s}, nil
}

// MustParseStorePath is ParseStorePath for constants of tests and examples; it
// panics when s is not a store path.
func MustParseStorePath(s string) StorePath {
	p, err := ParseStorePath(s)
	if err != nil {
		panic(err)
	}
	return p
}

// baseNameProblem says what is wrong with s as the last element of a store
// path, or "". The grammar is that of libstore/path.cc (Nix 2.34): names of one
// or two dots, also before a dash, are refused by newer versions.
func baseNameProblem(s string) string {
	if len(s) < hashLen+2 {
		return "it is shorter than a hash, a dash and a name"
	}
	for i := range hashLen {
		if strings.IndexByte(base32, s[i]) < 0 {
			return fmt.Sprintf("its hash is not 32 characters of %q", base32)
		}
	}
	if s[hashLen] != '-' {
		return "there is no dash after its hash of 32 characters"
	}
	return nameProblem(s[hashLen+1:])
}

func nameProblem(name string) string {
	if len(name) > nameMax {
		return fmt.Sprintf("its name is longer than %d characters", nameMax)
	}
	for i := range len(name) {
		if !isNameByte(name[i]) {
			return fmt.Sprintf("its name holds the character %q", name[i])
		}
	}
	first, _, _ := strings.Cut(name, "-")
	if first == "." || first == ".." {
		return "its name is a dot or two dots"
	}
	return ""
}

func isNameByte(c byte) bool {
	switch {
	case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		return true
	}
	return strings.IndexByte("+-._?=", c) >= 0
}

func invalidPath(s, problem string) error {
	return Fail(ErrInvalid, "write it as "+Dir+"/<hash>-<name>, without anything below it",
		"%s is not a store path: %s", Quote(s), problem)
}

// String gives the absolute logical path, or "" for the zero value.
func (p StorePath) String() string {
	if p.IsZero() {
		return ""
	}
	return Dir + "/" + p.base
}

// BaseName gives "<hash>-<name>".
func (p StorePath) BaseName() string { return p.base }

// Hash gives the 32 characters before the name.
func (p StorePath) Hash() string {
	if p.IsZero() {
		return ""
	}
	return p.base[:hashLen]
}

// Name gives what follows the hash and the dash.
func (p StorePath) Name() string {
	if p.IsZero() {
		return ""
	}
	return p.base[hashLen+1:]
}

// IsZero tells whether p is no path.
func (p StorePath) IsZero() bool { return p.base == "" }

// IsDerivation tells whether p names a derivation, not a thing that is built.
func (p StorePath) IsDerivation() bool { return strings.HasSuffix(p.base, ".drv") }

// Compare orders store paths by their bytes, as Nix does.
func (p StorePath) Compare(q StorePath) int { return strings.Compare(p.base, q.base) }

// MarshalText gives the absolute path, for JSON.
func (p StorePath) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText parses an absolute path, for JSON. Its errors are ErrInvalid.
func (p *StorePath) UnmarshalText(text []byte) error {
	q, err := ParseStorePath(string(text))
	if err != nil {
		return err
	}
	*p = q
	return nil
}
