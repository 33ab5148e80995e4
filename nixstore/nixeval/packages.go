package nixeval

import (
	"strings"

	"github.com/closured/closured/internal/edit"
	"github.com/closured/closured/nixstore"
)

const (
	namesMax = 64
	nameMax  = 128 // bytes of one dotted name
)

// parseNames checks names of packages and splits them at their dots. Each part
// follows the grammar of Nix identifiers (nix.dev manual, "Identifiers"), and may
// also begin with a digit or hold "+".
func parseNames(names []string) ([][]string, error) {
	if len(names) == 0 {
		return nil, nixstore.Fail(nixstore.ErrInvalid, "name at least one package", "no package is named")
	}
	if len(names) > namesMax {
		return nil, nixstore.Fail(nixstore.ErrInvalid, "name at most 64, or make a package of them in the package set",
			"%d packages are named", len(names))
	}
	parsed := make([][]string, 0, len(names))
	for _, name := range names {
		if problem := nameProblem(name); problem != "" {
			return nil, nixstore.Fail(nixstore.ErrInvalid, "use an attribute name such as redis or python3Packages.numpy",
				"%s is no package name: %s", nixstore.Quote(name), problem)
		}
		parsed = append(parsed, strings.Split(name, "."))
	}
	return parsed, nil
}

func nameProblem(name string) string {
	if len(name) > nameMax {
		return "it is longer than 128 bytes"
	}
	for part := range strings.SplitSeq(name, ".") {
		if part == "" {
			return "there is an empty part before, after or between its dots"
		}
		if strings.IndexByte("-+'", part[0]) >= 0 {
			return "a part begins with a dash, a plus or an apostrophe"
		}
		for i := range len(part) {
			if c := part[i]; !isAlphanumeric(c) && strings.IndexByte("_-+'", c) < 0 {
				return "it holds something else than letters, digits and any of _-+'."
			}
		}
	}
	return ""
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// nearest gives the name that takes the fewest edits to become want, or "" when
// none is near. Of equally near ones the first in order of the alphabet wins.
func nearest(want string, names []string) string {
	best, distance := "", max(2, len(want)/3)+1
	for _, name := range names {
		if len(name)-len(want) >= distance || len(want)-len(name) >= distance {
			continue
		}
		if d := edit.Distance(strings.ToLower(want), strings.ToLower(name)); d < distance || d == distance && best != "" && name < best {
			best, distance = name, d
		}
	}
	return best
}
