package closureimage

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/beneath"
	"github.com/closured/closured/nixstore"
)

// depthMax bounds the descriptors that a hostile closure makes us hold; newer Nix
// itself stops at 64 (CVE-2026-44028).
const depthMax = 256

// scratchSize is that of the buffer for folders and symlinks.
const scratchSize = 16 << 10

// item is a store path of a layer.
type item struct {
	path    nixstore.StorePath
	narSize int64 // 0: unknown
}

// stream is the tar of some store paths, made while it is read. It is a state
// machine without a goroutine: what is to be given next stands in head, then in
// the open file, then in zeros; when all three are empty, next makes the next
// entry. Data goes from the page cache into the reader's own buffer.
type stream struct {
	ctx     context.Context //nolint:containedctx // that of the reader, whose Read cannot take one
	store   int             // descriptor of the physical store
	parents []string        // folders to begin with
	items   []item          // still to come
	skip    int64           // bytes that the reader does not want

	head  []byte // rest of the headers
	file  int    // descriptor of the open file, or -1
	left  int64  // bytes of the file still to come
	zeros int64  // bytes of zeros after the file

	stack   []folder
	name    []byte // of the current entry
	base    int    // length of the name of the store's folder in the archive
	current item   // store path that is being given
	nar     int64  // bytes of its NAR so far; negative: not counted
	ended   bool   // nothing comes any more but what stands in zeros
	scratch []byte
	headers []byte // space for headers
}

// folder is one that is being walked.
type folder struct {
	fd       int
	children []beneath.Entry // still to come
	base     int             // length of its name with the slash
}

// openStream opens the tar of items in a form, offset bytes after its beginning.
func openStream(ctx context.Context, storeDir string, form Form, items []item, offset int64) (*stream, error) {
	fd, err := openStore(storeDir)
	if err != nil {
		return nil, err
	}
	s := &stream{
		ctx: ctx, store: fd, items: items, skip: offset, file: -1,
		scratch: make([]byte, scratchSize), headers: make([]byte, 0, 4*blockSize),
	}
	if form == Root {
		s.parents = []string{"nix/"}
	}
	s.parents = append(s.parents, form.folder()+"store/")
	s.name = append(s.name, form.folder()+"store/"...)
	s.base = len(s.name)
	if offset > 0 {
		s.nar = -1
	}
	return s, nil
}

// Close releases all descriptors.
func (s *stream) Close() error {
	for _, f := range s.stack {
		beneath.Close(f.fd)
	}
	s.stack = nil
	beneath.Close(s.file)
	beneath.Close(s.store)
	s.file, s.store, s.ended = -1, -1, true
	return nil
}

// Read fills p as far as the archive goes.
func (s *stream) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n := 0
	for n < len(p) {
		m, err := s.some(p[n:])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// some gives a piece of what is there, or makes the next entry.
func (s *stream) some(p []byte) (int, error) {
	switch {
	case len(s.head) > 0:
		n := copy(p, s.head)
		s.head = s.head[n:]
		return n, nil
	case s.left > 0:
		return s.data(p)
	case s.zeros > 0:
		n := int(min(int64(len(p)), s.zeros))
		clear(p[:n])
		s.zeros -= int64(n)
		return n, nil
	case s.ended:
		return 0, io.EOF
	}
	return 0, s.next()
}

// data reads from the open file.
func (s *stream) data(p []byte) (int, error) {
	n, err := beneath.Read(s.file, p[:min(int64(len(p)), s.left)])
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", nixstore.Quote(s.logical()), err)
	}
	if n == 0 {
		return 0, nixstore.Fail(nixstore.ErrCorrupt, "repair the node's store",
			"%s became shorter while it was read", nixstore.Quote(s.logical()))
	}
	if s.left -= int64(n); s.left == 0 {
		beneath.Close(s.file)
		s.file = -1
	}
	return n, nil
}

// logical gives the current entry as a path that users know.
func (s *stream) logical() string { return nixstore.Dir + "/" + string(s.name[s.base:]) }

// next makes the next entry, or the end.
func (s *stream) next() error {
	if len(s.parents) > 0 {
		name := s.parents[0]
		s.parents = s.parents[1:]
		s.begin(entry{name: name, kind: typeFolder, mode: folderMode})
		return nil
	}
	if len(s.stack) == 0 {
		return s.nextPath()
	}
	top := &s.stack[len(s.stack)-1]
	if len(top.children) == 0 {
		beneath.Close(top.fd)
		s.stack = s.stack[:len(s.stack)-1]
		return nil
	}
	c := top.children[0]
	top.children = top.children[1:]
	s.name = append(s.name[:top.base], c.Name...)
	s.count(narChild(len(c.Name)))
	return s.enter(top.fd, c)
}

