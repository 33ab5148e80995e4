//go:build privileged

package nixcli_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixcli"
)

// binaryCache is a binary cache over HTTP whose answers a test may spoil.
type binaryCache struct {
	dir  string // its files
	key  string // the public key of those who signed
	root string // a path that it offers
	url  string
}

// newCache makes a cache that offers a synthetic closure of n paths, signed by
// a new key unless unsigned. handle answers instead of the files when it is not nil.
func newCache(t *testing.T, n int, signed bool, handle func(files http.Handler) http.HandlerFunc) *binaryCache {
	t.Helper()
	nixtest.Require(t)
	origin := nixtest.StateDir(t)
	cache := &binaryCache{dir: filepath.Join(origin, "cache")}
	cache.root = nixtest.SyntheticClosure(t, origin, n, "cache")
	secret := filepath.Join(origin, "secret")
	public := filepath.Join(origin, "public")
	nixtest.Run(t, origin, "nix-store", "--generate-binary-cache-key", "test-1", secret, public)
	data, err := os.ReadFile(public)
	if err != nil {
		t.Fatal(err)
	}
	cache.key = strings.TrimSpace(string(data))
	to := "file://" + cache.dir + "?compression=none"
	if signed {
		to += "&secret-key=" + secret
	}
	nixtest.Run(t, origin, "nix", "copy", "--to", to, cache.root)
	handler := http.FileServer(http.Dir(cache.dir))
	if handle != nil {
		handler = handle(handler)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	cache.url = server.URL
	return cache
}

// client gives a store that substitutes from the cache, and its state directory.
func (c *binaryCache) client(t *testing.T, options map[string]string) (*nixcli.Store, string) {
	t.Helper()
	dir := nixtest.StateDir(t)
	cfg := offline(dir)
	cfg.Options = options
	cfg.Substituters = []string{c.url}
	cfg.TrustedPublicKeys = []string{c.key}
	return open(t, cfg), dir
}

func (c *binaryCache) output() []nixstore.Output {
	return []nixstore.Output{{Path: path(c.root)}}
}

// spoil rewrites the body of the answers for files that end in suffix.
func spoil(suffix string, change func(body []byte) []byte) func(http.Handler) http.HandlerFunc {
	return func(files http.Handler) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, suffix) {
				files.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			files.ServeHTTP(rec, r)
			w.WriteHeader(rec.Code)
			_, _ = w.Write(change(rec.Body.Bytes()))
		}
	}
}
