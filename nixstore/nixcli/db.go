package nixcli

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	_ "modernc.org/sqlite" // the driver "sqlite", in pure Go

	"github.com/closured/closured/nixstore"
)

// Tables of Nix's schema 10, libstore/schema.sql. ids are never used twice in a
// database (autoincrement), so that id and time name a registration.
const (
	registrationQuery = `select id, registrationTime from ValidPaths where path = ?1`
	closureQuery      = `
with recursive c(id) as (
  select id from ValidPaths where path = ?1
  union select reference from Refs join c on Refs.referrer = c.id)
select v.id, v.registrationTime, v.path, v.hash, v.narSize,
  (select group_concat(reference) from Refs where referrer = v.id)
from c join ValidPaths v using (id)`
)

// connections is how many queries run at the same time.
const connections = 4

// database is Nix's database, opened on first use and held open.
type database struct {
	path string

	mu   sync.Mutex // guards what follows
	held *sql.DB
	file fs.FileInfo // the file that held was opened on
}

// open gives the held connections, and makes new ones when another file took
// the database's place. It gives ErrNotExist when Nix has made none yet.
func (d *database) open() (*sql.DB, error) {
	now, err := os.Stat(d.path)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held != nil && os.SameFile(d.file, now) {
		return d.held, nil
	}
	if d.held != nil {
		_ = d.held.Close() // nothing was written by it
		d.held = nil
	}
	// mode=ro still needs a writable folder for the shared memory of the
	// write-ahead log, https://www.sqlite.org/wal.html#readonly.
	name := url.URL{
		Scheme: "file", OmitHost: true, Path: d.path,
		RawQuery: "mode=ro&_pragma=busy_timeout(5000)&_pragma=query_only(1)",
	}
	held, err := sql.Open("sqlite", name.String())
	if err != nil {
		return nil, err
	}
	held.SetMaxOpenConns(connections)
	held.SetMaxIdleConns(connections)
	d.held, d.file = held, now
	return held, nil
}

func (d *database) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held == nil {
		return nil
	}
	err := d.held.Close()
	d.held = nil
	return err
}

// Registration implements nixstore.Reader.
func (s *Store) Registration(ctx context.Context, root nixstore.StorePath) (int64, error) {
	db, err := s.db.open()
	if err != nil {
		return 0, s.databaseFailure(ctx, root, err)
	}
	var id, when int64
	if err := db.QueryRowContext(ctx, registrationQuery, root.String()).Scan(&id, &when); err != nil {
		return 0, s.databaseFailure(ctx, root, err)
	}
	return registration(id, when), nil
}

// registration joins the id of a path and the time of its registration, in
// seconds: ids begin again when a database is made anew.
func registration(id, when int64) int64 { return id<<32 | when&0xffffffff }

// Closure implements nixstore.Reader. It takes one query, which sees one state
// of the database also while others write.
func (s *Store) Closure(ctx context.Context, root nixstore.StorePath) (nixstore.Closure, error) {
	db, err := s.db.open()
	if err != nil {
		return nixstore.Closure{}, s.databaseFailure(ctx, root, err)
	}
	rows, err := db.QueryContext(ctx, closureQuery, root.String())
	if err != nil {
		return nixstore.Closure{}, s.databaseFailure(ctx, root, err)
	}
	defer func() { _ = rows.Close() }()
	found, err := readRows(rows)
	if err != nil {
		return nixstore.Closure{}, s.databaseFailure(ctx, root, err)
	}
	return assemble(root, found)
}

// row is one valid path as the database has it.
type row struct {
	id, when, narSize int64
	path              nixstore.StorePath
	hash              string
	references        string // ids with commas between them
}

func readRows(rows *sql.Rows) ([]row, error) {
	var found []row
	for rows.Next() {
		var r row
		var path string
		var size sql.NullInt64
		var references sql.NullString
		if err := rows.Scan(&r.id, &r.when, &path, &r.hash, &size, &references); err != nil {
			return nil, err
		}
		parsed, err := nixstore.ParseStorePath(path)
		if err != nil {
			return nil, fmt.Errorf("reading a valid path: %w", err)
		}
		r.path, r.narSize, r.references = parsed, size.Int64, references.String
		found = append(found, r)
	}
	return found, rows.Err()
}

// assemble makes the closure of root from its rows.
func assemble(root nixstore.StorePath, found []row) (nixstore.Closure, error) {
	closure := nixstore.Closure{Root: root, Paths: make([]nixstore.PathInfo, 0, len(found))}
	byID := make(map[string]nixstore.StorePath, len(found))
	for _, r := range found {
		byID[strconv.FormatInt(r.id, 10)] = r.path
		if r.path == root {
			closure.Registration = registration(r.id, r.when)
		}
	}
	if closure.Registration == 0 {
		return nixstore.Closure{}, notValid(root)
	}
	for _, r := range found {
		hash, err := sri(r.hash)
		if err != nil {
			return nixstore.Closure{}, fmt.Errorf("reading the hash of %s: %w", r.path, err)
		}
		info := nixstore.PathInfo{Path: r.path, NarHash: hash, NarSize: r.narSize, References: []nixstore.StorePath{}}
		for id := range strings.SplitSeq(r.references, ",") {
			if p, ok := byID[id]; ok {
				info.References = append(info.References, p)
			}
		}
		slices.SortFunc(info.References, nixstore.StorePath.Compare)
		closure.Paths = append(closure.Paths, info)
	}
	slices.SortFunc(closure.Paths, func(a, b nixstore.PathInfo) int { return a.Path.Compare(b.Path) })
	return closure, nil
}

// sri turns the database's "sha256:<base 16>" into "sha256-<base 64>".
func sri(hash string) (string, error) {
	kind, digits, _ := strings.Cut(hash, ":")
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw) != 32 || kind != "sha256" {
		return "", nixstore.Fail(nixstore.ErrCorrupt, "check the store with nix-store --verify",
			"Nix's database holds %s, not a SHA-256 hash in base 16", nixstore.Quote(hash))
	}
	return "sha256-" + base64.StdEncoding.EncodeToString(raw), nil
}

func notValid(root nixstore.StorePath) error {
	return nixstore.Fail(nixstore.ErrNotFound, "realise it first", "%s is not in this node's store", root)
}

// databaseFailure says what went wrong with a query for root.
func (s *Store) databaseFailure(ctx context.Context, root nixstore.StorePath, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, sql.ErrNoRows), errors.Is(err, fs.ErrNotExist):
		return notValid(root)
	}
	return fmt.Errorf("reading %s from Nix's database %s: %w", root, s.db.path, err)
}