// nextPath begins the next store path, after a look at the last one's size.
func (s *stream) nextPath() error {
	if err := s.checkSize(); err != nil {
		return err
	}
	if len(s.items) == 0 {
		s.ended = true
		s.zeros = max(0, trailerSize-s.skip)
		s.skip -= trailerSize - s.zeros
		return nil
	}
	s.current, s.items = s.items[0], s.items[1:]
	name := s.current.path.BaseName()
	s.name = append(s.name[:s.base], name...)
	info, err := beneath.Stat(s.store, name)
	if err != nil {
		return beneath.Unreadable(err, s.logical())
	}
	s.count(narStart)
	return s.enter(s.store, beneath.Entry{Name: name, Kind: info.Kind})
}

// enter gives what stands at c in the folder dir.
func (s *stream) enter(dir int, c beneath.Entry) error {
	var err error
	switch c.Kind {
	case unix.DT_DIR:
		err = s.enterFolder(dir, c.Name)
	case unix.DT_REG:
		err = s.enterFile(dir, c.Name)
	case unix.DT_LNK:
		var target string
		if target, err = beneath.ReadLink(dir, c.Name, s.scratch); err == nil {
			s.count(narLink(len(target)))
			s.begin(entry{name: string(s.name), kind: typeLink, mode: linkMode, target: target})
		}
	default:
		return nixstore.Fail(nixstore.ErrCorrupt, "repair the node's store",
			"%s is neither a folder nor a file nor a symlink", nixstore.Quote(s.logical()))
	}
	if errors.Is(err, nixstore.ErrCorrupt) || err == nil {
		return err
	}
	return beneath.Unreadable(err, s.logical())
}

func (s *stream) enterFolder(dir int, name string) error {
	if len(s.stack) == depthMax {
		return nixstore.Fail(nixstore.ErrInvalid, "use the closure in a volume",
			"%s has folders deeper than %d", s.current.path, depthMax)
	}
	fd, err := beneath.Folder(dir, name)
	if err != nil {
		return err
	}
	children, err := readFolder(fd, s.scratch)
	if err != nil {
		beneath.Close(fd)
		return err
	}
	s.count(narFolder)
	s.name = append(s.name, '/')
	s.stack = append(s.stack, folder{fd: fd, children: children, base: len(s.name)})
	s.begin(entry{name: string(s.name), kind: typeFolder, mode: folderMode})
	return nil
}

// enterFile opens a file, or passes it by when the reader wants nothing of it.
func (s *stream) enterFile(dir int, name string) error {
	if s.skip > 0 {
		info, err := beneath.Stat(dir, name)
		if err != nil {
			return err
		}
		if info.Kind != unix.DT_REG {
			return beneath.ErrNotFile
		}
		if s.passBy(s.fileEntry(info)) {
			return nil
		}
	}
	fd, info, err := beneath.File(dir, name)
	if err != nil {
		return err
	}
	e := s.fileEntry(info)
	s.count(narFile(e.size, e.mode == programMode))
	if e.size == 0 {
		beneath.Close(fd)
		fd = -1
	}
	s.file = fd
	s.begin(e)
	return s.seek()
}

func (s *stream) fileEntry(info beneath.Info) entry {
	e := entry{name: string(s.name), kind: typeFile, mode: fileMode, size: info.Size}
	if info.Program {
		e.mode = programMode
	}
	return e
}

// passBy skips an entry that the reader wants nothing of, and tells whether it did.
func (s *stream) passBy(e entry) bool {
	total := int64(len(appendHeader(s.headers[:0], e))) + e.size + padding(e.size)
	if s.skip < total {
		return false
	}
	s.skip -= total
	return true
}

// begin puts the entry in front of the reader.
func (s *stream) begin(e entry) {
	s.headers = appendHeader(s.headers[:0], e)
	n := min(s.skip, int64(len(s.headers)))
	s.head, s.skip = s.headers[n:], s.skip-n
	s.left, s.zeros = e.size, padding(e.size)
}

// seek passes by the beginning of the open file as far as the reader does not want it.
func (s *stream) seek() error {
	if s.skip == 0 {
		return nil
	}
	n := min(s.skip, s.left)
	if _, err := unix.Seek(s.file, n, io.SeekStart); err != nil {
		return err
	}
	s.left, s.skip = s.left-n, s.skip-n
	n = min(s.skip, s.zeros)
	s.zeros, s.skip = s.zeros-n, s.skip-n
	if s.left == 0 {
		beneath.Close(s.file)
		s.file = -1
	}
	return nil
}
