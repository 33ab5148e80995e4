package pins_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/pins"
)

func root(n int) nixstore.StorePath {
	return nixstore.MustParseStorePath(fmt.Sprintf("%s/%032d-root", nixstore.Dir, n))
}

func volume(name string) nixstore.Holder {
	return nixstore.Holder{Kind: nixstore.HolderVolume, Name: name}
}

func open(t *testing.T, dir string) *pins.Pins {
	t.Helper()
	p, err := pins.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func put(t *testing.T, p *pins.Pins, h nixstore.Holder, root nixstore.StorePath) {
	t.Helper()
	if err := p.Put(h, root); err != nil {
		t.Fatal(err)
	}
}

// wantLink looks at the disk, as Nix does.
func wantLink(t *testing.T, dir string, h nixstore.Holder, want string) {
	t.Helper()
	got, err := os.Readlink(filepath.Join(dir, string(h.Kind), h.Name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("the link of %s is %q, want %q", h.Name, got, want)
	}
}

func wantKind(t *testing.T, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("the error is %v, want the kind %q", err, kind)
	}
}

func TestAPinIsALinkThatOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "gcroots", "closured")
	p := open(t, dir)
	holders := []nixstore.Holder{
		volume("csi-1"), volume("csi-2"),
		{Kind: nixstore.HolderImage, Name: "image"},
		{Kind: nixstore.HolderBuilt, Name: "built"},
		{Kind: nixstore.HolderFlight, Name: "1.flight"},
	}
	for n, h := range holders {
		put(t, p, h, root(n/2))                 // some share a root
		put(t, p, h, root(n/2))                 // twice is once
		wantLink(t, dir, h, root(n/2).String()) // logical, whatever the store's physical place
	}
	for _, p := range []*pins.Pins{p, open(t, dir)} {
		for n, h := range holders {
			if got, ok := p.Get(h); !ok || got != root(n/2) {
				t.Errorf("%s pins %s, %t", h.Name, got, ok)
			}
		}
		if p.Count() != len(holders) || len(p.Strays()) != 0 {
			t.Errorf("%d pins and the strays %q", p.Count(), p.Strays())
		}
	}
	for _, h := range holders {
		for range 2 {
			if err := p.Drop(h); err != nil {
				t.Error(err)
			}
		}
		wantLink(t, dir, h, "")
	}
	if _, ok := p.Get(holders[0]); ok || p.Count() != 0 {
		t.Errorf("%d pins are left", p.Count())
	}
}

func TestDroppingOneOfTwoPinsOfARootKeepsTheOther(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := open(t, dir)
	for _, name := range []string{"a", "b", "c"} {
		put(t, p, volume(name), root(1))
	}
	for _, name := range []string{"a", "c"} {
		if err := p.Drop(volume(name)); err != nil {
			t.Fatal(err)
		}
	}
	wantLink(t, dir, volume("b"), root(1).String())
	put(t, p, volume("d"), root(1))
	wantLink(t, dir, volume("d"), root(1).String())
}

func TestAnotherRootForTheSameHolderIsAConflict(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := open(t, dir)
	put(t, p, volume("v"), root(1))
	wantKind(t, p.Put(volume("v"), root(2)), nixstore.ErrConflict)
	wantLink(t, dir, volume("v"), root(1).String())
}

func TestFindIsByPrefixAndSorted(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir())
	for _, name := range []string{"b.2", "a.1", "b.1", "c", "b", "b.1.x", "bb"} {
		put(t, p, volume(name), root(1))
	}
	names := func(prefix string) []string {
		var all []string
		for _, pin := range p.Find(nixstore.HolderVolume, prefix) {
			all = append(all, pin.Holder.Name)
		}
		return all
	}
	for prefix, want := range map[string][]string{
		"b.":     {"b.1", "b.1.x", "b.2"},
		"b":      {"b", "b.1", "b.1.x", "b.2", "bb"},
		"b.1.x.": nil,
		"d":      nil,
		"":       {"a.1", "b", "b.1", "b.1.x", "b.2", "bb", "c"},
	} {
		if diff := cmp.Diff(want, names(prefix)); diff != "" {
			t.Errorf("prefix %q (-want +got):\n%s", prefix, diff)
		}
	}
	if got := p.List(nixstore.HolderImage); len(got) != 0 {
		t.Errorf("images: %v", got)
	}
	if got := len(p.List(nixstore.HolderVolume)); got != 7 {
		t.Errorf("%d volumes", got)
	}
}

func TestBadNamesAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := open(t, dir)
	for _, h := range []nixstore.Holder{
		volume(""), volume("."), volume(".."), volume(".new-1"), volume("a/b"), volume("../up"), volume("a b"),
		volume("a\x00"), volume("ä"), volume("-\n"), volume(strings.Repeat("x", 256)),
		{Kind: "", Name: "x"},
		{Kind: "../volumes", Name: "x"},
		{Kind: "other", Name: "x"},
	} {
		wantKind(t, p.Put(h, root(1)), nixstore.ErrInvalid)
		if err := p.Drop(h); err != nil {
			t.Errorf("dropping %q: %v", h.Name, err)
		}
	}
	wantKind(t, p.Put(volume("x"), nixstore.StorePath{}), nixstore.ErrInvalid)
	longest := volume(strings.Repeat("x", 255))
	put(t, p, longest, root(1))
	wantLink(t, dir, longest, root(1).String())
}

func TestOpenLeavesAloneWhatItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, open(t, dir), volume("good"), root(1))
	volumes := filepath.Join(dir, "volumes")
	strays := []string{
		filepath.Join(dir, "foreign"), filepath.Join(volumes, "file"), filepath.Join(volumes, "folder"),
		filepath.Join(volumes, "below"), filepath.Join(volumes, "relative"), filepath.Join(volumes, "bad name"),
		filepath.Join(volumes, ".new-file"), filepath.Join(volumes, ".hidden"),
	}
	for _, path := range strays {
		var err error
		switch filepath.Base(path) {
		case "foreign", "folder":
			err = os.Mkdir(path, 0o755)
		case "file", ".new-file":
			err = os.WriteFile(path, nil, 0o600)
		case "below":
			err = os.Symlink(root(1).String()+"/bin", path)
		case "relative":
			err = os.Symlink("../../x", path)
		default:
			err = os.Symlink(root(1).String(), path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(root(2).String(), filepath.Join(volumes, ".new-7")); err != nil { // half-made
		t.Fatal(err)
	}
	p := open(t, dir)
	slices.Sort(strays)
	if diff := cmp.Diff(strays, p.Strays()); diff != "" {
		t.Errorf("strays (-want +got):\n%s", diff)
	}
	if p.Count() != 1 {
		t.Errorf("%d pins", p.Count())
	}
	for _, path := range strays {
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("a stray is gone: %v", err)
		}
	}
	if _, err := os.Lstat(filepath.Join(volumes, ".new-7")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a half-made pin is left")
	}
	for _, name := range []string{"file", "folder", "below"} {
		wantKind(t, p.Put(volume(name), root(1)), nixstore.ErrConflict)
	}
}

func TestAPinRemovedByHandIsMadeAnew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := open(t, dir)
	put(t, p, volume("v"), root(1))
	if err := os.Remove(filepath.Join(dir, "volumes", "v")); err != nil {
		t.Fatal(err)
	}
	put(t, p, volume("w"), root(1)) // its pattern is gone
	put(t, p, volume("v"), root(1))
	wantLink(t, dir, volume("v"), root(1).String())
	wantLink(t, dir, volume("w"), root(1).String())
}

func TestALinkChangedByHandIsNotCopied(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := open(t, dir)
	put(t, p, volume("v"), root(1))
	path := filepath.Join(dir, "volumes", "v")
	if err := errors.Join(os.Remove(path), os.Symlink("/etc/shadow", path)); err != nil {
		t.Fatal(err)
	}
	put(t, p, volume("w"), root(1))
	wantLink(t, dir, volume("w"), root(1).String())
	wantKind(t, p.Put(volume("v"), root(1)), nixstore.ErrConflict)
}

func TestAfterAFailedDropThePinIsStillFound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := open(t, dir)
	put(t, p, volume("v"), root(1))
	path := filepath.Join(dir, "volumes", "v")
	// What os.Remove cannot remove, also for root: a folder that is not empty.
	if err := errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "x"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := p.Drop(volume("v")); err == nil {
		t.Error("no error")
	}
	if _, ok := p.Get(volume("v")); !ok {
		t.Error("the index lost it")
	}
}

func TestConcurrentPutsAndDropsAgreeWithTheDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := open(t, dir)
	var all sync.WaitGroup
	for n := range 200 {
		all.Go(func() {
			h := volume(fmt.Sprint(n % 10))
			if err := p.Put(h, root(n%2)); err != nil && !errors.Is(err, nixstore.ErrConflict) {
				t.Error(err)
			}
			p.Find(nixstore.HolderVolume, "")
			if n%3 == 0 {
				if err := p.Drop(h); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	disk, index := open(t, dir).List(nixstore.HolderVolume), p.List(nixstore.HolderVolume)
	if !slices.Equal(disk, index) {
		t.Errorf("the disk has\n %v, the index\n %v", disk, index)
	}
}

func FuzzPut(f *testing.F) {
	for _, name := range []string{"csi-1", "..", ".new-1", "a/b", "", "x\x00y", strings.Repeat("y", 256)} {
		f.Add(name)
	}
	outside := f.TempDir()
	p, err := pins.Open(filepath.Join(outside, "pins"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if err := p.Put(volume(name), root(1)); err != nil {
			return
		}
		entries, err := os.ReadDir(filepath.Join(outside, "pins", "volumes"))
		if err != nil || len(entries) != 1 || entries[0].Name() != name {
			t.Errorf("%q made %v, %v", name, entries, err)
		}
		if err := p.Drop(volume(name)); err != nil {
			t.Error(err)
		}
	})
}

func ExamplePins() {
	dir, err := os.MkdirTemp("", "pins")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	p, err := pins.Open(dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	h := nixstore.Holder{Kind: nixstore.HolderVolume, Name: "csi-1.target.request"}
	curl := nixstore.MustParseStorePath("/nix/store/00000000000000000000000000000000-curl")
	fmt.Println(p.Put(h, curl))
	target, _ := os.Readlink(filepath.Join(dir, "volumes", h.Name))
	fmt.Println(target)
	// Output:
	// <nil>
	// /nix/store/00000000000000000000000000000000-curl
}
