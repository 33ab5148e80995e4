package closureimage_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage"
)

// volume describes what a volume of the closure shows: each path of it with the
// modes that Nix gives, the link to the root, and closure.json. Nothing else.
func volume(tb testing.TB, storeDir string, c nixstore.Closure, system string) map[string]string {
	tb.Helper()
	manifest, err := c.Manifest(system)
	if err != nil {
		tb.Fatal(err)
	}
	seen := map[string]string{
		"store/": "folder 555", "var/": "folder 555",
		"var/result": "link " + c.Root.String(), "var/closure.json": "file 444 " + string(manifest),
	}
	for _, p := range c.Paths {
		top := filepath.Join(storeDir, p.Path.BaseName())
		err := filepath.Walk(top, func(file string, info os.FileInfo, err error) error {
			if err != nil {
				return err
			}
			name := "store/" + strings.TrimPrefix(file, storeDir+"/")
			switch {
			case info.IsDir():
				seen[name+"/"] = "folder 555"
			case info.Mode()&os.ModeSymlink != 0:
				target, err := os.Readlink(file)
				seen[name] = "link " + target
				return err
			default:
				data, err := os.ReadFile(file)
				seen[name] = fmt.Sprintf("file %o %s", 0o444|info.Mode().Perm()&0o111, data)
				return err
			}
			return nil
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	return seen
}

// checkEqual compares an image of the form Volume with the volume, and that of the
// form Root with the volume at /nix.
func checkEqual(t *testing.T, b *closureimage.Builder, storeDir string, c nixstore.Closure) {
	t.Helper()
	want := volume(t, storeDir, c, "x86_64-linux")
	for _, form := range allForms {
		s := spec(c.Root, form)
		s.Registration = c.Registration
		_, headers, content := entries(t, mustImage(t, b, s))
		got := map[string]string{}
		for name, h := range headers {
			name, below := strings.CutPrefix(name, "nix/")
			if form == closureimage.Root && !below || name == "" {
				continue
			}
			switch h.Typeflag {
			case '5':
				got[name] = fmt.Sprintf("folder %o", h.Mode)
			case '2':
				got[name] = "link " + h.Linkname
			default:
				got[name] = fmt.Sprintf("file %o %s", h.Mode, content["nix/"+name]+content[name])
			}
			if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.ModTime.Unix() != 1 {
				t.Errorf("%s belongs to %d:%d and is of %s", name, h.Uid, h.Gid, h.ModTime)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("form %d differs from the volume (-volume +image):\n%.2000s", form, diff)
		}
	}
}

func TestAnImageEqualsTheVolume(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	for _, p := range []string{"app-1.0/bin/app", "app-1.0/sbin/appd"} { // as Nix has them
		name, file, _ := strings.Cut(p, "/")
		for q := range s.paths {
			if q.Name() == name {
				if err := os.Chmod(filepath.Join(s.real(q), file), 0o555); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	c, err := s.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	checkEqual(t, s.builder(t), s.dir, c)
}
