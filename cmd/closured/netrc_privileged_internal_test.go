//go:build privileged

package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
)

// privateCache is a binary cache that asks for a password.
type privateCache struct {
	dir, key string // key is its public one
	password atomic.Value
	url      string
}

func newPrivateCache(t *testing.T) *privateCache {
	t.Helper()
	c := &privateCache{dir: t.TempDir()}
	c.password.Store("first")
	secret := cacheKey(t)
	c.key = secret.Public()
	check(t, os.WriteFile(filepath.Join(c.dir, "key"), []byte(secret.Secret()), 0o600))
	files := http.FileServer(http.Dir(filepath.Join(c.dir, "cache")))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "us" || password != c.password.Load() {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// add puts a closure into the cache.
func (c *privateCache) add(t *testing.T, name string) nixstore.StorePath {
	t.Helper()
	dir := nixtest.StateDir(t)
	root := nixtest.SyntheticClosure(t, dir, 2, name)
	nixtest.Run(t, dir, "nix", "copy", "--to", "file://"+filepath.Join(c.dir, "cache")+"?compression=none&secret-key="+filepath.Join(c.dir, "key"), root)
	return nixstore.MustParseStorePath(root)
}

// daemonBeside runs the daemon as the container beside the agent's does.
func daemonBeside(t *testing.T, state, conf string) {
	t.Helper()
	script, err := filepath.Abs("../../deploy/image/nix-daemon")
	check(t, err)
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", script) // it mounts a proc
	cmd.Env = append(os.Environ(), "STATE_DIR="+state, "RUN_DIR="+t.TempDir(), "OPERATOR_CONF="+conf)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Stderr = t.Output()
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // may have ended
		_ = cmd.Wait()                                      // killed
	})
}

// The operator's netrc is where the daemon is, and not where the agent is.
func TestAPrivateCacheStillGetsItsPassword(t *testing.T) {
	nixtest.Require(t)
	cache, dir, state := newPrivateCache(t), t.TempDir(), nixtest.StateDir(t)
	first, second := cache.add(t, "first"), cache.add(t, "second")
	key, conf, theirs := filepath.Join(dir, "key"), filepath.Join(dir, "nix.conf"), filepath.Join(dir, "theirs")
	check(t, os.WriteFile(key, []byte(cacheKey(t).Secret()), 0o600))
	check(t, os.WriteFile(conf, []byte("substituters = "+cache.url+"\ntrusted-public-keys = "+cache.key+"\nnetrc-file = "+theirs+"\n"), 0o600))
	tell := func(password string) {
		cache.password.Store(password)
		check(t, os.WriteFile(theirs, []byte("machine 127.0.0.1 login us password "+password+"\n"), 0o600))
	}
	tell("first")
	daemonBeside(t, state, conf)
	a := agentWith(t, "node-a", []string{
		"--state-dir", state, "--nix-daemon-socket", filepath.Join(state, "run/nix/socket"), "--cache-key-file", key,
		// Both read the same nix.conf, and the agent passes it on: here it has no file.
		"--substituter", cache.url, "--trusted-public-key", cache.key,
	}, func(a *agent) []func(context.Context) error {
		return []func(context.Context) error{a.openPolicy, a.readCacheKeys, a.openStore, a.openPeers, a.openProvider}
	})
	fetches := func(password string, path nixstore.StorePath) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			if text, err := os.ReadFile(a.netrc()); err == nil && strings.Contains(string(text), "password "+password+"\n") {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("the password %s does not come", password)
			}
		}
		got, err := a.provider.Provide(t.Context(), nixstore.Request{
			Source: nixstore.Source{Kind: nixstore.SourceStorePath, Paths: []nixstore.StorePath{path}},
			Holder: nixstore.Holder{Kind: nixstore.HolderVolume, Name: path.Name()},
		})
		if err != nil || got.Root != path {
			t.Fatalf("the private cache gave %+v, %v", got, err)
		}
	}
	fetches("first", first)
	tell("second") // as when the Secret changes
	fetches("second", second)
}
