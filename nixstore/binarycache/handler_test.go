package binarycache_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/closured/closured/internal/logtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/binarycache"
)

// shelf is a store in memory whose files are on the disk.
type shelf struct {
	dir   string
	infos map[string]nixstore.PathInfo // by hash
	err   error                        // what the database says instead
}

func (s *shelf) FindByHash(_ context.Context, hash string) (nixstore.StorePath, error) {
	if info, ok := s.infos[hash]; ok || s.err != nil {
		return info.Path, s.err
	}
	return nixstore.StorePath{}, nixstore.Fail(nixstore.ErrNotFound, "", "no path has the hash %s", hash)
}

func (s *shelf) Info(_ context.Context, path nixstore.StorePath) (nixstore.PathInfo, error) {
	return s.infos[path.Hash()], s.err
}

const (
	fileHash = "0123456789abcdfghijklmnpqrsvwxyz"
	gonePath = "00000000000000000000000000000000"
)

// narOfFile is the NAR of a file, written by hand.
func narOfFile(text string) []byte {
	var b bytes.Buffer
	for _, s := range []string{"nix-archive-1", "(", "type", "regular", "contents", text, ")"} {
		b.Write([]byte{byte(len(s)), byte(len(s) >> 8), byte(len(s) >> 16), byte(len(s) >> 24), 0, 0, 0, 0})
		b.WriteString(s)
		b.Write(make([]byte, -len(s)&7))
	}
	return b.Bytes()
}

// put puts the file into the store.
func (s *shelf) put(tb testing.TB, text string, references ...string) nixstore.PathInfo {
	tb.Helper()
	path := nixstore.MustParseStorePath("/nix/store/" + fileHash + "-file")
	nar := narOfFile(text)
	sum := sha256.Sum256(nar)
	info := nixstore.PathInfo{Path: path, NarHash: "sha256-" + base64.StdEncoding.EncodeToString(sum[:]), NarSize: int64(len(nar))}
	for _, r := range references {
		info.References = append(info.References, nixstore.MustParseStorePath(r))
	}
	s.infos[fileHash] = info
	s.change(tb, text)
	return info
}

// change changes the file of the store behind the database's back.
func (s *shelf) change(tb testing.TB, text string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, fileHash+"-file"), []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// cache is a binary cache that is served.
type cache struct {
	*shelf
	key     binarycache.SecretKey
	url     string
	metrics *prometheus.Registry
	log     *logtest.Buffer
}

