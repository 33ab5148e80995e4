package view

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// storeMode is the mode of a store's folder that we make before Nix does.
const storeMode = 0o755

// makeDirs makes our folders, which nobody else may enter, and finds the real
// paths of the state directory and the store, as mountinfo tells those.
func (m *Manager) makeDirs() error {
	if err := os.MkdirAll(m.cfg.StateDir, storeMode); err != nil {
		return failed(err, "making the state directory")
	}
	if err := os.MkdirAll(m.cfg.StoreDir, storeMode); err != nil {
		return failed(err, "making the store's folder")
	}
	if err := m.resolve(); err != nil {
		return err
	}
	m.views = filepath.Join(m.cfg.StateDir, viewsDir)
	m.links = filepath.Join(m.cfg.StateDir, linksDir)
	m.layers = filepath.Join(m.cfg.StateDir, writableDir)
	for _, dir := range []string{m.views, m.links, m.layers} {
		if err := makePrivate(dir); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(m.links, &st); err != nil {
		return fmt.Errorf("looking at %s: %w", m.links, err)
	}
	m.linkDev = st.Dev
	return nil
}

// resolve replaces the configured paths by their real ones.
func (m *Manager) resolve() error {
	var err error
	if m.cfg.StateDir, err = filepath.EvalSymlinks(m.cfg.StateDir); err != nil {
		return fmt.Errorf("resolving the state directory: %w", err)
	}
	if m.cfg.StoreDir, err = filepath.EvalSymlinks(m.cfg.StoreDir); err != nil {
		return fmt.Errorf("resolving the store's folder: %w", err)
	}
	return m.cfg.validate()
}

// makePrivate makes a folder of ours, or takes the one of an earlier life.
func makePrivate(dir string) error {
	if err := unix.Mkdir(dir, mountDirMode); err != nil && !errors.Is(err, unix.EEXIST) {
		return failed(err, "making %s", dir)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("looking at %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("%s is not a folder: %w", dir, unix.ENOTDIR)
	}
	if err := unix.Chmod(dir, mountDirMode); err != nil {
		return fmt.Errorf("restricting %s: %w", dir, err)
	}
	return nil
}

// mountPrivate takes down the tmpfs of an earlier life, with all that is mounted
// on it, and mounts a new one. Volumes of earlier lives keep the layers that they
// use. Nothing that is mounted on it propagates anywhere. It has no nodev, for the
// loop devices, and no limit of inodes, for there are as many as paths in views.
func (m *Manager) mountPrivate() error {
	if err := detachAll(m.views); err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NOEXEC
	if err := unix.Mount(mountSource, m.views, "tmpfs", flags, "mode=0700,nr_inodes=0"); err != nil {
		return failed(err, "mounting a tmpfs at %s", m.views)
	}
	if err := unix.Mount("", m.views, "", unix.MS_PRIVATE, ""); err != nil {
		return errors.Join(fmt.Errorf("making %s private: %w", m.views, err), detachAll(m.views))
	}
	return nil
}
