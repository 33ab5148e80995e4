package policy

import (
	"slices"
	"strings"
)

// flakePattern is one checked pattern of a rule's flakes.
type flakePattern struct {
	any     bool   // "*": every reference to another machine
	place   string // the pattern, without a final /**
	below   bool   // it ended in /**
	literal bool   // it holds no *
}

// The reasons for which a pattern does not allow a reference. elsewhere is the
// common one: the pattern speaks of another place.
const (
	elsewhere   = "no pattern matches it"
	notOneForm  = "a pattern allows only references that are written plainly: no %, no . or .. or empty segments, a scheme in lower case"
	badQuery    = "a pattern allows only the parameters dir, ref, rev and narHash, each once"
	onDisk      = "a flake on the node's disk needs a pattern that begins with path:"
	badRevision = "a commit id or pull request can come from anybody's fork; name a branch or a tag, or let the pattern end in /**"
)

// location is a flake reference taken apart.
type location struct {
	place     string   // scheme and path, without revision
	revisions []string // branches, tags and commit ids, wherever they were written
}

// parsePattern checks a pattern; the text says what is wrong, or "".
func parsePattern(s string) (flakePattern, string) {
	if s == "*" {
		return flakePattern{any: true}, ""
	}
	p := flakePattern{place: s}
	p.place, p.below = strings.CutSuffix(s, "/**")
	p.literal = !strings.Contains(p.place, "*")
	scheme, rest, found := strings.Cut(p.place, ":")
	sample := strings.ReplaceAll(rest, "*", "x") // what a match may look like
	if p.below {
		sample += "/x"
	}
	switch {
	case strings.ContainsAny(s, "?#"):
		return p, "it holds a ? or #; a pattern ends before the parameters"
	case !found || !isScheme(scheme):
		return p, "it does not begin with a scheme such as github:"
	case strings.Contains(p.place, "**"):
		return p, "** may only stand at the end, after a slash"
	case !isPlain(sample):
		return p, "it has an empty segment, a . or .. segment, or a character that no plain reference has"
	case strings.Count(sample, "/")+1 < forgeDepth(scheme):
		return p, "it names no repository; all of an owner's are written github:owner/*"
	}
	authority, _, _ := strings.Cut(strings.TrimPrefix(rest, "//"), "/")
	if strings.HasPrefix(rest, "//") && strings.Contains(strings.TrimPrefix(authority, "*."), "*") {
		return p, "in the host, * may only stand first, before a dot"
	}
	return p, ""
}

// problem says why the pattern does not allow ref, or "".
func (p flakePattern) problem(ref string) string {
	if p.any {
		if isLocal(ref) {
			return onDisk
		}
		return ""
	}
	loc, reason := locate(ref)
	if reason != "" {
		return reason
	}
	if p.below {
		if p.covers(loc.place) {
			return ""
		}
		return elsewhere
	}
	if p.literal && p.names(loc) {
		return "" // the operator has written this very revision
	}
	if !glob(p.place, loc.place) && !p.names(loc) {
		return elsewhere
	}
	if slices.ContainsFunc(loc.revisions, isForeignRevision) {
		return badRevision
	}
	return ""
}

// isLocal tells whether ref may be a folder of the node: a pod's words must not
// reach its disk by a pattern that was meant for the network.
func isLocal(ref string) bool {
	scheme, _, found := strings.Cut(strings.ToLower(ref), ":")
	return !found && strings.ContainsAny(ref[:min(len(ref), 1)], "/.~") ||
		found && (scheme == "path" || strings.HasSuffix(scheme, "file") || strings.ContainsAny(scheme, "/.~"))
}

// names tells whether the pattern speaks of the place with its one revision, as
// in github:our-org/app/main.
func (p flakePattern) names(loc location) bool {
	return len(loc.revisions) == 1 && isForge(loc.place) && glob(p.place, loc.place+"/"+loc.revisions[0])
}

// covers tells whether place, or a place above it, matches the pattern.
func (p flakePattern) covers(place string) bool {
	for {
		if glob(p.place, place) {
			return true
		}
		slash := strings.LastIndexByte(place, '/')
		if slash < 0 {
			return false
		}
		place = place[:slash]
	}
}

// locate takes ref apart; the text says why that cannot be done safely, or "".
// Rather than to imitate how each version of Nix reads a reference, it refuses
// all that can be read in two ways.
func locate(ref string) (location, string) {
	ref, _, _ = strings.Cut(ref, "#")
	place, query, _ := strings.Cut(ref, "?")
	scheme, rest, found := strings.Cut(place, ":")
	if !found { // a name of a flake registry; Nix reads it so, too
		scheme, rest = "flake", place
	}
	if !isScheme(scheme) || !isPlain(rest) || !found && strings.HasPrefix(rest, "/") {
		return location{}, notOneForm
	}
	revisions, ok := readQuery(query)
	if !ok {
		return location{}, badQuery
	}
	loc := location{place: scheme + ":" + rest, revisions: revisions}
	depth := forgeDepth(scheme)
	if depth == 0 {
		return loc, ""
	}
	if strings.HasPrefix(rest, "/") || strings.Count(rest, "/")+1 < depth {
		return location{}, notOneForm // else a ref could stand in for the missing segment
	}
	return loc.split(scheme, rest, depth), ""
}

