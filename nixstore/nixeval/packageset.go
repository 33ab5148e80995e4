package nixeval

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/closured/closured/nixstore"
)

// packageSet is the operator's: a path of the node, a flake, or nothing.
type packageSet struct {
	path  string // absolute; empty: a flake or nothing
	flake *flakeRef
}

func (s packageSet) isEmpty() bool { return s.path == "" && s.flake == nil }

func parsePackageSet(s string) (packageSet, error) {
	switch {
	case s == "":
		return packageSet{}, nil
	case s[0] == '/' || s[0] == '.':
		path, err := filepath.Abs(s)
		if err != nil {
			return packageSet{}, fmt.Errorf("finding the package set: %w", err)
		}
		return packageSet{path: path}, nil
	}
	ref, err := parseFlakeRef(s)
	if err == nil && ref.attr != "" {
		err = nixstore.Fail(nixstore.ErrInvalid, "remove what follows the #", "the package set %s names an attribute", quoteRef(s))
	}
	if err != nil {
		return packageSet{}, fmt.Errorf("reading the package set: %w", err)
	}
	return packageSet{flake: &ref}, nil
}

// resolve gives where the package set is on the disk, with symbolic links
// followed: operators switch it by a link, as kubelet does in a ConfigMap.
func (s packageSet) resolve() (string, error) {
	path := s.path
	if s.flake != nil {
		path = s.flake.dir
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", nixstore.Fail(nixstore.ErrUnavailable, "ask the operator to look at --package-set",
			"the package set of this node cannot be opened (%v)", err)
	}
	return resolved, nil
}

// fingerprint changes when the package set may have changed.
func (s packageSet) fingerprint(now time.Time) string {
	switch {
	case s.isEmpty():
		return "none"
	case s.flake != nil:
		return s.flake.fingerprint(now)
	}
	resolved, err := s.resolve()
	if err != nil {
		return "missing"
	}
	return resolved + stamp(resolved) + stamp(filepath.Join(resolved, "default.nix"))
}

// unlockedFor is how long a flake reference that names no commit is taken to
// mean the same. Nix's own default is an hour as well (tarball-ttl).
const unlockedFor = time.Hour

func (f *flakeRef) fingerprint(now time.Time) string {
	if f.locked {
		return "locked"
	}
	if f.dir != "" {
		return stamp(f.dir) + stamp(filepath.Join(f.dir, "flake.nix")) + stamp(filepath.Join(f.dir, "flake.lock"))
	}
	return fmt.Sprintf("hour %d", now.Unix()/int64(unlockedFor/time.Second))
}

// stamp changes when a file or folder is replaced or written.
func stamp(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return " -"
	}
	inode := uint64(0)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	return fmt.Sprintf(" %d.%d.%d", inode, info.Size(), info.ModTime().UnixNano())
}

// Fingerprint changes when src may evaluate to something else: with the package
// set for packages and expressions, each hour for flakes that name no commit.
// It costs some stat calls.
func (e *Evaluator) Fingerprint(src nixstore.Source) string {
	now := e.cfg.Clock()
	switch src.Kind {
	case nixstore.SourcePackages, nixstore.SourceExpr:
		return "set " + e.set.fingerprint(now)
	case nixstore.SourceFlake:
		ref, err := parseFlakeRef(src.Flake)
		if err != nil {
			return "invalid"
		}
		return "flake " + strings.TrimSpace(ref.fingerprint(now))
	default:
		return "" // paths and images are not evaluated
	}
}
