package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/closured/closured/internal/logtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/binarycache"
)

// pods are the agents' pods, by node.
type pods map[string][]string

func (p pods) PodIPs(_ context.Context, namespace, selector, node string) ([]string, error) {
	if namespace != "closured-system" || selector != "a=b" {
		return nil, errors.New("other pods are meant")
	}
	ips, ok := p[node]
	if !ok {
		return nil, errors.New("the API server does not answer")
	}
	return ips, nil
}

func cacheKey(t *testing.T) binarycache.SecretKey {
	t.Helper()
	key, err := binarycache.GenerateKey("test-1")
	check(t, err)
	return key
}

func TestPeersAreTheNodesThatHaveTheClosure(t *testing.T) {
	t.Parallel()
	one := nixstore.MustParseStorePath("/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-one")
	two := nixstore.MustParseStorePath("/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-two")
	none := nixstore.MustParseStorePath("/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-none")
	var log bytes.Buffer
	netrc := filepath.Join(t.TempDir(), "netrc")
	ctx, end := context.WithCancel(t.Context())
	p := &peers{
		nodes: func(root nixstore.StorePath) []string {
			return map[nixstore.StorePath][]string{one: {"gone", "node-a", "own"}, two: {"node-b"}}[root]
		},
		pods: pods{"node-a": {"10.0.0.1"}, "node-b": {"fd00::2"}, "own": {"10.0.0.9"}}, namespace: "closured-system", labels: "a=b", port: "5859",
		own: "own", log: slog.New(slog.NewTextHandler(&log, nil)), passwords: passwordsAt(t, netrc),
	}
	for root, want := range map[nixstore.StorePath]string{one: "http://10.0.0.1:5859", two: "http://[fd00::2]:5859", none: ""} {
		got := p.substituters(ctx, []nixstore.StorePath{root})
		if want == "" && got != nil || want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], want)) {
			t.Errorf("%s is asked of %q", root, got)
		}
	}
	text, err := os.ReadFile(netrc)
	check(t, err)
	for _, want := range []string{"machine 10.0.0.1\n", "machine fd00::2\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("netrc lacks %q", want)
		}
	}
	if strings.Contains(string(text), "10.0.0.9") || !strings.Contains(log.String(), "node=gone") {
		t.Errorf("netrc or log are wrong: %s", log.String())
	}
	// The addresses may be others' when nothing is fetched from them any more.
	end()
	check(t, p.passwords.refresh())
	if text, err = os.ReadFile(netrc); err != nil || strings.Contains(string(text), "machine") {
		t.Errorf("after the fetch netrc is %q, %v", text, err)
	}
}

// passwordsAt are those in a file, with the key of an installation.
func passwordsAt(t *testing.T, file string, operators ...string) *passwords {
	t.Helper()
	return &passwords{
		log: slog.New(slog.DiscardHandler), asked: map[string][]<-chan struct{}{},
		netrc: binarycache.Netrc{Path: file, Key: cacheKey(t), Operators: operators},
	}
}

func TestPasswordsAreKnownWhileSomebodyFetches(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, theirs := filepath.Join(dir, "netrc"), filepath.Join(dir, "theirs")
	p := passwordsAt(t, file, theirs)
	first, endFirst := context.WithCancel(t.Context())
	second, endSecond := context.WithCancel(t.Context())
	defer endSecond()
	knows := func(want ...string) {
		t.Helper()
		check(t, p.refresh())
		text, err := os.ReadFile(file)
		check(t, err)
		var got []string
		for line := range strings.Lines(string(text)) {
			if name, ok := strings.CutPrefix(line, "machine "); ok {
				got = append(got, strings.TrimSpace(name))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("netrc knows %q, want %q", got, want)
		}
	}
	check(t, p.tell(first, []string{"10.0.0.1:5859", "10.0.0.2:5859"}))
	check(t, p.tell(second, []string{"10.0.0.2:5859"}))
	knows("10.0.0.1", "10.0.0.2")
	endFirst()
	knows("10.0.0.2")
	check(t, os.WriteFile(theirs, []byte("machine theirs\n"), 0o600)) // mounted later
	knows("theirs", "10.0.0.2")
	check(t, os.WriteFile(theirs, []byte("machine others\n"), 0o600)) // changed meanwhile
	knows("others", "10.0.0.2")
	endSecond()
	knows("others")
}

func TestPasswordsAreKeptAsTheyShouldBe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := passwordsAt(t, filepath.Join(dir, "away", "netrc"), dir) // no folder to write to, and one for a file
	var log logtest.Buffer
	p.log = log.Logger(slog.LevelError)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.run(ctx) }()
	for end := time.Now().Add(time.Minute); log.String() == ""; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the trouble is not logged")
		}
	}
	cancel()
	check(t, <-ended)
}

