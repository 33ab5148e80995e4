package view

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

// Names of folders below linkviews that are no views.
const (
	trashPrefix = ".trash-" // to be removed
	tempPrefix  = ".tmp-"   // being made
)

// placeLinks gives a finished tree the name that makes it a view, also for later
// lives: hash, registration, and a number, as an older tree of the same closure
// may still be there. Whose view it is stands in its var/result.
func (m *Manager) placeLinks(temp string, key viewKey) (string, error) {
	return m.renameFree(temp, key.root.Hash()+"."+strconv.FormatInt(key.registration, 10)+".")
}

// renameFree renames a folder to prefix and a number, below linkviews, that nothing
// there has. It gives the new path, or "" when there was no such folder.
func (m *Manager) renameFree(dir, prefix string) (string, error) {
	for {
		m.mu.Lock()
		m.serial++
		to := filepath.Join(m.links, prefix+strconv.FormatUint(m.serial, 10))
		m.mu.Unlock()
		err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
		switch {
		case err == nil:
			return to, nil
		case errors.Is(err, unix.ENOENT):
			return "", nil
		case !errors.Is(err, unix.EEXIST):
			return "", fmt.Errorf("renaming %s: %w", dir, err)
		}
	}
}

// buildLinks makes the tree under a temporary name, renames it when it is whole,
// and mounts it read-only where volumes are cloned from.
func (m *Manager) buildLinks(ctx context.Context, v *view, c nixstore.Closure) error {
	temp := filepath.Join(m.links, tempPrefix+filepath.Base(v.dir))
	if err := m.makeLinks(ctx, temp, c); err != nil {
		return errors.Join(err, m.discardLinks(temp))
	}
	var err error
	if v.links, err = m.placeLinks(temp, v.key); err != nil {
		return errors.Join(err, m.discardLinks(temp))
	}
	return m.mountLinks(v)
}

// makeLinks makes the tree of c at dir: work for each file of the closure.
func (m *Manager) makeLinks(ctx context.Context, dir string, c nixstore.Closure) error {
	l, err := newLayer(dir, m.cfg.StoreDir)
	if err != nil {
		return err
	}
	defer closeFD(l.from)
	to, err := openDir(l.store)
	if err != nil {
		return err
	}
	defer closeFD(to)
	t := &linkTree{link: m.linkat}
	for _, p := range c.Paths {
		if _, err := l.stat(p.Path); err != nil {
			return err
		}
		if err := t.entry(ctx, l.from, to, p.Path.BaseName(), 0); err != nil {
			return linkError(p.Path, err)
		}
	}
	return l.finish(c)
}

// linkError gives the meaning of an error of linking a path.
func linkError(p nixstore.StorePath, err error) error {
	switch {
	case errors.Is(err, unix.EXDEV):
		return nixstore.Fail(errors.ErrUnsupported, "keep the store below the state directory",
			"cannot make a hard link view of %s: the store and the state directory are not under one mount", p)
	case errors.Is(err, unix.ENOENT):
		return nixstore.Fail(nixstore.ErrCorrupt, "repair the node's store", "files of %s are disappearing: %v", p, err)
	}
	return failed(err, "linking %s", p)
}

// mountLinks mounts the tree read-only on the private tmpfs. The moment between
// the two calls is nobody's but ours: the place is below a folder of mode 0700.
func (m *Manager) mountLinks(v *view) error {
	v.meta = v.links
	at, err := mountPoint(v.dir)
	if err != nil {
		return err
	}
	if err := unix.Mount(filepath.Join(v.links, viewName), at, "", unix.MS_BIND, ""); err != nil {
		return failed(err, "mounting the view of %s", v.key.root)
	}
	if err := unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|volumeFlags, ""); err != nil {
		return failed(err, "making the view of %s read-only", v.key.root)
	}
	v.source, err = openDir(at)
	return err
}

