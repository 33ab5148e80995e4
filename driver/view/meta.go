package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

// Xattrs of an overlay layer (Documentation/filesystems/overlayfs.rst, "Redirects",
// "Metadata only copy up", "whiteouts and opaque directories").
const (
	xattrRedirect = "trusted.overlay.redirect" // absolute: from the root of the layers below
	xattrMetacopy = "trusted.overlay.metacopy" // empty: the data is in a layer below
	xattrOpaque   = "trusted.overlay.opaque"   // "y": nothing of the layers below is merged
)

// cancelEvery is the number of paths between two looks at the context.
const cancelEvery = 128

// layer writes the tree of a view: of a meta layer here, of hard links elsewhere.
type layer struct {
	dir   string // the folder that holds "view"
	view  string
	store string // dir/view/store
	from  int    // descriptor of the physical store
}

// makeMeta makes the meta layer of c at dir, which must not exist: one entry for
// each path, whatever is below it. A path that the store lacks is ErrCorrupt.
func makeMeta(ctx context.Context, dir, store string, c nixstore.Closure) error {
	l, err := newLayer(dir, store)
	if err != nil {
		return err
	}
	defer closeFD(l.from)
	// Should the store ever hold something named "view", it is not merged.
	if err := unix.Lsetxattr(l.view, xattrOpaque, []byte("y"), 0); err != nil {
		return failed(err, "marking the meta layer opaque")
	}
	for i, p := range c.Paths {
		if i%cancelEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := l.redirect(p.Path); err != nil {
			return err
		}
	}
	return l.finish(c)
}

// newLayer makes the folders of a layer.
func newLayer(dir, store string) (*layer, error) {
	l := &layer{dir: dir, view: filepath.Join(dir, viewName), store: filepath.Join(dir, viewName, storeName)}
	for _, d := range []string{l.dir, l.view, l.store, filepath.Join(l.view, varName)} {
		if err := unix.Mkdir(d, mountDirMode); err != nil {
			return nil, failed(err, "making %s", d)
		}
	}
	var err error
	l.from, err = openDir(store)
	return l, err
}

// redirect makes the entry of one store path.
func (l *layer) redirect(p nixstore.StorePath) error {
	st, err := l.stat(p)
	if err != nil {
		return err
	}
	at, target := l.store+"/"+p.BaseName(), []byte("/"+p.BaseName())
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = redirectDir(at, target)
	case unix.S_IFREG:
		err = redirectFile(at, target, st)
	case unix.S_IFLNK:
		err = copyLink(l.from, p.BaseName(), unix.AT_FDCWD, at)
	default:
		return wrongType(p.String())
	}
	if err != nil {
		return failed(err, "making the entry of %s", p)
	}
	return nil
}

// stat looks at a store path, and only at itself.
func (l *layer) stat(p nixstore.StorePath) (*unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(l.from, p.BaseName(), &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil, nixstore.Fail(nixstore.ErrCorrupt, "repair the node's store",
			"%s is valid in the store's database, but its files are gone", p)
	}
	if err != nil {
		return nil, fmt.Errorf("looking at %s: %w", p, err)
	}
	return &st, nil
}

func wrongType(what string) error {
	return nixstore.Fail(nixstore.ErrCorrupt, "repair the node's store",
		"%s is neither a directory nor a file nor a symlink", what)
}

// redirectDir makes a directory whose content is that of target in the layer below.
func redirectDir(at string, target []byte) error {
	if err := unix.Mkdir(at, dirMode); err != nil {
		return err
	}
	if err := unix.Lsetxattr(at, xattrRedirect, target, 0); err != nil {
		return err
	}
	return canonical(at, dirMode)
}

// redirectFile makes a file whose data is that of target in the layer below. Size
// and mode are those that overlayfs shows, so they must be right here.
func redirectFile(at string, target []byte, st *unix.Stat_t) error {
	fd, err := unix.Open(at, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	if err := unix.Ftruncate(fd, st.Size); err != nil {
		return err
	}
	if err := unix.Fsetxattr(fd, xattrRedirect, target, 0); err != nil {
		return err
	}
	if err := unix.Fsetxattr(fd, xattrMetacopy, nil, 0); err != nil {
		return err
	}
	return canonical(at, fileMode|st.Mode&0o111)
}

// canonical sets mode, which mkdir and open cut by the umask, and time.
func canonical(at string, mode uint32) error {
	if err := unix.Chmod(at, mode); err != nil {
		return err
	}
	return setTime(unix.AT_FDCWD, at)
}

func setTime(dir int, at string) error {
	times := []unix.Timespec{{Sec: mtime}, {Sec: mtime}}
	return unix.UtimesNanoAt(dir, at, times, unix.AT_SYMLINK_NOFOLLOW)
}

// copyLink makes a symlink like the one named name in dir.
func copyLink(dir int, name string, toDir int, to string) error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(string(buf[:n]), toDir, to); err != nil {
		return err
	}
	return setTime(toDir, to)
}

// finish writes what stands beside the store, and closes the folders, innermost
// first, as their times change with their content.
func (l *layer) finish(c nixstore.Closure) error {
	folder := filepath.Join(l.view, varName)
	if err := writeVar(folder, c); err != nil {
		return failed(err, "describing the closure of %s", c.Root)
	}
	for _, d := range []string{folder, l.store, l.view} {
		if err := canonical(d, dirMode); err != nil {
			return failed(err, "finishing %s", d)
		}
	}
	return nil
}

// writeVar writes var/closure.json and var/result.
func writeVar(folder string, c nixstore.Closure) error {
	manifest, err := c.Manifest(nixstore.System())
	if err != nil {
		return err
	}
	file := filepath.Join(folder, manifestName)
	if err := os.WriteFile(file, manifest, 0o600); err != nil {
		return err
	}
	if err := canonical(file, fileMode); err != nil {
		return err
	}
	result := filepath.Join(folder, resultName)
	if err := unix.Symlink(c.Root.String(), result); err != nil {
		return err
	}
	return setTime(unix.AT_FDCWD, result)
}
