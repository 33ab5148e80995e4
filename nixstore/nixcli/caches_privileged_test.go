//go:build privileged

package nixcli_test

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixcli"
)

type spoiler = func(files http.Handler) http.HandlerFunc

// impatient are options that make a cache that stalls fail soon, in seconds.
func impatient() map[string]string {
	return map[string]string{"stalled-download-timeout": "2", "connect-timeout": "2", "download-attempts": "1"}
}

// answer gives another answer for files that end in suffix.
func answer(suffix string, handle http.HandlerFunc) spoiler {
	return func(files http.Handler) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, suffix) {
				handle(w, r)
				return
			}
			files.ServeHTTP(w, r)
		}
	}
}

// status answers with a status, and a body that looks like a message of Nix.
func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "error: cannot add path '/nix/store/x' because it lacks a signature", code)
	}
}

// stall says one byte and then nothing, until the client goes.
func stall(w http.ResponseWriter, r *http.Request) {
	_, _ = w.Write([]byte("x"))
	_ = http.NewResponseController(w).Flush()
	select {
	case <-r.Context().Done():
	case <-time.After(time.Minute):
	}
}

// endless goes on as long as the client listens.
func endless(w http.ResponseWriter, r *http.Request) {
	zeroes := make([]byte, 1<<16)
	for r.Context().Err() == nil {
		if _, err := w.Write(zeroes); err != nil {
			return
		}
	}
}

func replaced(old, with string) func([]byte) []byte {
	return func(body []byte) []byte { return bytes.Replace(body, []byte(old), []byte(with), 1) }
}

// altered changes the content of a file in a NAR, not its structure.
func altered(body []byte) []byte {
	return bytes.ReplaceAll(body, []byte("syn-cache"), []byte("sYn-cache"))
}

func half(body []byte) []byte { return body[:len(body)/2] }

func TestFault41CacheThatCannotBeTrusted(t *testing.T) {
	t.Parallel()
	const other = ":MMIOUQN1xEwLXQjBcfK+CHDqGUnzRXFsEIoNwMBbLHU="
	for name, c := range map[string]struct {
		unsigned bool
		key      string
		spoil    spoiler
		want     error
	}{
		"it signs nothing":                   {unsigned: true, want: nixstore.ErrUntrusted},
		"another key signs":                  {key: "other-1" + other, want: nixstore.ErrUntrusted},
		"another key of the same name signs": {key: "test-1" + other, want: nixstore.ErrUntrusted},
		"the signed size was changed":        {spoil: spoil(".narinfo", replaced("NarSize: ", "NarSize: 1")), want: nixstore.ErrUntrusted},
		"the signed references were dropped": {spoil: spoil(".narinfo", replaced("References: ", "References: \nX: ")), want: nixstore.ErrUntrusted},
		"the signed hash was changed":        {spoil: spoil(".narinfo", replaced("NarHash: sha256:", "NarHash: sha256:0")), want: nil},
		"the content was altered":            {spoil: spoil(".nar", altered), want: nixstore.ErrCorrupt},
		"the content is another path's":      {spoil: swapNars(), want: nixstore.ErrCorrupt},
		"the content is cut":                 {spoil: spoil(".nar", half), want: nixstore.ErrCorrupt},
		"the content never ends":             {spoil: answer(".nar", endless), want: nixstore.ErrCorrupt},
		"the narinfo is something else":      {spoil: spoil(".narinfo", func([]byte) []byte { return []byte("<html>\n") }), want: nixstore.ErrCorrupt},
		"the narinfo is cut":                 {spoil: spoil(".narinfo", func(b []byte) []byte { return b[:60] }), want: nixstore.ErrCorrupt},
		"it has an error for each narinfo":   {spoil: answer(".narinfo", status(500)), want: nixstore.ErrUnavailable},
		"it has an error for each content":   {spoil: answer(".nar", status(503)), want: nixstore.ErrUnavailable},
		"it has an error for everything":     {spoil: answer("", status(500)), want: nixstore.ErrUnavailable},
		"it stalls at a narinfo":             {spoil: answer(".narinfo", stall), want: nixstore.ErrUnavailable},
		"it stalls at a content":             {spoil: answer(".nar", stall), want: nixstore.ErrUnavailable},
		"it lacks each narinfo":              {spoil: answer(".narinfo", status(404)), want: nixstore.ErrNotFound},
		"it lacks each content":              {spoil: answer(".nar", status(404)), want: nixstore.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cache := newCache(t, 2, !c.unsigned, c.spoil)
			if c.key != "" {
				cache.key = c.key
			}
			store, dir := cache.client(t, impatient())
			err := store.Realise(t.Context(), cache.output(), nixstore.RealiseOptions{})
			if c.want == nil && err != nil { // any refusal is right
				return
			}
			failure := wantKind(t, err, c.want)
			if !strings.Contains(failure.Cause, "/nix/store/") || !errors.Is(c.want, nixstore.ErrNotFound) && !strings.Contains(failure.Cause, cache.url) {
				t.Errorf("the cause %q does not name cache and path", failure.Cause)
			}
			if n := len(failure.Cause) + len(failure.Next); n > 250 {
				t.Errorf("cause and next step have %d characters: %s", n, failure)
			}
			if _, err := store.Registration(t.Context(), path(cache.root)); !errors.Is(err, nixstore.ErrNotFound) {
				t.Errorf("the path became valid: %v", err)
			}
			if _, err := os.Lstat(dir + cache.root); !os.IsNotExist(err) {
				t.Errorf("something stayed in the store: %v", err)
			}
		})
	}
}

