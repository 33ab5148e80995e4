package nixeval

import (
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/closured/closured/nixstore"
)

// flakeRef is a checked flake reference.
type flakeRef struct {
	ref    string // without fragment
	attr   string // the fragment; empty: the flake's default
	dir    string // the folder of a flake on this node; empty: remote
	query  string // of a flake on this node, without its "?"
	locked bool   // names one content for ever
}

const flakeRefMax = 4096

const flakeNext = "write it as github:<owner>/<repository>#<package>, git+https://<host>/<path>#<package> or an https:// tarball"

// remoteSchemes are those that fetch over the network without keys of the node.
// The others read its disk, run programs or need ssh keys.
func remoteSchemes() []string {
	return []string{
		"github", "gitlab", "sourcehut", "flake",
		"git+https", "git+http", "https", "http", "tarball+https", "tarball+http",
	}
}

// parseFlakeRef parses "reference#attribute". It accepts less than Nix does
// (nix.dev manual, "nix flake", "Flake references"). Its errors are ErrInvalid.
func parseFlakeRef(s string) (flakeRef, error) {
	f, problem := splitFlakeRef(s)
	if problem == "" {
		problem = f.problem()
	}
	if problem != "" {
		return flakeRef{}, nixstore.Fail(nixstore.ErrInvalid, flakeNext,
			"%s is no flake reference that can be used: %s", quoteRef(s), problem)
	}
	return f, nil
}

func splitFlakeRef(s string) (f flakeRef, problem string) {
	switch {
	case s == "":
		return f, "it is empty"
	case len(s) > flakeRefMax:
		return f, "it is longer than 4096 bytes"
	case s[0] == '-':
		return f, "it begins with a dash"
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return f, "it holds a space, a control character or something else than ASCII"
		}
	}
	f.ref, f.attr, _ = strings.Cut(s, "#")
	for i := range len(f.attr) {
		if c := f.attr[i]; !isAlphanumeric(c) && strings.IndexByte("_-+'.", c) < 0 {
			return f, "its attribute holds something else than letters, digits and any of _-+'."
		}
	}
	return f, ""
}

func (f *flakeRef) problem() string {
	if local, ok := strings.CutPrefix(f.ref, "path:"); ok || f.ref != "" && f.ref[0] == '/' {
		return f.localProblem(local)
	}
	scheme, rest, hasScheme := strings.Cut(f.ref, ":")
	if !hasScheme {
		if !indirectRef().MatchString(f.ref) {
			return "it has no scheme and is no name of the flake registry"
		}
		f.locked = commitEnd().MatchString(f.ref)
		return ""
	}
	if !slices.Contains(remoteSchemes(), scheme) {
		return "flakes of the scheme " + nixstore.Quote(scheme) + " cannot be fetched here"
	}
	if rest == "" || rest[0] == '-' {
		return "there is no address"
	}
	parsed, err := url.Parse(f.ref)
	if err != nil {
		return "it is no URL"
	}
	if parsed.User != nil {
		return "it holds a user name or password, which everybody who may see the pod would see"
	}
	if strings.Contains(scheme, "http") && parsed.Hostname() == "" {
		return "it names no host"
	}
	query := parsed.Query()
	f.locked = query.Has("narHash") || commitEnd().MatchString("/"+query.Get("rev")) ||
		parsed.RawQuery == "" && !strings.Contains(scheme, "http") && commitEnd().MatchString(rest)
	return ""
}

// localProblem takes path:/folder and /folder apart; Nix itself would take the
// latter for the git repository around it.
func (f *flakeRef) localProblem(local string) string {
	if local == "" {
		local = f.ref
	}
	f.dir, f.query, _ = strings.Cut(local, "?")
	if !filepath.IsAbs(f.dir) || filepath.Clean(f.dir) != f.dir || f.dir == "/" || strings.Contains(f.dir, "%") {
		return "its path is not absolute, or not clean"
	}
	query, err := url.ParseQuery(f.query)
	if err != nil {
		return "its query is malformed"
	}
	for key := range query { // as libfetchers/path.cc of Nix 2.8: it has no dir
		if !slices.Contains([]string{"narHash", "lastModified", "rev", "revCount"}, key) {
			return "a path has no parameter " + nixstore.Quote(key)
		}
	}
	f.locked = query.Has("narHash")
	return ""
}

// indirectRef is a name of the flake registry, with a branch or commit.
func indirectRef() *regexp.Regexp {
	return regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]*(/[a-zA-Z0-9_][a-zA-Z0-9_.-]*){0,2}$`)
}

// commitEnd matches what ends in a whole commit hash.
func commitEnd() *regexp.Regexp { return regexp.MustCompile(`/[0-9a-f]{40}$`) }

// quoteRef quotes a reference for a message, without what may be credentials.
func quoteRef(s string) string {
	if before, after, ok := strings.Cut(s, "://"); ok {
		authority, path, _ := strings.Cut(after, "/")
		if i := strings.LastIndexByte(authority, '@'); i >= 0 {
			s = before + "://…@" + authority[i+1:] + "/" + path
		}
	}
	s, _, _ = strings.Cut(s, "?")
	return nixstore.Quote(s)
}
