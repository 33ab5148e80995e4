//go:build privileged

package view_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
)

func itoa(n int) string { return strconv.Itoa(n) }

func TestFault30Targets(t *testing.T) {
	base := t.TempDir()
	kubelet, outside := filepath.Join(base, "kubelet"), filepath.Join(base, "outside")
	must(t, os.MkdirAll(filepath.Join(kubelet, "pods", "a"), 0o755))
	must(t, os.MkdirAll(outside, 0o755))
	must(t, os.Symlink(outside, filepath.Join(kubelet, "pods", "absolute")))
	must(t, os.Symlink("../../outside", filepath.Join(kubelet, "pods", "relative")))
	must(t, os.Symlink("a", filepath.Join(kubelet, "pods", "harmless")))
	must(t, os.WriteFile(filepath.Join(kubelet, "file"), nil, 0o600))
	linked := filepath.Join(base, "linked")
	must(t, os.Symlink(kubelet, linked))

	tests := map[string]struct {
		base, path string
		want       error
	}{
		"a folder below the base":        {kubelet, kubelet + "/pods/a/mount", nil},
		"a name in the base itself":      {kubelet, kubelet + "/mount", nil},
		"a base that is a symlink":       {linked, linked + "/pods/a/mount", nil},
		"no base":                        {"", kubelet + "/pods/a/mount", nil},
		"no base, through a symlink":     {"", linked + "/pods/a/mount", nixstore.ErrInvalid},
		"the base itself":                {kubelet, kubelet, nixstore.ErrInvalid},
		"a sibling with the same prefix": {kubelet, kubelet + "2/mount", nixstore.ErrInvalid},
		"outside of the base":            {kubelet, outside + "/mount", nixstore.ErrInvalid},
		"dot-dot":                        {kubelet, kubelet + "/pods/../../outside/mount", nixstore.ErrInvalid},
		"a dot-dot as the name":          {kubelet, kubelet + "/pods/..", nixstore.ErrInvalid},
		"a doubled slash":                {kubelet, kubelet + "//pods/a/mount", nixstore.ErrInvalid},
		"a slash at the end":             {kubelet, kubelet + "/pods/a/mount/", nixstore.ErrInvalid},
		"a relative path":                {kubelet, "pods/a/mount", nixstore.ErrInvalid},
		"an empty path":                  {kubelet, "", nixstore.ErrInvalid},
		"the root":                       {"", "/", nixstore.ErrInvalid},
		"a NUL":                          {kubelet, kubelet + "/pods/a\x00/mount", nixstore.ErrInvalid},
		"an absolute symlink in the way": {kubelet, kubelet + "/pods/absolute/mount", nixstore.ErrInvalid},
		"a relative symlink in the way":  {kubelet, kubelet + "/pods/relative/mount", nixstore.ErrInvalid},
		"a symlink that stays inside":    {kubelet, kubelet + "/pods/harmless/mount", nixstore.ErrInvalid},
		"a file in the way":              {kubelet, kubelet + "/file/mount", nixstore.ErrInvalid},
		"a magic link":                   {"", "/proc/self/root/tmp/mount", nixstore.ErrInvalid},
		"a name of 300 bytes in the way": {kubelet, kubelet + "/" + strings.Repeat("a", 300) + "/mount", nixstore.ErrInvalid},
		"a path of 5000 bytes":           {kubelet, kubelet + strings.Repeat("/a", 2500), nixstore.ErrInvalid},
		"a parent that is missing":       {kubelet, kubelet + "/pods/b/mount", nixstore.ErrNotFound},
		"a base that is missing":         {base + "/none", base + "/none/mount", nixstore.ErrNotFound},
		"a relative base":                {"kubelet", kubelet + "/mount", nixstore.ErrInvalid},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			target, err := view.OpenTarget(test.base, test.path)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if err != nil {
				return
			}
			if target.Path() != test.path {
				t.Errorf("path %s", target.Path())
			}
			must(t, target.Close())
			must(t, target.Close())
		})
	}
}

func TestFault30TargetIsASymlinkOrAFile(t *testing.T) {
	e := newEnv(t)
	m := e.start()
	outside := tempDir(t)
	for name, put := range map[string]func(path string) error{
		"symlink": func(path string) error { return os.Symlink(outside, path) },
		"file":    func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			target := e.target(name)
			must(t, put(e.path(name)))
			err := m.Mount(context.Background(), e.volume(name, e.small), target)
			if !errors.Is(err, nixstore.ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
			err = m.Unmount(context.Background(), name, target)
			if _, statErr := os.Lstat(e.path(name)); (err == nil) != os.IsNotExist(statErr) {
				t.Errorf("unmounting gives %v, then %v", err, statErr)
			}
			if left, _ := os.ReadDir(outside); len(left) != 0 || len(mountsBelow(t, outside)) != 0 {
				t.Errorf("something happened to the symlink's target: %v", left)
			}
		})
	}
}

// An attacker swaps a folder on the way for a symlink to another place, all the
// time. Whatever comes of a call, nothing may happen at the other place.
func TestFault30SwappedFolders(t *testing.T) {
	e := newEnv(t)
	m := e.start()
	e.mount(e.volume("warm", e.small))
	target := e.path("vol")
	must(t, os.MkdirAll(filepath.Dir(target), 0o755))
	swapped := filepath.Join(e.kubelet, "pods", "vol", "volumes")
	outside := tempDir(t)
	must(t, os.MkdirAll(filepath.Join(outside, "kubernetes.io~csi", "nix"), 0o755))
	link := filepath.Join(e.kubelet, "link")
	must(t, os.Symlink(outside, link))

	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, swapped, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	})
	mounted, refused := 0, 0
	for range 2000 {
		if tryOnce(t, e, m, target) {
			mounted++
		} else {
			refused++
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d mounted, %d refused", mounted, refused)
	if mounted == 0 || refused == 0 {
		t.Error("the attacker and the calls did not meet")
	}
	if left := childrenOf(t, filepath.Join(outside, "kubernetes.io~csi", "nix")); len(left) != 0 {
		t.Errorf("outside there is %v", left)
	}
	if points := mountsBelow(t, outside); len(points) != 0 {
		t.Errorf("outside there are mounts: %v", points)
	}
	if n := len(mountsBelow(t, e.kubelet)); n != 1 {
		t.Errorf("%d mounts left, want one", n)
	}
}

// tryOnce mounts and unmounts, and tells whether the target could be opened.
func tryOnce(t *testing.T, e *env, m *view.Manager, path string) bool {
	t.Helper()
	target, err := view.OpenTarget(e.kubelet, path)
	if err != nil {
		if !errors.Is(err, nixstore.ErrInvalid) && !errors.Is(err, nixstore.ErrNotFound) {
			t.Errorf("opening the target: %v", err)
		}
		return false
	}
	defer target.Close()
	must(t, m.Mount(context.Background(), e.volume("vol", e.small), target))
	must(t, m.Unmount(context.Background(), "vol", target))
	return true
}
