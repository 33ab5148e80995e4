package view

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

// linkFunc is linkat(2).
type linkFunc func(oldDir int, oldPath string, newDir int, newPath string, flags int) error

// depthMax bounds the descriptors that a hostile closure can make us hold; newer
// Nix itself stops at 64 (CVE-2026-44028).
const depthMax = 256

// linkTree copies trees by hard links. It walks by descriptors and follows no symlink.
type linkTree struct {
	link linkFunc
}

// entry makes name in to what it is in from.
func (t *linkTree) entry(ctx context.Context, from, to int, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("looking at %q: %w", name, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return t.dir(ctx, from, to, name, depth)
	case unix.S_IFREG:
		return t.file(from, to, name, &st)
	case unix.S_IFLNK:
		return t.symlink(from, to, name)
	}
	return wrongType(nixstore.Quote(name))
}

// dir makes the directory name and everything in it.
func (t *linkTree) dir(ctx context.Context, from, to int, name string, depth int) error {
	if depth == depthMax {
		return nixstore.Fail(nixstore.ErrInvalid, "use the closure in a pod without a user namespace",
			"directories are nested deeper than %d", depthMax)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := unix.Mkdirat(to, name, mountDirMode); err != nil {
		return fmt.Errorf("making the directory %q: %w", name, err)
	}
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	in, err := unix.Openat(from, name, flags, 0)
	if err != nil {
		return fmt.Errorf("opening the directory %q: %w", name, err)
	}
	source := os.NewFile(uintptr(in), name)
	defer source.Close()
	out, err := unix.Openat(to, name, flags, 0)
	if err != nil {
		return fmt.Errorf("opening the new directory %q: %w", name, err)
	}
	defer closeFD(out)
	if err := t.children(ctx, source, in, out, depth); err != nil {
		return err
	}
	return finishDir(out, name)
}

func (t *linkTree) children(ctx context.Context, source *os.File, in, out, depth int) error {
	const batch = 1024
	for {
		names, err := source.Readdirnames(batch)
		for _, name := range names {
			if err := t.entry(ctx, in, out, name, depth+1); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a directory: %w", err)
		}
	}
}

// finishDir sets mode and time of a directory that is complete.
func finishDir(fd int, name string) error {
	if err := unix.Fchmod(fd, dirMode); err != nil {
		return fmt.Errorf("closing the directory %q: %w", name, err)
	}
	times := []unix.Timeval{{Sec: mtime}, {Sec: mtime}}
	if err := unix.Futimes(fd, times); err != nil {
		return fmt.Errorf("closing the directory %q: %w", name, err)
	}
	return nil
}

// file links the file, or copies it: when the inode has all the links that its file
// system allows (65,000 on ext4), and when its mode is not canonical, as a link
// would carry setuid and write bits into the view.
func (t *linkTree) file(from, to int, name string, st *unix.Stat_t) error {
	const canonicalBits = 0o555
	if st.Mode&0o7777&^canonicalBits == 0 {
		err := t.link(from, name, to, name, 0)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EMLINK) {
			return fmt.Errorf("linking %q: %w", name, err)
		}
	}
	if err := copyFile(from, to, name, st.Mode&0o111|fileMode); err != nil {
		return fmt.Errorf("copying %q: %w", name, err)
	}
	return nil
}

// symlink links a symlink, or makes one like it.
func (t *linkTree) symlink(from, to int, name string) error {
	err := t.link(from, name, to, name, 0)
	if errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EPERM) { // EPERM: no such links here
		err = copyLink(from, name, to, name)
	}
	if err != nil {
		return fmt.Errorf("linking the symlink %q: %w", name, err)
	}
	return nil
}

func copyFile(from, to int, name string, mode uint32) error {
	in, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	source := os.NewFile(uintptr(in), name)
	defer source.Close()
	out, err := unix.Openat(to, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	dest := os.NewFile(uintptr(out), name)
	_, err = io.Copy(dest, source)
	if err == nil {
		err = unix.Fchmod(out, mode)
	}
	if err == nil {
		err = unix.Futimes(out, []unix.Timeval{{Sec: mtime}, {Sec: mtime}})
	}
	return errors.Join(err, dest.Close())
}
