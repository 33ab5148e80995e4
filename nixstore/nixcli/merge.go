package nixcli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/closured/closured/nixstore"
)

// mergeTimeout bounds the evaluation of the derivation that joins the roots.
const mergeTimeout = time.Minute

// Merge implements nixstore.Realiser by Nix's own builtin:buildenv, which links
// what the roots hold into one tree. Of files with the same name that of the
// root that sorts first is taken, so that nothing collides. The output has to be
// realised with Build, whatever the policy says: its builder is part of Nix.
//
// A root must be a folder. Errors: ErrInvalid for one that is a single file or
// for no roots at all, ErrNotFound for one that is not valid, ErrUnavailable.
func (s *Store) Merge(ctx context.Context, roots []nixstore.StorePath) (nixstore.Output, error) {
	roots = slices.Clone(roots)
	slices.SortFunc(roots, nixstore.StorePath.Compare)
	roots = slices.Compact(roots)
	if len(roots) == 0 {
		return nixstore.Output{}, invalid("name at least one root", "there is nothing to join")
	}
	for _, root := range roots {
		if err := s.checkMergeable(ctx, root); err != nil {
			return nixstore.Output{}, fmt.Errorf("joining %d roots: %w", len(roots), err)
		}
	}
	out, err := s.instantiate(ctx, mergeExpr(roots))
	if err != nil {
		return nixstore.Output{}, fmt.Errorf("joining %d roots: %w", len(roots), err)
	}
	return out, nil
}

// checkMergeable refuses what buildenv would leave out without a word.
func (s *Store) checkMergeable(ctx context.Context, root nixstore.StorePath) error {
	if _, err := s.Registration(ctx, root); err != nil {
		return err
	}
	info, err := os.Stat(s.physical(root))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a symlink to a logical path; or gone by hand, which the build will tell
	}
	if err != nil {
		return fmt.Errorf("looking at %s: %w", root, err)
	}
	if !info.IsDir() {
		return invalid("name it as the only root", "%s is a single file, which cannot be joined with other roots", root)
	}
	return nil
}

// physical is where a path is on this node.
func (s *Store) physical(p nixstore.StorePath) string {
	return filepath.Join(s.cfg.StoreRoot, p.String())
}

// mergeExpr is the derivation as an expression. The grammar of store paths
// leaves nothing in them that a Nix string would need escaped. The link
// "manifest.nix", which buildenv insists on, points to the list of the closure
// that each view has.
func mergeExpr(roots []nixstore.StorePath) string {
	quoted := make([]string, len(roots))
	for i, root := range roots {
		quoted[i] = `"` + root.String() + `"`
	}
	return `let
  roots = [ ` + strings.Join(quoted, " ") + ` ];
  withContext = p: builtins.appendContext p { ${p} = { path = true; }; };
  merged = derivation {
    name = "closure";
    system = "builtin";
    builder = "builtin:buildenv";
    manifest = "/nix/var/closure.json";
    derivations = builtins.genList (i: [ "true" (toString (i + 1)) "1" (withContext (builtins.elemAt roots i)) ]) (builtins.length roots);
  };
` + instantiated("merged")
}

// instantiated ends an expression with the two paths of a derivation, as texts.
func instantiated(name string) string {
	return `in map builtins.unsafeDiscardStringContext [ ` + name + `.drvPath ` + name + `.outPath ]`
}

// instantiate evaluates an expression of ours that gives the paths of a
// derivation and of its output "out", and writes the derivation.
func (s *Store) instantiate(ctx context.Context, expr string) (nixstore.Output, error) {
	if err := s.ready(ctx); err != nil {
		return nixstore.Output{}, err
	}
	limited, cancel := context.WithTimeoutCause(ctx, mergeTimeout, nixstore.Fail(nixstore.ErrUnavailable,
		"look at the daemon's log", "the Nix daemon took longer than %s for one derivation", mergeTimeout))
	defer cancel()
	told := account{}
	res, err := s.run(limited, command{
		program: "nix-instantiate",
		args: []string{
			"--eval", "--strict", "--json", "--read-write-mode", "--log-format", "internal-json",
			"--expr", expr,
		},
		env: s.clientEnv(), onLine: told.take,
	})
	if err != nil {
		return nixstore.Output{}, err
	}
	if res.exit != 0 {
		return nixstore.Output{}, classify(nil, res.exit, &told)
	}
	var paths []nixstore.StorePath
	if err := json.Unmarshal(res.stdout, &paths); err != nil || len(paths) != 2 {
		return nixstore.Output{}, fmt.Errorf("reading what nix-instantiate printed: %w", errors.Join(err, errors.New("not two paths")))
	}
	return nixstore.Output{Path: paths[1], Derivation: paths[0], Name: "out"}, nil
}