// swapNars answers each NAR with the one asked for first.
func swapNars() spoiler {
	var first atomic.Pointer[string]
	return func(files http.Handler) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, ".nar") {
				asked := r.URL.Path
				first.CompareAndSwap(nil, &asked)
				r.URL.Path = *first.Load()
			}
			files.ServeHTTP(w, r)
		}
	}
}

func TestRealiseSubstitutesWhatIsSigned(t *testing.T) {
	t.Parallel()
	cache := newCache(t, 10, true, nil)
	store, dir := cache.client(t, impatient())
	var last nixstore.Progress
	opts := nixstore.RealiseOptions{Progress: func(p nixstore.Progress) { last = p }}
	if err := store.Realise(t.Context(), cache.output(), opts); err != nil {
		t.Fatal(err)
	}
	// Newer Nix leaves out byte counts of paths that are fetched between two of its reports.
	if last.Phase != "fetching" || last.Done != 11 || last.Total != 11 || last.Bytes < 16<<10 {
		t.Errorf("the last progress is %+v", last)
	}
	closure, err := store.Closure(t.Context(), path(cache.root))
	if err != nil || len(closure.Paths) != 11 {
		t.Fatalf("the closure has %d paths, %v", len(closure.Paths), err)
	}
	var got []string
	for _, p := range closure.Paths {
		got = append(got, p.Path.String())
	}
	if diff := cmp.Diff(sorted(nixtest.Run(t, dir, "nix-store", "-qR", cache.root)), got); diff != "" {
		t.Error(diff)
	}
}

func TestFault42CacheThatFailsOnceIsAskedAgain(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	broken.Store(true)
	cache := newCache(t, 2, true, func(files http.Handler) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if broken.Load() && strings.HasSuffix(r.URL.Path, ".nar") {
				status(500)(w, r)
				return
			}
			files.ServeHTTP(w, r)
		}
	})
	store, _ := cache.client(t, impatient())
	wantKind(t, store.Realise(t.Context(), cache.output(), nixstore.RealiseOptions{}), nixstore.ErrUnavailable)
	broken.Store(false)
	if err := store.Realise(t.Context(), cache.output(), nixstore.RealiseOptions{}); err != nil {
		t.Errorf("when the cache works again: %v", err)
	}
}

func TestFault42PathPushedLaterIsFound(t *testing.T) {
	t.Parallel()
	var pushed atomic.Bool
	cache := newCache(t, 2, true, func(files http.Handler) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if !pushed.Load() && strings.HasSuffix(r.URL.Path, ".narinfo") {
				http.NotFound(w, r)
				return
			}
			files.ServeHTTP(w, r)
		}
	})
	options := impatient()
	options["narinfo-cache-negative-ttl"] = "1"
	store, _ := cache.client(t, options)
	wantKind(t, store.Realise(t.Context(), cache.output(), nixstore.RealiseOptions{}), nixstore.ErrNotFound)
	pushed.Store(true)
	eventually(t, "the path is found", func() bool {
		return store.Realise(t.Context(), cache.output(), nixstore.RealiseOptions{}) == nil
	})
}

func TestFault47SecretsOfACacheStayOutOfMessages(t *testing.T) {
	t.Parallel()
	cache := newCache(t, 2, true, answer("", status(500)))
	host := strings.TrimPrefix(cache.url, "http://")
	cache.url = "http://me:canary@" + host + "?token=canary"
	store, _ := cache.client(t, impatient())
	err := store.Realise(t.Context(), cache.output(), nixstore.RealiseOptions{})
	failure := wantKind(t, err, nixstore.ErrUnavailable)
	if strings.Contains(failure.Error(), "canary") || !strings.Contains(failure.Error(), host) {
		t.Errorf("the message is %q", failure)
	}
	if found := processes(t, "canary"); len(found) > 0 {
		t.Errorf("the secret stands in the arguments of %v", found)
	}
}

func TestSomebodyElsesDaemon(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	theirs := open(t, offline(dir))
	cfg := offline(nixtest.StateDir(t))
	cfg.StoreRoot, cfg.DaemonSocket = dir, theirs.Client().Socket
	ours := open(t, cfg)
	drv, out := nixtest.SyntheticDerivation(t, dir, 2, "foreign")
	if err := ours.Realise(t.Context(), []nixstore.Output{output(drv, out)}, build); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Closure(t.Context(), path(out)); err != nil {
		t.Error(err)
	}
	if err := ours.SelfTest(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSomebodyElsesDaemonStillNeedsSignatures(t *testing.T) {
	t.Parallel()
	cache := newCache(t, 2, false, nil)
	dir := nixtest.StateDir(t)
	theirs := open(t, offline(dir))
	store := open(t, nixcli.Config{
		StateDir: nixtest.StateDir(t), StoreRoot: dir, DaemonSocket: theirs.Client().Socket,
		Substituters: []string{cache.url}, TrustedPublicKeys: []string{cache.key},
	})
	wantKind(t, store.Realise(t.Context(), cache.output(), nixstore.RealiseOptions{}), nixstore.ErrUntrusted)
}
