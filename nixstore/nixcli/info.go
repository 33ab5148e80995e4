package nixcli

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/closured/closured/nixstore"
)

// infoQuery gives a path and the paths it refers to, of one state of the database.
const infoQuery = `
select v.hash, v.narSize,
  (select group_concat(p.path, ' ') from Refs join ValidPaths p on p.id = Refs.reference where Refs.referrer = v.id)
from ValidPaths v where v.path = ?1`

// Info gives what the store knows of one valid path, without its closure. Errors:
// ErrNotFound (not valid here).
func (s *Store) Info(ctx context.Context, path nixstore.StorePath) (nixstore.PathInfo, error) {
	db, err := s.db.open()
	if err != nil {
		return nixstore.PathInfo{}, s.databaseFailure(ctx, path, err)
	}
	var hash string
	var size sql.NullInt64
	var references sql.NullString
	if err := db.QueryRowContext(ctx, infoQuery, path.String()).Scan(&hash, &size, &references); err != nil {
		return nixstore.PathInfo{}, s.databaseFailure(ctx, path, err)
	}
	info := nixstore.PathInfo{Path: path, NarSize: size.Int64, References: []nixstore.StorePath{}}
	if info.NarHash, err = sri(hash); err != nil {
		return nixstore.PathInfo{}, fmt.Errorf("reading the hash of %s: %w", path, err)
	}
	for text := range strings.FieldsSeq(references.String) {
		p, err := nixstore.ParseStorePath(text)
		if err != nil {
			return nixstore.PathInfo{}, fmt.Errorf("reading the references of %s: %w", path, err)
		}
		info.References = append(info.References, p)
	}
	slices.SortFunc(info.References, nixstore.StorePath.Compare)
	return info, nil
}
