//go:build privileged

package integration_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/closured/closured/internal/nixtest"
)

// cacheServer is a binary cache that Nix has made, served over HTTP. A closure may
// be served in a spoilt way.
type cacheServer struct {
	url   string
	key   string // the public key to trust
	dir   string // its files
	store string // where its closures were built
	wrong string // a secret key that nobody trusts
	right string // the secret key of key

	mu     sync.Mutex              // guards spoilt
	spoilt map[string]http.Handler // by the path of a file: answers instead of it
}

// newCacheServer starts a cache with no closures.
func newCacheServer(t *testing.T) *cacheServer {
	t.Helper()
	nixtest.Require(t)
	origin := nixtest.StateDir(t)
	c := &cacheServer{
		dir: filepath.Join(origin, "cache"), store: origin,
		right: filepath.Join(origin, "right"), wrong: filepath.Join(origin, "wrong"),
		spoilt: map[string]http.Handler{},
	}
	for _, secret := range []string{c.right, c.wrong} { // of the same name: what counts is the key
		nixtest.Run(t, origin, "nix-store", "--generate-binary-cache-key", "cache-1", secret, secret+".public")
	}
	key, err := os.ReadFile(c.right + ".public")
	if err != nil {
		t.Fatal(err)
	}
	c.key = strings.TrimSpace(string(key))
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// flags are those of an agent that substitutes from the cache and soon loses
// patience.
func (c *cacheServer) flags() []string {
	flags := []string{"--substituter", c.url, "--trusted-public-key", c.key}
	for _, option := range []string{"stalled-download-timeout=2", "connect-timeout=2", "download-attempts=1"} {
		flags = append(flags, "--nix-option", option)
	}
	return flags
}

// ServeHTTP serves the files of the cache.
func (c *cacheServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	handler := c.spoilt[r.URL.Path]
	c.mu.Unlock()
	if handler == nil {
		handler = http.FileServer(http.Dir(c.dir))
	}
	handler.ServeHTTP(w, r)
}

// add builds for each seed a closure of two paths of its own and busybox, pushes
// them, signed by a secret key or by none, and gives their roots.
func (c *cacheServer) add(t *testing.T, secret string, seeds ...string) (roots []string) {
	t.Helper()
	expr := fmt.Sprintf(`{ busybox }: map (seed: (import %s { inherit busybox seed; n = 2; }).root) [ "%s" ]`,
		nixtest.Fixture(t, "synthetic-closure.nix"), strings.Join(seeds, `" "`))
	drvs := nixtest.Run(t, c.store, "nix-instantiate", "--expr", expr, "--argstr", "busybox", nixtest.Busybox(t))
	roots = nixtest.Run(t, c.store, "nix-store", append([]string{"--realise"}, drvs...)...)
	to := "file://" + c.dir + "?compression=none"
	if secret != "" {
		to += "&secret-key=" + secret
	}
	nixtest.Run(t, c.store, "nix", append([]string{"copy", "--to", to}, roots...)...)
	return roots
}

var narURL = regexp.MustCompile(`(?m)^URL: (\S+)$`)

// spoil lets spoiler answer for a kind of file, ".narinfo" or ".nar", of each path
// that is root's closure alone.
func (c *cacheServer) spoil(t *testing.T, root, kind string, spoiler http.Handler) {
	t.Helper()
	for _, path := range nixtest.Run(t, c.store, "nix-store", "-qR", root) {
		if !strings.Contains(path, "-syn-") { // busybox belongs to all
			continue
		}
		file := "/" + strings.TrimPrefix(path, "/nix/store/")[:32] + ".narinfo"
		if kind == ".nar" {
			info, err := os.ReadFile(c.dir + file)
			if err != nil {
				t.Fatal(err)
			}
			file = "/" + narURL.FindStringSubmatch(string(info))[1]
		}
		c.mu.Lock()
		c.spoilt[file] = spoiler
		c.mu.Unlock()
	}
}

// mend serves everything as it is again.
func (c *cacheServer) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.spoilt)
}

// changed answers with the file, changed.
func (c *cacheServer) changed(change func(string) string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, err := os.ReadFile(filepath.Join(c.dir, filepath.Clean(r.URL.Path)))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(change(string(data))))
	})
}

// status answers with a status, and words that look like Nix's.
func (c *cacheServer) status(code int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "error: cannot add path '/nix/store/x' because it lacks a signature", code)
	})
}

// stalling says the beginning of the file and then nothing, until the client goes.
func (c *cacheServer) stalling() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, _ := os.ReadFile(filepath.Join(c.dir, filepath.Clean(r.URL.Path)))
		w.Header().Set("Content-Length", fmt.Sprint(len(data)+1))
		_, _ = w.Write(data[:len(data)/2])
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
		case <-time.After(time.Minute):
		}
	})
}

// endless answers with the file and goes on as long as the client listens.
func (c *cacheServer) endless() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, err := os.ReadFile(filepath.Join(c.dir, filepath.Clean(r.URL.Path)))
		block := make([]byte, 1<<16)
		for err == nil && r.Context().Err() == nil {
			_, err = w.Write(data)
			data = block
			err = errors.Join(err, http.NewResponseController(w).Flush())
		}
	})
}

// cut answers with the first half, and with the length of that.
func cut(s string) string { return s[:len(s)/2] }

// replace gives a change of each occurrence.
func replace(old, with string) func(string) string {
	return func(s string) string { return strings.ReplaceAll(s, old, with) }
}

// line replaces the value of a line of a narinfo.
func line(name, value string) func(string) string {
	return func(s string) string {
		return regexp.MustCompile(`(?m)^`+name+`: .*$`).ReplaceAllString(s, name+": "+value)
	}
}