// split moves what follows the repository's name to the revisions. Nix writes
// the revision there: github:owner/repository/revision.
func (l location) split(scheme, rest string, depth int) location {
	parts := strings.SplitN(rest, "/", depth+1)
	if len(parts) > depth {
		l.place = scheme + ":" + strings.Join(parts[:depth], "/")
		l.revisions = append(l.revisions, parts[depth])
	}
	return l
}

// forgeDepth gives how many segments name a repository in a scheme that may put a
// revision after it; 0 for other schemes (Nix manual, "nix flake", "Types").
func forgeDepth(scheme string) int {
	switch scheme {
	case "github", "gitlab", "sourcehut":
		return 2
	case "flake":
		return 1
	}
	return 0
}

func isForge(place string) bool {
	scheme, _, _ := strings.Cut(place, ":")
	return forgeDepth(scheme) > 0
}

// readQuery gives the revisions among the parameters; false when a parameter is
// unknown, malformed or given twice. Others would change where the files come
// from: host, url, owner, repo, submodules, allRefs, lfs, exportIgnore …
func readQuery(query string) ([]string, bool) {
	var revisions, seen []string
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, value, _ := strings.Cut(pair, "=")
		if slices.Contains(seen, name) || !isParameter(name, value) {
			return nil, false
		}
		seen = append(seen, name)
		if name == "ref" || name == "rev" {
			revisions = append(revisions, value)
		}
	}
	return revisions, true
}

func isParameter(name, value string) bool {
	switch name {
	case "dir", "ref", "rev":
		return isPlain(value) && value[0] != '/' && strings.IndexByte(value, ':') < 0
	case "narHash":
		return value != "" && strings.Trim(value, alphanumeric+"+/=%-") == ""
	}
	return false
}

// isForeignRevision tells whether a revision may have been written by somebody
// who has no rights in the repository: a commit id, also a shortened one, or a
// reference that is neither branch nor tag. It rather calls a branch foreign whose
// name looks like a commit id.
func isForeignRevision(rev string) bool {
	if strings.ContainsAny(rev, ":@") { // another fork's branch, or git's reflog syntax
		return true
	}
	if rest, ok := strings.CutPrefix(rev, "refs/"); ok && !strings.HasPrefix(rest, "heads/") && !strings.HasPrefix(rest, "tags/") {
		return true
	}
	parts := strings.Split(rev, "/")
	return slices.Contains([]string{"pull", "pulls", "pull-requests", "merge-requests", "changes", "remotes"}, parts[0]) ||
		slices.ContainsFunc(parts, isCommit)
}

// isCommit tells whether git would read a word as a commit id: hexadecimal digits,
// four at least, or anything that ends in them after "-g" (gitrevisions(7), git 2.47).
func isCommit(word string) bool {
	const shortest = 4
	word = strings.ToLower(word)
	if i := strings.LastIndex(word, "-g"); i >= 0 {
		word = word[i+len("-g"):]
	}
	return len(word) >= shortest && strings.Trim(word, "0123456789abcdef") == ""
}

const alphanumeric = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

// isScheme tells whether s is a scheme in lower case (RFC 3986, section 3.1).
func isScheme(s string) bool {
	return s != "" && s[0] >= 'a' && s[0] <= 'z' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789+.-") == ""
}

// isPlain tells whether s, what follows a scheme, has one reading only: characters
// that need no encoding, and no segment that a path resolver would take away.
func isPlain(s string) bool {
	if strings.Trim(s, alphanumeric+"-._~/:+@=,") != "" {
		return false
	}
	path, isURL := strings.CutPrefix(s, "//")
	if isURL {
		var authority string
		authority, path, _ = strings.Cut(path, "/")
		if !isAuthority(authority) {
			return false
		}
	} else {
		path = strings.TrimPrefix(path, "/")
	}
	return path != "" && !slices.ContainsFunc(strings.Split(path, "/"), func(segment string) bool {
		return segment == "" || segment == "." || segment == ".."
	})
}

// isAuthority allows no credentials. "git@" is the one user that hosts of git
// give to all.
func isAuthority(s string) bool {
	s = strings.TrimPrefix(s, "git@")
	return !strings.Contains(s, "@")
}
