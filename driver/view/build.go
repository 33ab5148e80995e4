package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

// Names inside a view.
const (
	viewName     = "view" // what a volume shows; everything beside it stays hidden
	storeName    = "store"
	varName      = "var"
	resultName   = "result"
	manifestName = "closure.json"
)

// Modes and time of what we make, the same as Nix's own (libstore/posix-fs-canonicalise.cc):
// directories and programs 0555, other files 0444, all times one second.
const (
	dirMode  = 0o555
	fileMode = 0o444
	mtime    = 1
)

// mountDirMode is for folders that nobody but this process uses.
const mountDirMode = 0o700

// volumeFlags are those of every read-only volume. They are on the mount that
// volumes are cloned from, so that a clone has them before it is attached.
const volumeFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOATIME

// build makes the view. Nothing is left of it after an error.
func (m *Manager) build(ctx context.Context, v *view) error {
	c, err := m.closure(ctx, v.key)
	if err != nil {
		return err
	}
	v.narSize = c.NarSize()
	if v.dir, err = m.newDir(); err != nil {
		return err
	}
	if v.key.kind == KindHardLink {
		err = m.buildLinks(ctx, v, c)
	} else {
		err = m.buildRedirect(ctx, v, c)
	}
	if err != nil {
		return errors.Join(err, m.takeDown(v))
	}
	return nil
}

// closure reads the closure of a view, and makes sure that it still is the one that was asked for.
func (m *Manager) closure(ctx context.Context, key viewKey) (nixstore.Closure, error) {
	c, err := m.cfg.Closures.Closure(ctx, key.root)
	if err != nil {
		return c, fmt.Errorf("reading the closure of %s: %w", key.root, err)
	}
	if c.Root != key.root || c.Registration != key.registration {
		return c, nixstore.Fail(nixstore.ErrBusy, "try again",
			"%s was collected and realised again meanwhile", key.root)
	}
	return c, nil
}

// newDir makes a folder with a name of its own on the private tmpfs. Names are
// never used twice, so that one view's going cannot meet another's coming.
func (m *Manager) newDir() (string, error) {
	m.mu.Lock()
	m.serial++
	dir := filepath.Join(m.views, strconv.FormatUint(m.serial, 10))
	m.mu.Unlock()
	if err := unix.Mkdir(dir, mountDirMode); err != nil {
		return "", failed(err, "making a folder for a view")
	}
	return dir, nil
}

// buildRedirect makes the meta layer and mounts the overlay. The layer is named
// after the root, so that the mount table tells what each volume shows.
func (m *Manager) buildRedirect(ctx context.Context, v *view, c nixstore.Closure) error {
	v.meta = filepath.Join(v.dir, c.Root.BaseName())
	if err := makeMeta(ctx, v.meta, m.cfg.StoreDir, c); err != nil {
		return err
	}
	at, err := mountPoint(v.dir)
	if err != nil {
		return err
	}
	if err := mountRedirect(at, v.meta, m.cfg.StoreDir); err != nil {
		return failed(err, "mounting the view of %s", c.Root)
	}
	v.source, err = openDir(filepath.Join(at, viewName))
	return err
}

// mountRedirect mounts the read-only overlay of a meta layer over the store.
func mountRedirect(at, meta, store string) error {
	options := "lowerdir=" + meta + ":" + store + ",redirect_dir=follow,metacopy=on,xino=on"
	return unix.Mount(mountSource, at, "overlay", volumeFlags, options)
}

// mountPoint makes the place below dir where the view is mounted.
func mountPoint(dir string) (string, error) {
	at := filepath.Join(dir, "ov")
	if err := unix.Mkdir(at, mountDirMode); err != nil {
		return "", failed(err, "making a mount point")
	}
	return at, nil
}

// takeDown removes a view that nobody uses, or what there is of it after a failure.
// Copies of its mount that live on in other namespaces lose their content.
func (m *Manager) takeDown(v *view) error {
	closeFD(v.source)
	v.source = -1
	if v.dir == "" {
		return nil
	}
	if err := m.removeDir(v.dir); err != nil {
		return fmt.Errorf("taking down the view of %s: %w", v.key.root, err)
	}
	if v.links == "" {
		return nil
	}
	return m.discardLinks(v.links)
}

// removeDir unmounts what is mounted in a folder of ours on the private tmpfs, and
// removes the folder. It never enters what is mounted.
func (m *Manager) removeDir(dir string) error {
	for _, name := range []string{"ov", "disk"} {
		if err := detachAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing %s: %w", dir, err)
	}
	return nil
}

// detachAll takes all mounts from a place of ours, with what is mounted below
// them. A place that is missing, or that has no mount, is fine.
func detachAll(place string) error {
	for range stackMax {
		mounted, err := isMountRoot(unix.AT_FDCWD, place, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) || (err == nil && !mounted) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("looking at %s: %w", place, err)
		}
		err = unix.Unmount(place, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("detaching %s: %w", place, err)
		}
	}
	return fmt.Errorf("detaching %s: there is no end of mounts, or they are locked", place)
}

// openDir opens a folder of ours as a place to clone mounts from.
func openDir(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening %s: %w", path, err)
	}
	return fd, nil
}