func mustKey(tb testing.TB, name string) binarycache.SecretKey {
	tb.Helper()
	key, err := binarycache.GenerateKey(name)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func newCache(tb testing.TB, change func(*binarycache.Config)) *cache {
	tb.Helper()
	c := &cache{
		shelf: &shelf{dir: tb.TempDir(), infos: map[string]nixstore.PathInfo{}},
		key:   mustKey(tb, "install-1"), metrics: prometheus.NewRegistry(), log: new(logtest.Buffer),
	}
	cfg := binarycache.Config{
		Store: c.shelf, StoreDir: c.dir, Keys: []binarycache.SecretKey{c.key}, Registerer: c.metrics,
		Log: slog.New(slog.NewTextHandler(c.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	handler, err := binarycache.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	server := httptest.NewServer(handler)
	tb.Cleanup(server.Close)
	tb.Cleanup(http.DefaultClient.CloseIdleConnections)
	c.url = server.URL
	return c
}

// passwordOf gives what a netrc says of the key.
func passwordOf(tb testing.TB, key binarycache.SecretKey) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "netrc")
	if err := (binarycache.Netrc{Path: path, Key: key}).Write([]string{"peer:1"}); err != nil {
		tb.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	words := strings.Fields(string(data))
	if len(words) != 6 || words[0] != "machine" || words[1] != "peer" || words[3] != "closured" {
		tb.Fatalf("the netrc is %q", data)
	}
	return words[5]
}

// reply is an answer that was read to its end.
type reply struct {
	code   int
	header http.Header
	length int64 // as declared
	body   []byte
}

func (c *cache) do(tb testing.TB, method, path, password string) (reply, error) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, c.url+path, nil)
	if err != nil {
		tb.Fatal(err)
	}
	if password != "" {
		req.SetBasicAuth("closured", password)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, resp.ContentLength, body}, err
}

func (c *cache) get(tb testing.TB, path string) (reply, error) {
	tb.Helper()
	return c.do(tb, http.MethodGet, path, passwordOf(tb, c.key))
}

// content gives the address of the file's content.
func (c *cache) content(tb testing.TB) string {
	tb.Helper()
	got, err := c.get(tb, "/"+fileHash+".narinfo")
	if err != nil {
		tb.Fatal(err)
	}
	return "/" + field(string(got.body), "URL")
}

func TestANarinfoIsThisTextAndSigned(t *testing.T) {
	t.Parallel()
	c := newCache(t, nil)
	other := "/nix/store/00000000000000000000000000000000-other"
	info := c.put(t, "hello\n", other, "/nix/store/"+fileHash+"-file")
	got, err := c.get(t, "/"+fileHash+".narinfo")
	if err != nil || got.code != http.StatusOK || got.header.Get("Content-Type") != "text/x-nix-narinfo" {
		t.Fatalf("%d %s, %v", got.code, got.header, err)
	}
	text, signature, ok := strings.Cut(string(got.body), "Sig: ")
	hash := field(text, "NarHash")
	want := "StorePath: " + info.Path.String() + "\nURL: nar/" + fileHash + "-" + strings.TrimPrefix(hash, "sha256:") + ".nar\n" +
		"Compression: none\nFileHash: " + hash + "\nFileSize: 120\nNarHash: " + hash + "\nNarSize: 120\n" +
		"References: 00000000000000000000000000000000-other " + fileHash + "-file\n"
	if !ok || text != want || len(hash) != len("sha256:")+52 {
		t.Errorf("got\n%s, want\n%s", got.body, want)
	}
	fingerprint := "1;" + info.Path.String() + ";" + hash + ";120;" + other + "," + info.Path.String()
	checkSignature(t, c.key, fingerprint, strings.TrimSpace(signature))
}

func field(text, name string) string {
	_, rest, _ := strings.Cut(text, name+": ")
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

func checkSignature(t *testing.T, key binarycache.SecretKey, text, signature string) {
	t.Helper()
	name, encoded, _ := strings.Cut(signature, ":")
	_, public, _ := strings.Cut(key.Public(), ":")
	sig, err := base64.StdEncoding.DecodeString(encoded)
	raw, err2 := base64.StdEncoding.DecodeString(public)
	if err != nil || err2 != nil || name != key.Name() || !ed25519.Verify(raw, []byte(text), sig) {
		t.Errorf("the signature %q does not fit %q (%v, %v)", signature, text, err, err2)
	}
}

func TestAContentIsItsNAR(t *testing.T) {
	t.Parallel()
	c := newCache(t, nil)
	c.put(t, "hello\n")
	address := c.content(t)
	got, err := c.get(t, address)
	if err != nil || got.code != http.StatusOK || !bytes.Equal(got.body, narOfFile("hello\n")) {
		t.Errorf("%d, %d bytes, %v", got.code, len(got.body), err)
	}
	got, err = c.do(t, http.MethodHead, address, passwordOf(t, c.key))
	if err != nil || got.code != http.StatusOK || got.length != 120 || len(got.body) != 0 {
		t.Errorf("HEAD: %d, length %d, %d bytes, %v", got.code, got.length, len(got.body), err)
	}
	c.put(t, "another content") // registered anew
	if got, err := c.get(t, address); err != nil || got.code != http.StatusNotFound {
		t.Errorf("the old content: %d, %v", got.code, err)
	}
}

func TestWithoutThePasswordThereIsNothing(t *testing.T) {
	t.Parallel()
	old := mustKey(t, "install-0")
	c := newCache(t, func(cfg *binarycache.Config) { cfg.Keys = append(cfg.Keys, old) })
	c.put(t, "x")
	for _, path := range []string{"/nix-cache-info", "/" + fileHash + ".narinfo", "/" + gonePath + ".narinfo", "/", "/nar/x"} {
		for name, password := range map[string]string{
			"none": "", "another installation's": passwordOf(t, mustKey(t, "install-1")), "the public key": c.key.Public(),
			"the secret key": c.key.Secret(), "a longer one": passwordOf(t, c.key) + "x", "a shorter one": passwordOf(t, c.key)[1:],
		} {
			got, err := c.do(t, http.MethodGet, path, password)
			if err != nil || got.code != http.StatusUnauthorized || !strings.HasPrefix(got.header.Get("WWW-Authenticate"), "Basic ") {
				t.Errorf("%s with the password %s: %d %s %v", path, name, got.code, got.header, err)
			}
			if strings.Contains(string(got.body), fileHash) {
				t.Errorf("%s with the password %s: %q", path, name, got.body)
			}
		}
	}
	for _, key := range []binarycache.SecretKey{c.key, old} {
		if got, err := c.do(t, http.MethodGet, "/nix-cache-info", passwordOf(t, key)); err != nil || got.code != http.StatusOK {
			t.Errorf("with the password of %s: %d, %v", key, got.code, err)
		}
	}
	if strings.Contains(c.log.String(), passwordOf(t, c.key)) || strings.Contains(c.log.String(), c.key.Secret()) {
		t.Error("the log tells the password")
	}
}

func TestEachKeySigns(t *testing.T) {
	t.Parallel()
	next := mustKey(t, "install-2")
	c := newCache(t, func(cfg *binarycache.Config) { cfg.Keys = append(cfg.Keys, next) })
	c.put(t, "x")
	got, err := c.get(t, "/"+fileHash+".narinfo")
	if text := string(got.body); err != nil || strings.Count(text, "\nSig: ") != 2 || !strings.Contains(text, "\nSig: install-1:") || !strings.Contains(text, "\nSig: install-2:") {
		t.Errorf("the narinfo is %s", text)
	}
}

func TestAnswersToOtherRequests(t *testing.T) {
	t.Parallel()
	c := newCache(t, nil)
	c.put(t, "x")
	sum := strings.Repeat("0", 52)
	for name, want := range map[string]struct {
		method, path string
		code         int
	}{
		"what Nix asks first":         {"GET", "/nix-cache-info", 200},
		"the same without body":       {"HEAD", "/nix-cache-info", 200},
		"a path that is here":         {"HEAD", "/" + fileHash + ".narinfo", 200},
		"a path that is not here":     {"GET", "/" + gonePath + ".narinfo", 404},
		"a content that is not here":  {"GET", "/nar/" + gonePath + "-" + sum + ".nar", 404},
		"another content of a path":   {"GET", "/nar/" + fileHash + "-" + sum + ".nar", 404},
		"no list":                     {"GET", "/", 404},
		"no list of contents":         {"GET", "/nar/", 404},
		"a listing of a path":         {"GET", "/" + fileHash + ".ls", 404},
		"a log":                       {"GET", "/log/" + fileHash + "-x.drv", 404},
		"a hash with wrong digits":    {"GET", "/" + strings.Repeat("e", 32) + ".narinfo", 400},
		"a hash that is a name":       {"GET", "/" + fileHash + "-file.narinfo", 400},
		"a path that climbs":          {"GET", "/nar/../../etc/passwd", 404},
		"a path that climbs, escaped": {"GET", "/%2e%2e/%2e%2e/etc/passwd.narinfo", 400},
		"a NUL":                       {"GET", "/%00" + fileHash[1:] + ".narinfo", 400},
		"an upload":                   {"PUT", "/" + fileHash + ".narinfo", 405},
		"a deletion":                  {"DELETE", "/" + fileHash + ".narinfo", 405},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := c.do(t, want.method, want.path, passwordOf(t, c.key))
			if err != nil || got.code != want.code {
				t.Errorf("%s %s: %d %q, want %d (%v)", want.method, want.path, got.code, got.body, want.code, err)
			}
			if want.code >= 400 && !strings.HasPrefix(got.header.Get("Content-Type"), "text/plain") {
				t.Errorf("the type is %q", got.header.Get("Content-Type"))
			}
		})
	}
}

