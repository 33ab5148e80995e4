package binarycache

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/beneath"
	"github.com/closured/closured/nixstore"
)

const (
	// depthMax bounds the descriptors that a stream holds. Newer Nix itself takes
	// no NAR with folders deeper than 64 (CVE-2026-44028).
	depthMax = 256
	// namesMax bounds the memory for the names of folders that a stream holds, in bytes.
	namesMax = 64 << 20
	// scratchSize is that of the buffer for folders and symlinks, in bytes; a
	// symlink of Linux is shorter than 4096.
	scratchSize = 32 << 10
)

// narWriter writes the NAR of a path (Nix manual, "Nix Archive (NAR) format"):
// strings have a length of eight bytes in front and are filled up with zeros to a
// multiple of eight.
type narWriter struct {
	out     *checked
	path    nixstore.StorePath
	depth   int
	room    int    // bytes of memory that further names may take
	scratch []byte // for folders and symlinks
}

// writeNAR writes the NAR of a path below the physical folder of a store. It ends
// soon after ctx has ended. ErrCorrupt: what stands there is not what Nix puts
// into a store, or cannot be what the database speaks of.
func writeNAR(ctx context.Context, out *checked, storeDir string, path nixstore.StorePath) error {
	store, err := beneath.Root(storeDir)
	if err != nil {
		return fmt.Errorf("opening the store's folder %s: %w", storeDir, err)
	}
	defer beneath.Close(store)
	info, err := beneath.Stat(store, path.BaseName())
	if err != nil {
		return beneath.Unreadable(err, path.String())
	}
	w := &narWriter{out: out, path: path, room: namesMax, scratch: make([]byte, scratchSize)}
	if err := w.strings("nix-archive-1"); err != nil {
		return err
	}
	if err := w.node(ctx, store, beneath.Entry{Name: path.BaseName(), Kind: info.Kind}); err != nil {
		return err
	}
	return out.finish()
}

// node writes what stands at e in the folder dir.
func (w *narWriter) node(ctx context.Context, dir int, e beneath.Entry) error {
	switch e.Kind {
	case unix.DT_REG:
		return w.file(ctx, dir, e.Name)
	case unix.DT_LNK:
		return w.link(dir, e.Name)
	case unix.DT_DIR:
		return w.folder(ctx, dir, e.Name)
	}
	return nixstore.Fail(nixstore.ErrCorrupt, "repair the node's store",
		"%s in %s is neither a folder nor a file nor a symlink", nixstore.Quote(e.Name), w.path)
}

func (w *narWriter) link(dir int, name string) error {
	target, err := beneath.ReadLink(dir, name, w.scratch)
	if err != nil {
		return w.unreadable(err, name)
	}
	return w.strings("(", "type", "symlink", "target", target, ")")
}

func (w *narWriter) folder(ctx context.Context, dir int, name string) error {
	if w.depth == depthMax {
		return nixstore.Fail(nixstore.ErrCorrupt, "fetch it from another cache", "%s has folders deeper than %d", w.path, depthMax)
	}
	fd, err := beneath.Folder(dir, name)
	if err != nil {
		return w.unreadable(err, name)
	}
	defer beneath.Close(fd)
	entries, used, err := beneath.ReadFolder(fd, w.scratch, w.room)
	if err != nil {
		return w.unreadable(err, name)
	}
	slices.SortFunc(entries, func(a, b beneath.Entry) int { return strings.Compare(a.Name, b.Name) })
	w.depth, w.room = w.depth+1, w.room-used
	if err := w.strings("(", "type", "directory"); err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.entry(ctx, fd, e); err != nil {
			return err
		}
	}
	w.depth, w.room = w.depth-1, w.room+used
	return w.strings(")")
}

func (w *narWriter) entry(ctx context.Context, dir int, e beneath.Entry) error {
	if err := w.strings("entry", "(", "name", e.Name, "node"); err != nil {
		return err
	}
	if err := w.node(ctx, dir, e); err != nil {
		return err
	}
	return w.strings(")")
}

func (w *narWriter) file(ctx context.Context, dir int, name string) error {
	fd, info, err := beneath.File(dir, name)
	if err != nil {
		return w.unreadable(err, name)
	}
	defer beneath.Close(fd)
	if err := w.strings("(", "type", "regular"); err != nil {
		return err
	}
	if info.Program {
		if err := w.strings("executable", ""); err != nil {
			return err
		}
	}
	if err := w.contents(ctx, fd, name, info.Size); err != nil {
		return err
	}
	return w.strings(")")
}

// contents writes size bytes of the file name that is open as fd, read into the
// buffer of the output.
func (w *narWriter) contents(ctx context.Context, fd int, name string, size int64) error {
	if err := w.strings("contents"); err != nil {
		return err
	}
	if err := w.number(size); err != nil {
		return err
	}
	for left := size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		space, err := w.out.space()
		if err != nil {
			return err
		}
		space = space[:min(int64(len(space)), left)]
		n, err := beneath.Read(fd, space)
		if err != nil {
			return w.unreadable(err, name)
		}
		if n <= 0 {
			return nixstore.Fail(nixstore.ErrCorrupt, "repair the node's store", "a file of %s became shorter while it was read", w.path)
		}
		w.out.fill(n)
		left -= int64(n)
	}
	return w.out.write(zeros[:-size&7])
}

// zeros fill up strings.
const zeros = "\x00\x00\x00\x00\x00\x00\x00"

// strings writes strings.
func (w *narWriter) strings(all ...string) error {
	for _, s := range all {
		if err := w.number(int64(len(s))); err != nil {
			return err
		}
		if err := w.out.write(s); err != nil {
			return err
		}
		if err := w.out.write(zeros[:-len(s)&7]); err != nil {
			return err
		}
	}
	return nil
}

func (w *narWriter) number(n int64) error {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(n)) //nolint:gosec // sizes are not negative
	return w.out.write(string(b[:]))
}

// unreadable explains an error on a name in the path.
func (w *narWriter) unreadable(err error, name string) error {
	return beneath.Unreadable(err, w.path.String()+": "+name)
}