// discardLinks removes a hard link view. It is out of sight at once; should the
// removal be cut short, the next life goes on with it.
func (m *Manager) discardLinks(dir string) error {
	trash, err := m.renameFree(dir, trashPrefix)
	if err != nil || trash == "" {
		return err
	}
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("removing %s: %w", trash, err)
	}
	return nil
}

// emptyTrash removes what earlier lives discarded or left half made, until ctx ends.
func (m *Manager) emptyTrash(ctx context.Context) {
	entries, err := os.ReadDir(m.links)
	if err != nil {
		m.log.Error("cannot read the folder of hard link views", slog.String("error", err.Error()))
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), trashPrefix) || ctx.Err() != nil {
			continue
		}
		if err := os.RemoveAll(filepath.Join(m.links, e.Name())); err != nil {
			m.log.Error("cannot remove a discarded hard link view", slog.String("error", err.Error()))
		}
	}
}

// adoptLinkViews makes the hard link views of an earlier life, whose volumes are
// still mounted, views of this one; and discards all others. The removal itself is
// left to Run, as it takes seconds.
func (m *Manager) adoptLinkViews() error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	users := m.linkUsers(mounts)
	entries, err := os.ReadDir(m.links)
	if err != nil {
		return fmt.Errorf("reading the folder of hard link views: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, trashPrefix) {
			continue
		}
		if targets := users[name]; len(targets) > 0 {
			m.adopt(name, targets)
			continue
		}
		if _, err := m.renameFree(filepath.Join(m.links, name), trashPrefix); err != nil {
			return err
		}
	}
	return nil
}

// linkUsers gives, by the name of a hard link view, the targets that show it, bare
// or under a private layer.
func (m *Manager) linkUsers(mounts []mountEntry) map[string][]string {
	users := make(map[string][]string)
	for _, e := range mounts {
		if _, ok := m.overlayVolume(e); !ok || m.isInside(e.point) {
			continue
		}
		lower, _ := e.option("lowerdir")
		if filepath.Dir(lower) == m.links {
			users[filepath.Base(lower)] = append(users[filepath.Base(lower)], e.point)
		}
	}
	for _, e := range m.linkMounts(mounts) {
		users[e.name] = append(users[e.name], e.mount.point)
	}
	return users
}

// adopt makes a view of an existing tree, held by the targets that show it. One
// that cannot be adopted stays as it is, until a life that finds it unused.
func (m *Manager) adopt(name string, targets []string) {
	v := &view{ready: make(chan struct{}), source: -1, links: filepath.Join(m.links, name)}
	err := m.adoptView(v, name)
	if err != nil {
		v.links = "" // in use: it stays
		err = errors.Join(err, m.takeDown(v))
		m.log.Warn("cannot share a hard link view of an earlier life",
			slog.String("view", name), slog.String("error", err.Error()))
		return
	}
	close(v.ready)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shown[v.key] == nil {
		m.shown[v.key] = v
	}
	for _, target := range targets {
		m.holdLocked(v, target, "")
	}
}

func (m *Manager) adoptView(v *view, name string) error {
	root, err := readResult(filepath.Join(v.links, viewName))
	if err != nil {
		return err
	}
	_, numbers, _ := strings.Cut(name, ".")
	number, _, _ := strings.Cut(numbers, ".")
	registration, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return fmt.Errorf("parsing the name of a view: %w", err)
	}
	v.key = viewKey{root: root, registration: registration, kind: KindHardLink}
	if v.dir, err = m.newDir(); err != nil {
		return err
	}
	return m.mountLinks(v)
}

// readResult gives the root that a view of ours shows.
func readResult(dir string) (nixstore.StorePath, error) {
	target, err := os.Readlink(filepath.Join(dir, varName, resultName))
	if err != nil {
		return nixstore.StorePath{}, fmt.Errorf("reading var/result: %w", err)
	}
	return nixstore.ParseStorePath(target)
}
