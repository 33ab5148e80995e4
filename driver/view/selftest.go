package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

// What the self-test's own little store holds.
const (
	testDir    = "00000000000000000000000000000000-directory"
	testFile   = "11111111111111111111111111111111-file"
	testLink   = "22222222222222222222222222222222-link"
	testHidden = "33333333333333333333333333333333-hidden"
	testText   = "closured\n"
)

// selfTest tries the redirect overlay: on a little store beside the real one, where
// everything about it is looked at, and then whether the real store can be a layer.
// The error says what does not work.
func (m *Manager) selfTest(ctx context.Context) (err error) {
	folder := filepath.Join(m.cfg.StateDir, selfTestDir)
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("clearing the self-test's folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	store := filepath.Join(folder, storeName)
	if err := makeTestStore(store); err != nil {
		return fmt.Errorf("making the self-test's store: %w", err)
	}
	if err := m.tryRedirect(ctx, store, testClosure(), checkTestView); err != nil {
		return fmt.Errorf("trying a redirect overlay: %w", err)
	}
	empty := nixstore.Closure{Root: testClosure().Root}
	if err := m.tryRedirect(ctx, m.cfg.StoreDir, empty, checkEmptyView); err != nil {
		return fmt.Errorf("trying a redirect overlay over %s: %w", m.cfg.StoreDir, err)
	}
	return nil
}

// tryRedirect makes a view of c and gives it to check.
func (m *Manager) tryRedirect(ctx context.Context, store string, c nixstore.Closure, check func(ov string) error) (err error) {
	dir, err := m.newDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.removeDir(dir)) }()
	meta := filepath.Join(dir, "meta")
	if err := makeMeta(ctx, meta, store, c); err != nil {
		return err
	}
	at, err := mountPoint(dir)
	if err != nil {
		return err
	}
	if err := mountRedirect(at, meta, store); err != nil {
		return fmt.Errorf("mounting: %w", err)
	}
	return check(at)
}

// testClosure is all of the self-test's store but what must stay hidden.
func testClosure() nixstore.Closure {
	c := nixstore.Closure{}
	for _, name := range []string{testDir, testFile, testLink} {
		p, err := nixstore.ParseBaseName(name)
		if err != nil {
			continue // not reached: the names are constants
		}
		c.Paths = append(c.Paths, nixstore.PathInfo{Path: p})
	}
	c.Root = c.Paths[0].Path
	return c
}

func makeTestStore(store string) error {
	for _, d := range []string{filepath.Join(store, testDir, "bin"), filepath.Join(store, testHidden)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, f := range []string{filepath.Join(testDir, "bin", "x"), testFile} {
		if err := os.WriteFile(filepath.Join(store, f), []byte(testText), 0o600); err != nil {
			return err
		}
	}
	return os.Symlink(testFile, filepath.Join(store, testLink))
}

// checkTestView looks at names, content, device numbers and at what a remount does.
func checkTestView(ov string) error {
	store := filepath.Join(ov, viewName, storeName)
	if err := checkNames(store, testDir, testFile, testLink); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(store, testHidden)); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("a path outside of the closure is visible: %w", err)
	}
	for _, name := range []string{filepath.Join(testDir, "bin", "x"), testFile, testLink} {
		text, err := os.ReadFile(filepath.Join(store, name))
		if err != nil {
			return fmt.Errorf("reading through the view: %w", err)
		}
		if string(text) != testText {
			return fmt.Errorf("%s has other content than in the store", name)
		}
	}
	if err := unix.Mount("", ov, "", unix.MS_REMOUNT, ""); err == nil {
		return errors.New("the overlay can be remounted writable")
	}
	return nil
}

func checkEmptyView(ov string) error {
	return checkNames(filepath.Join(ov, viewName, storeName))
}

// checkNames makes sure that dir holds the names and no others.
func checkNames(dir string, names ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("listing the view: %w", err)
	}
	var have []string
	for _, e := range entries {
		have = append(have, e.Name())
	}
	if !slices.Equal(have, names) {
		return fmt.Errorf("the view shows %q and not %q", have, names)
	}
	return nil
}
