package closureimage_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage"
)

// fakeStore is a store whose folders are made by hand. It reads what it was told,
// and counts how often.
type fakeStore struct {
	dir string

	mu      sync.Mutex // guards all below
	paths   map[nixstore.StorePath]nixstore.PathInfo
	reads   int
	lastReg int64
	before  func(ctx context.Context) error // called by Closure; nil: nothing
}

func newStore(tb testing.TB) *fakeStore {
	tb.Helper()
	return &fakeStore{dir: tb.TempDir(), paths: map[nixstore.StorePath]nixstore.PathInfo{}, lastReg: 1}
}

// Registration is the same for all paths.
func (s *fakeStore) Registration(context.Context, nixstore.StorePath) (int64, error) {
	return s.lastReg, nil
}

// Closure walks the references.
func (s *fakeStore) Closure(ctx context.Context, root nixstore.StorePath) (nixstore.Closure, error) {
	s.mu.Lock()
	before := s.before
	s.mu.Unlock()
	if before != nil {
		if err := before(ctx); err != nil {
			return nixstore.Closure{}, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	c := nixstore.Closure{Root: root, Registration: s.lastReg}
	seen := map[nixstore.StorePath]bool{}
	for todo := []nixstore.StorePath{root}; len(todo) > 0; todo = todo[1:] {
		info, ok := s.paths[todo[0]]
		if !ok {
			return c, nixstore.ErrNotFound
		}
		if seen[todo[0]] {
			continue
		}
		seen[todo[0]] = true
		c.Paths = append(c.Paths, info)
		todo = append(todo, info.References...)
	}
	slices.SortFunc(c.Paths, func(a, b nixstore.PathInfo) int { return a.Path.Compare(b.Path) })
	return c, nil
}

func (s *fakeStore) closureReads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

func (s *fakeStore) real(p nixstore.StorePath) string { return filepath.Join(s.dir, p.BaseName()) }

// files describes a tree: names end with a slash for folders, with an asterisk for
// programs, and with an at sign for symlinks, whose content is their target. The
// name "" is the store path itself.
type files map[string]string

// add makes a store path. Its hash is that of its name and references.
func (s *fakeStore) add(tb testing.TB, name string, tree files, refs ...nixstore.StorePath) nixstore.StorePath {
	tb.Helper()
	const digits = "0123456789abcdfghijklmnpqrsvwxyz"
	slices.SortFunc(refs, nixstore.StorePath.Compare)
	sum := sha256.Sum256([]byte(name))
	hash := make([]byte, 32)
	for i := range hash {
		hash[i] = digits[sum[i]%32]
	}
	p := nixstore.MustParseStorePath(nixstore.Dir + "/" + string(hash) + "-" + name)
	s.write(tb, s.real(p), tree)
	s.register(tb, p, refs...)
	return p
}

// register reads a path's archive and makes it valid.
func (s *fakeStore) register(tb testing.TB, p nixstore.StorePath, refs ...nixstore.StorePath) {
	tb.Helper()
	var nar bytes.Buffer
	narString(&nar, "nix-archive-1")
	dump(tb, &nar, s.real(p))
	sum := sha256.Sum256(nar.Bytes())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paths[p] = nixstore.PathInfo{
		Path: p, References: refs, NarSize: int64(nar.Len()),
		NarHash: "sha256-" + base64.StdEncoding.EncodeToString(sum[:]),
	}
}

func (s *fakeStore) write(tb testing.TB, at string, tree files) {
	tb.Helper()
	for name, content := range tree {
		file := at + "/" + strings.TrimRight(name, "/*@")
		if name == "" || name == "*" || name == "@" {
			file = at
		}
		var err error
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			tb.Fatal(err)
		}
		switch {
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(file, 0o755)
		case strings.HasSuffix(name, "@"):
			err = os.Symlink(content, file)
		case strings.HasSuffix(name, "*"):
			err = os.WriteFile(file, []byte(content), 0o755)
		default:
			err = os.WriteFile(file, []byte(content), 0o644)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// dump writes a NAR, as the Nix manual says it.
func dump(tb testing.TB, w *bytes.Buffer, file string) {
	tb.Helper()
	info, err := os.Lstat(file)
	if err != nil {
		tb.Fatal(err)
	}
	narString(w, "(", "type")
	switch {
	case info.IsDir():
		narString(w, "directory")
		entries, err := os.ReadDir(file)
		if err != nil {
			tb.Fatal(err)
		}
		for _, e := range entries {
			narString(w, "entry", "(", "name", e.Name(), "node")
			dump(tb, w, filepath.Join(file, e.Name()))
			narString(w, ")")
		}
	case info.Mode()&os.ModeSymlink != 0:
		target, err := os.Readlink(file)
		if err != nil {
			tb.Fatal(err)
		}
		narString(w, "symlink", "target", target)
	default:
		data, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		narString(w, "regular")
		if info.Mode()&0o100 != 0 {
			narString(w, "executable", "")
		}
		narString(w, "contents", string(data))
	}
	narString(w, ")")
}

func narString(w *bytes.Buffer, words ...string) {
	for _, s := range words {
		_ = binary.Write(w, binary.LittleEndian, uint64(len(s)))
		w.WriteString(s)
		w.Write(make([]byte, -len(s)&7))
	}
}

// builder makes a Builder over the store; edit may change its configuration.
func (s *fakeStore) builder(tb testing.TB, edit ...func(*closureimage.Config)) *closureimage.Builder {
	tb.Helper()
	cfg := closureimage.Config{StoreDir: s.dir, CacheDir: tb.TempDir(), Closures: s}
	for _, e := range edit {
		e(&cfg)
	}
	b, err := closureimage.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// spec names an image with a system of its own, for bytes that do not depend on the machine.
func spec(root nixstore.StorePath, form closureimage.Form) closureimage.Spec {
	return closureimage.Spec{Root: root, Registration: 1, System: "x86_64-linux", Form: form}
}

func mustImage(tb testing.TB, b *closureimage.Builder, s closureimage.Spec) *closureimage.Image {
	tb.Helper()
	i, err := b.Image(tb.Context(), s)
	if err != nil {
		tb.Fatal(err)
	}
	return i
}

// readBlob reads a blob from an offset to its end.
func readBlob(tb testing.TB, b closureimage.Blob, offset int64) ([]byte, error) {
	tb.Helper()
	r, err := b.Open(tb.Context(), offset)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// sample is a closure with something of everything.
func sample(tb testing.TB, s *fakeStore) nixstore.StorePath {
	tb.Helper()
	long := strings.Repeat("long-name/", 14)
	text := s.add(tb, "text", files{"": "only a file\n"})
	link := s.add(tb, "link", files{"@": text.String()}, text)
	certs := s.add(tb, "cacert-3.1", files{"etc/ssl/certs/ca-bundle.crt": "certificates"})
	lib := s.add(tb, "lib-1.2.3", files{
		"lib/libx.so.1": strings.Repeat("x", 70_000), "lib/libx.so@": "libx.so.1", "lib.txt": "a", "empty": "", "nothing/": "",
		"ünïcode": "u", long + "file": "deep", long + "link@": "/" + long + strings.Repeat("y", 80),
		"bad\xffname": "not UTF-8", strings.Repeat("n", 200): "name of 200",
	})
	return s.add(tb, "app-1.0", files{
		"bin/app*": "#!/bin/sh\n", "sbin/appd*": "#!/bin/sh\n", "share@": lib.String() + "/lib", "file": "not linked",
		"etc/app.conf": "conf", "etc/group": "own:x:1:\n", "nix/": "", "dev/": "", "gone@": "/nix/store/gone",
	}, lib, text, link, certs)
}
