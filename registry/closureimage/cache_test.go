package closureimage_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage"
)

// cacheFiles lists what is kept on disk, with its bytes and its blocks on the disk.
func cacheFiles(t *testing.T, dir string) (names []string, bytes, onDisk int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return errors.New("this is no Linux")
		}
		names, bytes, onDisk = append(names, p), bytes+info.Size(), onDisk+st.Blocks*512
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names, bytes, onDisk
}

func cachedIn(dir string) func(*closureimage.Config) {
	return func(cfg *closureimage.Config) { cfg.CacheDir = dir }
}

func TestAKnownImageNeedsNeitherClosureNorFiles(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	dir := t.TempDir()
	b := s.builder(t, cachedIn(dir))
	first := mustImage(t, b, spec(root, closureimage.Root))
	referrer := first.Referrer().Digest()
	if err := os.RemoveAll(s.dir); err != nil {
		t.Fatal(err)
	}
	reads := s.closureReads()
	for name, b := range map[string]*closureimage.Builder{"from memory": b, "after a restart": s.builder(t, cachedIn(dir))} {
		i := mustImage(t, b, spec(root, closureimage.Root))
		if i.Digest() != first.Digest() || string(i.Manifest()) != string(first.Manifest()) || string(i.Config()) != string(first.Config()) || i.Referrer().Digest() != referrer {
			t.Errorf("%s it is another image", name)
		}
	}
	if s.closureReads() != reads {
		t.Errorf("the closure was read %d times", s.closureReads()-reads)
	}
}

func TestAfterARestartBlobsAreServedWithoutHashing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	dir := t.TempDir()
	for _, c := range allCompressions {
		mustImage(t, s.builder(t, cachedIn(dir), compressed(c)), spec(root, closureimage.Root))
		b := s.builder(t, cachedIn(dir), compressed(c))
		reads := s.closureReads()
		for _, blob := range layersOf(t, mustImage(t, b, spec(root, closureimage.Root))) {
			if _, err := readBlob(t, blob, 0); err != nil {
				t.Fatal(err)
			}
		}
		if got := b.Stats(); got != (closureimage.Stats{}) {
			t.Errorf("%+v was computed", got)
		}
		// Once for the plan of all layers, and once for closure.json.
		if got := s.closureReads() - reads; got != 2 {
			t.Errorf("the closure was read %d times", got)
		}
		// Other settings are another image with known layers.
		other := spec(root, closureimage.Root)
		other.Settings.Cmd = []string{"/bin/sh"}
		mustImage(t, b, other)
		if got := b.Stats(); got != (closureimage.Stats{Images: 1}) {
			t.Errorf("%+v was computed", got)
		}
	}
}

func TestLostAndDamagedFilesAreMadeAgain(t *testing.T) {
	t.Parallel()
	harm := map[string]func(file string) error{
		"lost":      os.Remove,
		"empty":     func(f string) error { return replace(f, nil) },
		"shortened": shorten,
		"zeros":     func(f string) error { return replace(f, make([]byte, 300)) },
		"a folder":  func(f string) error { return errors.Join(os.Remove(f), os.Mkdir(f, 0o700)) },
		"a loop":    func(f string) error { return errors.Join(os.Remove(f), os.Symlink(f, f)) },
	}
	for name, do := range harm {
		for _, c := range allCompressions {
			t.Run(name+" with "+c.String(), func(t *testing.T) {
				t.Parallel()
				s := newStore(t)
				root := sample(t, s)
				dir := t.TempDir()
				want := mustImage(t, s.builder(t, cachedIn(dir), compressed(c)), spec(root, closureimage.Root)).Digest()
				names, _, _ := cacheFiles(t, dir)
				for _, f := range names {
					if err := do(f); err != nil {
						t.Fatal(err)
					}
				}
				b := s.builder(t, cachedIn(dir), compressed(c))
				if got := mustImage(t, b, spec(root, closureimage.Root)).Digest(); got != want {
					t.Errorf("the digest is %s, want %s", got, want)
				}
				if b.Stats().Layers == 0 {
					t.Error("damaged records were used")
				}
				again := s.builder(t, cachedIn(dir), compressed(c))
				mustImage(t, again, spec(root, closureimage.Root))
				if got := again.Stats(); got != (closureimage.Stats{}) {
					t.Errorf("the files were not made again: %+v", got)
				}
			})
		}
	}
}

func replace(file string, data []byte) error {
	return errors.Join(os.Remove(file), os.WriteFile(file, data, 0o600))
}

// shorten cuts the end off a file or off the target of a symlink.
func shorten(file string) error {
	if target, err := os.Readlink(file); err == nil {
		return errors.Join(os.Remove(file), os.Symlink(target[:len(target)-1], file))
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return replace(file, data[:len(data)-1])
}

func TestRecordsUnderAnotherNameAreNotBelieved(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	one, two := s.add(t, "one", files{"f": "1"}), s.add(t, "two", files{"f": "2"})
	dir := t.TempDir()
	want := map[nixstore.StorePath]string{}
	for _, p := range []nixstore.StorePath{one, two} {
		want[p] = mustImage(t, s.builder(t, cachedIn(dir)), spec(p, closureimage.Root)).Digest().String()
	}
	for _, folder := range []string{"images", "layers"} {
		names, _, _ := cacheFiles(t, filepath.Join(dir, folder))
		if len(names) != 2 {
			t.Fatalf("there are %q", names)
		}
		if err := errors.Join(os.Rename(names[0], names[0]+".x"), os.Rename(names[1], names[0]), os.Rename(names[0]+".x", names[1])); err != nil {
			t.Fatal(err)
		}
	}
	for p, digest := range want {
		if got := mustImage(t, s.builder(t, cachedIn(dir)), spec(p, closureimage.Root)).Digest().String(); got != digest {
			t.Errorf("%s has become %s", p, got)
		}
	}
}

func TestAnImageOfManyPathsTakesLittleDisk(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var all []nixstore.StorePath
	for n := range 1499 {
		var refs []nixstore.StorePath
		if n > 10 {
			refs = []nixstore.StorePath{all[n-1], all[n/2], all[n-10]}
		}
		all = append(all, s.add(t, fmt.Sprintf("a-rather-long-name-of-a-package-%d-1.2.3", n), files{"f": strings.Repeat("x", n)}, refs...))
	}
	root := s.add(t, "root", files{"bin/x*": "x"}, all...)
	dir := t.TempDir()
	for _, c := range allCompressions {
		b := s.builder(t, compressed(c), cachedIn(filepath.Join(dir, c.String())))
		i := mustImage(t, b, spec(root, closureimage.Root))
		if n := len(layersOf(t, i)); n > 100 {
			t.Errorf("there are %d layers", n)
		}
		names, bytes, onDisk := cacheFiles(t, filepath.Join(dir, c.String()))
		if bytes > 100_000 {
			t.Errorf("with %s %d bytes are kept in %d files (%d on the disk)", c, bytes, len(names), onDisk)
		}
		if c == closureimage.None && onDisk > 100_000 {
			t.Errorf("%d bytes of the disk are taken", onDisk)
		}
	}
}

func TestACacheThatCannotBeWrittenIsNoError(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	dir := t.TempDir()
	b := s.builder(t, cachedIn(dir))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	mustImage(t, b, spec(root, closureimage.Root))
	mustImage(t, b, spec(root, closureimage.Root))
}
