package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// bind makes one read-only bind mount of a folder, the way that costs least.
func bind(source, target string) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("opening %s: %w", source, err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr)
	if err == nil {
		err = unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	if err != nil {
		err = fmt.Errorf("mounting %s: %w", target, err)
	}
	return errors.Join(err, unix.Close(fd))
}

// linkTree makes the closure again as hard links, which is what peers do. They
// keep a tree for each volume; its store must be on the same mount.
func linkTree(store, target string, paths []string) error {
	for _, path := range paths {
		source := filepath.Join(store, filepath.Base(path))
		err := filepath.WalkDir(source, func(file string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			made := target + file[len(store):]
			if entry.IsDir() {
				return os.Mkdir(made, 0o755)
			}
			return os.Link(file, made)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// bindEach makes a mount for each path of the closure.
func bindEach(store, target string, paths []string) error {
	for _, path := range paths {
		made := filepath.Join(target, filepath.Base(path))
		if err := os.Mkdir(made, 0o755); err != nil {
			return err
		}
		if err := bind(filepath.Join(store, filepath.Base(path)), made); err != nil {
			return err
		}
	}
	return nil
}

// unbindEach undoes bindEach, also one that ended early.
func unbindEach(target string, paths []string) error {
	for _, path := range slices.Backward(paths) {
		made := filepath.Join(target, filepath.Base(path))
		if err := unix.Unmount(made, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmounting %s: %w", made, err)
		}
	}
	return os.RemoveAll(target)
}
