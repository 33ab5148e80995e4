package registry

import (
	"slices"
	"strings"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage"
)

const (
	// repositoryMax is the longest repository name that clients take, in bytes
	// (distribution/reference, NameTotalLengthMax).
	repositoryMax = 255
	labelMax      = 63 // RFC 1123, the name of a namespace
	latest        = "latest"
)

// name is a parsed repository name. Only the fields of its kind are set.
type name struct {
	form      closureimage.Form
	kind      nixstore.SourceKind
	hash      string   // SourceStorePath
	packages  []string // SourcePackages: sorted, without doubles
	namespace string   // SourceImage
	image     string   // SourceImage
}

// parseName parses a repository name. It follows the grammar of the OCI
// distribution specification v1.1 ("Pulling manifests", <name>), and gives each
// name one meaning. Its errors are ErrInvalid (not that grammar) and ErrNotFound
// (a name, but of nothing that this registry serves).
func parseName(s string) (name, error) {
	if problem := repositoryProblem(s); problem != "" {
		return name{}, nixstore.Fail(nixstore.ErrInvalid, "use lower-case letters, digits and single separators as in pkgs/curl/jq",
			"%s is no repository name: %s", nixstore.Quote(s), problem)
	}
	form, words := closureimage.Root, strings.Split(s, "/")
	if words[0] == "volume" {
		form, words = closureimage.Volume, words[1:]
	}
	if len(words) > 1 {
		if n, ok := understand(words[0], words[1:]); ok {
			n.form = form
			return n, nil
		}
	}
	return name{}, nixstore.Fail(nixstore.ErrNotFound,
		"use store/<hash>, pkgs/<name>/<name>, image/<namespace>/<name>, or one of them after volume/",
		"%s names nothing that this registry serves", nixstore.Quote(s))
}

// understand reads what follows the first word, and tells whether it means something.
func understand(first string, rest []string) (name, bool) {
	switch first {
	case "store":
		n := name{kind: nixstore.SourceStorePath, hash: rest[0]}
		_, err := nixstore.ParseBaseName(n.hash + "-x")
		return n, err == nil && len(rest) == 1 && !strings.Contains(n.hash, "-")
	case "pkgs":
		return name{kind: nixstore.SourcePackages, packages: slices.Compact(slices.Sorted(slices.Values(rest)))}, true
	case "image":
		if len(rest) != 2 {
			return name{}, false
		}
		n := name{kind: nixstore.SourceImage, namespace: rest[0], image: rest[1]}
		return n, len(n.namespace) <= labelMax && !strings.ContainsAny(n.namespace, "._") && !strings.Contains(n.image, "_")
	}
	return name{}, false
}

// canonical gives the one spelling of the name, equal for names of one meaning.
func (n name) canonical() string {
	prefix := ""
	if n.form == closureimage.Volume {
		prefix = "volume/"
	}
	switch n.kind {
	case nixstore.SourceStorePath:
		return prefix + "store/" + n.hash
	case nixstore.SourcePackages:
		return prefix + "pkgs/" + strings.Join(n.packages, "/")
	default:
		return prefix + "image/" + n.namespace + "/" + n.image
	}
}

// repositoryProblem says why s is no name of the specification, or "":
// [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*, and the same again after slashes.
func repositoryProblem(s string) string {
	if len(s) > repositoryMax {
		return "it is longer than 255 bytes"
	}
	for part := range strings.SplitSeq(s, "/") {
		if problem := componentProblem(part); problem != "" {
			return problem
		}
	}
	return ""
}

func componentProblem(part string) string {
	if part == "" {
		return "a part between its slashes is empty"
	}
	run := "" // the separator being read
	for i := range len(part) {
		c := part[i]
		switch {
		case isLowerAlnum(c):
			if run != "" && !isSeparator(run) {
				return "it holds the separator " + nixstore.Quote(run)
			}
			run = ""
		case strings.IndexByte("._-", c) < 0:
			return "it holds something else than lower-case letters, digits and any of ._-/"
		case i == 0:
			return "a part begins with a separator"
		default:
			run += part[i : i+1]
		}
	}
	if run != "" {
		return "a part ends in a separator"
	}
	return ""
}

func isSeparator(s string) bool {
	return s == "." || s == "_" || s == "__" || strings.Trim(s, "-") == ""
}

func isLowerAlnum(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// isTag tells whether s follows the grammar of tags, [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}.
func isTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !isLowerAlnum(c) && (c < 'A' || c > 'Z') && strings.IndexByte("._-", c) < 0 {
			return false
		}
	}
	return true
}

// digestProblem says why s is no digest that could exist, or "": the two
// registered algorithms of the OCI image specification ("Digests").
func digestProblem(s string) string {
	algorithm, encoded, ok := strings.Cut(s, ":")
	length := map[string]int{"sha256": 64, "sha512": 128}[algorithm]
	switch {
	case !ok || length == 0:
		return "it does not begin with sha256: or sha512:"
	case len(encoded) != length || strings.Trim(encoded, "0123456789abcdef") != "":
		return "no hash in lower-case base 16 of the right length follows"
	}
	return ""
}
