package pins_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/closured/closured/nixstore"
)

func TestTheUseOfAPinSurvivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := open(t, dir)
	put(t, p, volume("a"), root(1))
	if used, err := p.Used(volume("a")); err != nil || time.Since(used) > time.Hour {
		t.Errorf("a new pin was used at %s, %v", used, err)
	}
	then := time.Date(2001, 2, 3, 4, 5, 6, 7000, time.UTC)
	if err := p.Touch(volume("a"), then); err != nil {
		t.Fatal(err)
	}
	if used, err := open(t, dir).Used(volume("a")); err != nil || !used.Equal(then) {
		t.Errorf("the pin was used at %s, %v, want %s", used, err, then)
	}
	wantLink(t, dir, volume("a"), root(1).String())
}

// A touch that followed the link would date somebody's store path.
func TestTouchDoesNotFollowTheLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := open(t, dir)
	put(t, p, volume("a"), root(1))
	link := filepath.Join(dir, "volumes", "a")
	target := filepath.Join(t.TempDir(), "target")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(target)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := p.Touch(volume("a"), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(target); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the target has the time %s, %v", after.ModTime(), err)
	}
}

func TestNoUseOfAPinThatIsNotThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := open(t, dir)
	put(t, p, volume("gone"), root(1))
	if err := os.Remove(filepath.Join(dir, "volumes", "gone")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"unknown", "gone"} {
		wantKind(t, p.Touch(volume(name), time.Now()), nixstore.ErrNotFound)
		_, err := p.Used(volume(name))
		wantKind(t, err, nixstore.ErrNotFound)
	}
}
