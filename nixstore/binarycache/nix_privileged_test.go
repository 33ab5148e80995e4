//go:build privileged

package binarycache_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/binarycache"
)

func TestANodeFetchesAClosureFromAnother(t *testing.T) {
	t.Parallel()
	key := newKey(t, "install-1")
	a, b := newNode(t, key), newNode(t, key).run(t)
	root := nixtest.SyntheticClosure(t, a.dir, 20, "peer")
	address := a.serve(t, nil)
	b.knows(t, address)
	if err := b.fetch(t, root, address); err != nil {
		t.Fatal(err)
	}
	sameClosure(t, a, b, root)
	if signed := nixtest.Run(t, b.dir, "nix", "path-info", "--sigs", root); !strings.Contains(strings.Join(signed, " "), "install-1:") {
		t.Errorf("the signatures in the second store are %q", signed)
	}
	nixtest.Run(t, b.dir, "nix-store", "--verify", "--check-contents")
	drvs, err := filepath.Glob(b.storeDir() + "/*-syn-peer*.drv")
	if err != nil || len(drvs) > 0 {
		t.Errorf("derivations came along: %q, %v", drvs, err)
	}
}

// sameClosure wants the closure of root to be the same in both stores: paths,
// hashes, sizes and references.
func sameClosure(t *testing.T, a, b *node, root string) {
	t.Helper()
	path := nixstore.MustParseStorePath(root)
	there, errA := a.store.Closure(t.Context(), path)
	here, errB := b.store.Closure(t.Context(), path)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	one, errA := there.Manifest("x86_64-linux")
	two, errB := here.Manifest("x86_64-linux")
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	if diff := cmp.Diff(string(one), string(two)); diff != "" || len(here.Paths) < 2 {
		t.Errorf("the closure differs (-theirs +ours):\n%s", diff)
	}
}

// spoiled rewrites the bodies of the answers for names that end in suffix.
func spoiled(suffix string, change func([]byte) []byte) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, suffix) {
				h.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			if rec.Code != http.StatusOK {
				w.WriteHeader(rec.Code)
			}
			_, _ = w.Write(change(rec.Body.Bytes()))
		})
	}
}

func replaced(old, with string) func([]byte) []byte {
	return func(body []byte) []byte { return bytes.Replace(body, []byte(old), []byte(with), 1) }
}

// without drops the lines that begin with start.
func without(start string) func([]byte) []byte {
	return func(body []byte) []byte {
		var kept []byte
		for line := range bytes.Lines(body) {
			if !bytes.HasPrefix(line, []byte(start)) {
				kept = append(kept, line...)
			}
		}
		return kept
	}
}

func TestFault41NodeThatCannotBeBelieved(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		key   string // another key of this name signs; "": the right one
		spoil func(http.Handler) http.Handler
		want  error
	}{
		"it signs nothing":                   {spoil: spoiled(".narinfo", without("Sig:")), want: nixstore.ErrUntrusted},
		"another key signs":                  {key: "other-1", want: nixstore.ErrUntrusted},
		"another key of the same name signs": {key: "install-1", want: nixstore.ErrUntrusted},
		"the signed size was changed":        {spoil: spoiled(".narinfo", replaced("NarSize: ", "NarSize: 1")), want: nixstore.ErrUntrusted},
		"the signed references were dropped": {spoil: spoiled(".narinfo", without("References:")), want: nixstore.ErrUntrusted},
		"the content was altered":            {spoil: spoiled(".nar", replaced("syn-peer", "sYn-peer")), want: nixstore.ErrCorrupt},
		"the content is cut":                 {spoil: spoiled(".nar", func(b []byte) []byte { return b[:len(b)/2] }), want: nixstore.ErrCorrupt},
		"the content is empty":               {spoil: spoiled(".nar", func([]byte) []byte { return nil }), want: nixstore.ErrCorrupt},
		"nothing was changed":                {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newNode(t, newKey(t, "install-1")).run(t)
			a := newNode(t, b.key)
			root := nixtest.SyntheticClosure(t, a.dir, 2, "peer")
			if c.key != "" {
				a.key = newKey(t, c.key)
			}
			address := a.serve(t, c.spoil)
			if err := (binarycache.Netrc{Path: b.netrc(), Key: a.key}).Write([]string{address}); err != nil {
				t.Fatal(err)
			}
			err := b.fetch(t, root, address)
			if !errors.Is(err, c.want) {
				t.Fatalf("the error is %v, want %v", err, c.want)
			}
			if c.want == nil {
				return
			}
			if _, err := os.Lstat(b.dir + root); !os.IsNotExist(err) {
				t.Errorf("something stayed in the store: %v", err)
			}
			if !strings.Contains(err.Error(), "/nix/store/") || !strings.Contains(err.Error(), address) {
				t.Errorf("the message %q names not both path and cache", err)
			}
		})
	}
}