func TestCacheFlags(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ args, want string }{
		"nothing":                {"", ""},
		"all":                    {"--cache-address=:5859 --cache-key-file=/k --cache-peers=ns/app.kubernetes.io/name=closured,a=b", ""},
		"no peers":               {"--cache-address=10.0.0.1:5859 --cache-key-file=/k", ""},
		"an address without key": {"--cache-address=:5859", "give both"},
		"a key without address":  {"--cache-key-file=/k", "give both"},
		"no port":                {"--cache-address=here --cache-key-file=/k", "host:port"},
		"a relative key":         {"--cache-address=:1 --cache-key-file=k", "absolute"},
		"peers without cache":    {"--cache-peers=ns/a=b", "--cache-address"},
		"peers without labels":   {"--cache-address=:1 --cache-key-file=/k --cache-peers=ns", "namespace/label"},
	} {
		_, err := parseFlags(strings.Fields(tt.args), "node-a", io.Discard)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// keyed is an agent that has read a file with these keys.
func keyed(t *testing.T, keys []binarycache.SecretKey) *agent {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	var lines strings.Builder
	for _, key := range keys {
		lines.WriteString(key.Secret() + "\n")
	}
	check(t, os.WriteFile(file, []byte(lines.String()), 0o600))
	a := &agent{log: slog.New(slog.DiscardHandler), cfg: config{
		stateDir: dir, cache: cacheFlags{address: ":0", keyFile: file}, nixOption: list{"netrc-file=/nonexistent"},
	}}
	check(t, a.readCacheKeys(t.Context()))
	check(t, a.openPeers(t.Context()))
	return a
}

// As many agents have read the file before each change as after it.
func TestNodesServeEachOtherWhileTheKeyIsChanged(t *testing.T) {
	t.Parallel()
	old, now := cacheKey(t), cacheKey(t)
	var stages []*agent
	for _, keys := range [][]binarycache.SecretKey{{old}, {old, now}, {now, old}, {now}} {
		stages = append(stages, keyed(t, keys))
	}
	for i := range len(stages) - 1 {
		for _, pair := range [][2]*agent{{stages[i], stages[i+1]}, {stages[i+1], stages[i]}} {
			client, server := pair[0], pair[1]
			handler, err := binarycache.New(binarycache.Config{Store: struct{ binarycache.Store }{}, StoreDir: "/nonexistent", Keys: server.neighbours.keys})
			check(t, err)
			check(t, client.neighbours.passwords.tell(t.Context(), []string{"10.0.0.1:5859"}))
			text, err := os.ReadFile(client.netrc())
			check(t, err)
			words := strings.Fields(string(text)) // machine, login and password, each with its value
			req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/nix-cache-info", http.NoBody)
			req.SetBasicAuth(words[3], words[5])
			w := httptest.NewRecorder()
			if handler.ServeHTTP(w, req); w.Code != http.StatusOK {
				t.Errorf("at the change %d a node is not let in: %d", i+1, w.Code)
			}
			trusted := strings.Fields(client.daemonOptions()["extra-trusted-public-keys"])
			if !slices.ContainsFunc(server.neighbours.keys, func(k binarycache.SecretKey) bool { return slices.Contains(trusted, k.Public()) }) {
				t.Errorf("at the change %d a node is not believed", i+1)
			}
		}
	}
}

func TestTheDaemonBelievesTheInstallation(t *testing.T) {
	t.Parallel()
	old, now := cacheKey(t), cacheKey(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	check(t, os.WriteFile(file, []byte(now.Secret()+"\n\n"+old.Secret()+"\n"), 0o600))
	theirs := filepath.Join(dir, "theirs")
	check(t, os.WriteFile(theirs, []byte("machine theirs\n"), 0o600))
	a := &agent{log: slog.New(slog.DiscardHandler), cfg: config{
		stateDir: dir, cache: cacheFlags{address: ":0", keyFile: file}, nixOption: list{"netrc-file=" + theirs, "extra-trusted-public-keys=a:b"},
	}}
	check(t, a.readCacheKeys(t.Context()))
	check(t, a.openPeers(t.Context()))
	options := a.daemonOptions()
	if keys := strings.Fields(options["extra-trusted-public-keys"]); len(keys) != 3 || keys[0] != "a:b" || keys[1] != now.Public() || keys[2] != old.Public() {
		t.Errorf("the keys are %q", keys)
	}
	text, err := os.ReadFile(options["netrc-file"])
	check(t, err)
	if options["netrc-file"] == theirs || !strings.Contains(string(text), "machine theirs") {
		t.Errorf("netrc is %s: %q", options["netrc-file"], text)
	}
	if a.neighbours.substituters() != nil {
		t.Error("somebody is asked without a cluster")
	}
	for name, text := range map[string]string{"nothing": "\n", "no key": "secret words"} {
		check(t, os.WriteFile(file, []byte(text), 0o600))
		err := (&agent{cfg: a.cfg}).readCacheKeys(t.Context())
		if err == nil || strings.Contains(err.Error(), "secret words") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if options := (&agent{}).daemonOptions(); len(options) > 0 {
		t.Errorf("without a cache the options are %q", options)
	}
}
