package policy

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/closured/closured/nixstore"
)

// TestChangeHoldsOnlyWhenItWasSeenTwice: a file that is cut while it is being
// written may be valid, and allow more than the whole one.
func TestChangeHoldsOnlyWhenItWasSeenTwice(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	builds := func(f *File) bool {
		t.Helper()
		d, err := f.Check("web", nixstore.Source{Kind: nixstore.SourceImage})
		if err != nil {
			t.Fatal(err)
		}
		return d.Build
	}
	const cut, whole = "rules:\n- namespaces: ['*']\n  sources: [image]\n", "rules:\n- namespaces: ['*']\n  sources: [image]\n  build: false\n"
	write(whole)
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	write(cut)
	f.look()
	if builds(f) {
		t.Error("a file seen once holds")
	}
	write(whole)
	f.look()
	f.look()
	if builds(f) || f.Problem() != nil {
		t.Errorf("the whole file does not hold: %v", f.Problem())
	}
	write(cut)
	f.look()
	f.look()
	if !builds(f) {
		t.Error("a file seen twice does not hold")
	}
}
