package nixcli

import (
	"context"
	"errors"
	"strings"

	"github.com/closured/closured/nixstore"
)

// findQuery uses the index of ValidPaths.path: a dot follows the dash in ASCII,
// so that all names of one hash lie between "<hash>-" and "<hash>.".
const findQuery = `select path from ValidPaths where path >= ?1 || '-' and path < ?1 || '.' order by path limit 1`

// FindByHash gives the valid path whose hash part is hash, 32 characters of Nix's
// alphabet: Nix never has two. Errors: ErrInvalid (not a hash), ErrNotFound (no
// such path is valid here).
func (s *Store) FindByHash(ctx context.Context, hash string) (nixstore.StorePath, error) {
	probe, err := nixstore.ParseBaseName(hash + "-x") // any name: only the hash is judged
	if err != nil || strings.Contains(hash, "-") {
		return nixstore.StorePath{}, nixstore.Fail(nixstore.ErrInvalid, "give the 32 characters after "+nixstore.Dir+"/",
			"%s is not the hash of a store path", nixstore.Quote(hash))
	}
	db, err := s.db.open()
	if err != nil {
		return nixstore.StorePath{}, s.findFailure(ctx, probe, err)
	}
	var path string
	if err := db.QueryRowContext(ctx, findQuery, nixstore.Dir+"/"+hash).Scan(&path); err != nil {
		return nixstore.StorePath{}, s.findFailure(ctx, probe, err)
	}
	return nixstore.ParseStorePath(path)
}

// findFailure is databaseFailure for a path whose name is not known.
func (s *Store) findFailure(ctx context.Context, probe nixstore.StorePath, err error) error {
	err = s.databaseFailure(ctx, probe, err)
	if errors.Is(err, nixstore.ErrNotFound) {
		return nixstore.Fail(nixstore.ErrNotFound, "realise it first: its hash alone does not say which path a cache should give",
			"no path of this node's store has the hash %s", probe.Hash())
	}
	return err
}