func TestWhatNixAsksFirst(t *testing.T) {
	t.Parallel()
	got, err := newCache(t, nil).get(t, "/nix-cache-info")
	if err != nil || string(got.body) != "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 20\n" {
		t.Errorf("nix-cache-info is %q, %v", got.body, err)
	}
}

func TestErrorsOfTheStoreBecomeStatuses(t *testing.T) {
	t.Parallel()
	c := newCache(t, nil)
	c.put(t, "x")
	for _, want := range []struct {
		err  error
		code int
	}{
		{nixstore.Fail(nixstore.ErrNotFound, "", "canary"), 404},
		{nixstore.Fail(nixstore.ErrInvalid, "", "canary"), 400},
		{nixstore.Fail(nixstore.ErrUnavailable, "", "canary"), 503},
		{nixstore.Fail(nixstore.ErrBusy, "", "canary"), 503},
		{nixstore.Fail(nixstore.ErrCorrupt, "", "canary"), 500},
		{errors.New("canary: disk I/O error in /var/lib/secret"), 500},
	} {
		c.err = want.err
		got, err := c.get(t, "/"+fileHash+".narinfo")
		if err != nil || got.code != want.code || (got.header.Get("Retry-After") != "") != (want.code == 503) {
			t.Errorf("%v: %d %s, %v", want.err, got.code, got.header, err)
		}
		if strings.Contains(string(got.body), "/var/lib") {
			t.Errorf("it tells of the node: %q", got.body)
		}
	}
}