func TestNixIsRefusedWithoutPassword(t *testing.T) {
	t.Parallel()
	key := newKey(t, "install-1")
	a, b := newNode(t, key), newNode(t, key).run(t)
	root := nixtest.SyntheticClosure(t, a.dir, 2, "peer")
	address := a.serve(t, nil)
	err := b.fetch(t, root, address)
	if err == nil {
		t.Fatal("it was served without a password")
	}
	t.Log(err)
	b.knows(t, address)
	if err := b.fetch(t, root, address); err != nil {
		t.Errorf("with the password, and the same daemon: %v", err)
	}
}

func TestNixGoesToTheNextNode(t *testing.T) {
	t.Parallel()
	key := newKey(t, "install-1")
	a, b := newNode(t, key), newNode(t, key).run(t)
	root := nixtest.SyntheticClosure(t, a.dir, 3, "peer")
	good := a.serve(t, nil)
	bad := a.serve(t, spoiled(".nar", replaced("syn-peer", "sYn-peer")))
	empty := newNode(t, key).serve(t, nil)
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	gone := strings.TrimPrefix(down.URL, "http://")
	b.knows(t, good, bad, empty, gone)
	if err := b.fetch(t, root, gone, empty, bad, good); err != nil {
		t.Fatal(err)
	}
	sameClosure(t, a, b, root)
}

// TestFault17CollectionWhileServing takes a path away while it is served: the
// answer has no whole length, and the other node builds nothing upon it.
func TestFault17CollectionWhileServing(t *testing.T) {
	t.Parallel()
	key := newKey(t, "install-1")
	a, b := newNode(t, key), newNode(t, key).run(t)
	root := nixtest.SyntheticClosure(t, a.dir, 1, "gc", "--arg", "files", "400", "--arg", "sizeKiB", "40000")
	var once sync.Once
	address := a.serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, ".nar") {
				h.ServeHTTP(w, r)
				return
			}
			// The collector runs to its end between the first and the second part.
			h.ServeHTTP(&interrupted{ResponseWriter: w, after: func() {
				once.Do(func() { nixtest.Run(t, a.dir, "nix-store", "--gc") })
			}}, r)
		})
	})
	b.knows(t, address)
	err := b.fetch(t, root, address)
	if !errors.Is(err, nixstore.ErrCorrupt) && !errors.Is(err, nixstore.ErrNotFound) && !errors.Is(err, nixstore.ErrUnavailable) {
		t.Errorf("the error is %v", err)
	}
	if _, err := b.store.Registration(t.Context(), nixstore.MustParseStorePath(root)); !errors.Is(err, nixstore.ErrNotFound) {
		t.Errorf("half of a path became valid: %v", err)
	}
	if _, err := os.Lstat(a.dir + root); !os.IsNotExist(err) {
		t.Errorf("the test's collector left the path: %v", err)
	}
}

// interrupted calls after when the first part of a body was written.
type interrupted struct {
	http.ResponseWriter

	after func()
}

func (w *interrupted) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.after()
	return n, err
}

func (w *interrupted) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestPathsOfEachKindAreFetched(t *testing.T) {
	t.Parallel()
	key := newKey(t, "install-1")
	a, b := newNode(t, key), newNode(t, key).run(t)
	root := nixtest.TextClosure(t, a.dir, 200, "t") // files, content-addressed
	tree := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(tree+"/e/m/p/t/y", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"empty": "", "a b": "1", "\xff\n": "2"} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", tree+"/link"); err != nil {
		t.Fatal(err)
	}
	added := nixtest.Run(t, a.dir, "nix-store", "--add", tree)[0]
	address := a.serve(t, nil)
	b.knows(t, address)
	for _, path := range []string{root, added} {
		if err := b.fetch(t, path, address); err != nil {
			t.Error(err)
		}
	}
	sameClosure(t, a, b, root)
	nixtest.Run(t, b.dir, "nix-store", "--verify", "--check-contents")
	if target, err := os.Readlink(b.dir + added + "/link"); err != nil || target != "/etc/passwd" {
		t.Errorf("the symlink is %q, %v", target, err)
	}
}

// TestNixBelievesANodeThatWasRepaired changes what one node answers, under the same
// address: Nix must not go by what it was told before.
func TestNixBelievesANodeThatWasRepaired(t *testing.T) {
	t.Parallel()
	key := newKey(t, "install-1")
	a, b := newNode(t, key), newNode(t, key).run(t)
	root := nixtest.SyntheticClosure(t, a.dir, 2, "peer")
	var bad atomic.Bool
	bad.Store(true)
	address := a.serve(t, func(good http.Handler) http.Handler {
		unsigned := spoiled(".narinfo", without("Sig:"))(good)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if bad.Load() {
				unsigned.ServeHTTP(w, r)
				return
			}
			good.ServeHTTP(w, r)
		})
	})
	b.knows(t, address)
	if err := b.fetch(t, root, address); !errors.Is(err, nixstore.ErrUntrusted) {
		t.Fatalf("without signatures: %v", err)
	}
	bad.Store(false)
	eventually(t, "the node is believed", func() bool { return b.fetch(t, root, address) == nil })
}