func TestDamagedContentIsNeverWhole(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"small": 1000, "large": 5 << 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCache(t, nil)
			text := strings.Repeat("0123456789abcdef", size/16)
			c.put(t, text)
			address := c.content(t)
			c.change(t, text[:size/16*16-1]+"X")
			got, err := c.get(t, address)
			if cut(size) == 0 && (err != nil || got.code != http.StatusInternalServerError || bytes.Contains(got.body, []byte("abcdef0123"))) {
				t.Errorf("%d %.200q, %v", got.code, got.body, err)
			}
			if cut(size) == 1 && (!errors.Is(err, io.ErrUnexpectedEOF) || int64(len(got.body)) >= got.length) {
				t.Errorf("%d: %d bytes of %d, %v", got.code, len(got.body), got.length, err)
			}
			eventuallyTrue(t, "the operator is told", func() bool {
				return strings.Contains(c.log.String(), "level=ERROR") && c.metric(t, "closured_binarycache_cut_total", "reason", "store") == float64(cut(size))
			})
		})
	}
}

// cut is 1 for what is more than a buffer.
func cut(size int) int {
	if size > 256<<10 {
		return 1
	}
	return 0
}

// metric gives the value of a metric with a label.
func (c *cache) metric(tb testing.TB, name, label, value string) float64 {
	tb.Helper()
	families, err := c.metrics.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			match := label == ""
			for _, l := range m.GetLabel() {
				match = match || l.GetName() == label && l.GetValue() == value
			}
			if f.GetName() == name && match {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func TestABodyIsRefusedAndNotWaitedFor(t *testing.T) {
	t.Parallel()
	c := newCache(t, nil)
	reader, writer := io.Pipe()
	t.Cleanup(func() { _ = writer.Close() })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+"/nix-cache-info", reader)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("closured", passwordOf(t, c.key))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("the status is %d", resp.StatusCode)
	}
}

func TestOneStreamWaitsForAnother(t *testing.T) {
	t.Parallel()
	c := newCache(t, func(cfg *binarycache.Config) { cfg.Streams = 1 })
	text := strings.Repeat("0123456789abcdef", 4<<20) // more than the buffers of a connection hold
	c.put(t, text)
	address, password := c.content(t), passwordOf(t, c.key)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+address, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("closured", password)
	first, err := http.DefaultClient.Do(req) // and is not read
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() {
		got, err := c.do(t, http.MethodGet, address, password)
		if len(got.body) != len(narOfFile(text)) {
			err = errors.Join(err, errors.New("it has "+strconv.Itoa(len(got.body))+" bytes"))
		}
		second <- err
	}()
	if n := c.metric(t, "closured_binarycache_streams", "", ""); n != 1 {
		t.Errorf("%v streams", n)
	}
	select {
	case err := <-second:
		t.Errorf("the second did not wait: %v", err)
	default:
	}
	_ = first.Body.Close() // the client leaves
	if err := <-second; err != nil {
		t.Errorf("the second: %v", err)
	}
	eventuallyTrue(t, "it was the client's fault", func() bool {
		return c.metric(t, "closured_binarycache_cut_total", "reason", "client") == 1
	})
}

func TestNewSaysEverythingThatIsWrong(t *testing.T) {
	t.Parallel()
	_, err := binarycache.New(binarycache.Config{StoreDir: "relative", Streams: -1, Keys: []binarycache.SecretKey{{}}})
	if !errors.Is(err, nixstore.ErrInvalid) || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("the error is %v", err)
	}
}

func TestWhoHasNoPasswordHoldsNoConnection(t *testing.T) {
	t.Parallel()
	c := newCache(t, nil)
	for password, want := range map[string]int{"": http.StatusUnauthorized, "wrong": http.StatusUnauthorized, passwordOf(t, c.key): http.StatusOK} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+"/nix-cache-info", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("closured", password)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close() // its words do not matter
		if resp.StatusCode != want || resp.Close != (want == http.StatusUnauthorized) {
			t.Errorf("the answer is %d, and it closes the connection: %t", resp.StatusCode, resp.Close)
		}
	}
}
