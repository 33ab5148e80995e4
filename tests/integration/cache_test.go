//go:build privileged

package integration_test

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/internal/logtest"
	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/tests/agent"
)

// spoiltWay is a way to serve a closure wrongly.
type spoiltWay struct {
	seed   string // also the name
	secret string // signs; default: the right key; "-": none
	kind   string
	spoil  http.Handler
	code   codes.Code
}

func (c *cacheServer) spoiltWays() []spoiltWay {
	const nar, info = ".nar", ".narinfo"
	return []spoiltWay{
		{seed: "unsigned", secret: "-", code: codes.FailedPrecondition},
		{seed: "signedwrongly", secret: c.wrong, code: codes.FailedPrecondition},
		{seed: "signatureofanother", kind: info, spoil: c.changed(line("Sig", "cache-1:"+strings.Repeat("A", 86)+"==")), code: codes.FailedPrecondition},
		{seed: "narsizelies", kind: info, spoil: c.changed(line("NarSize", "4096")), code: codes.FailedPrecondition},
		{seed: "referencesdropped", kind: info, spoil: c.changed(line("References", "")), code: codes.FailedPrecondition},
		{seed: "hashchanged", kind: info, spoil: c.changed(line("NarHash", "sha256:"+strings.Repeat("0", 52))), code: codes.FailedPrecondition},
		{seed: "infoisofanother", kind: info, spoil: c.changed(replace("infoisofanother", "infoisofsomebod")), code: codes.NotFound},
		{seed: "infoishtml", kind: info, spoil: c.changed(func(string) string { return "<html>login</html>\n" }), code: codes.DataLoss},
		{seed: "infoiscut", kind: info, spoil: c.changed(cut), code: codes.DataLoss},
		{seed: "altered", kind: nar, spoil: c.changed(replace("altered", "ALTERED")), code: codes.DataLoss},
		{seed: "truncated", kind: nar, spoil: c.changed(cut), code: codes.DataLoss},
		{seed: "empty", kind: nar, spoil: c.changed(func(string) string { return "" }), code: codes.DataLoss},
		{seed: "garbage", kind: nar, spoil: c.changed(strings.ToUpper), code: codes.DataLoss},
		{seed: "zeroeswithoutend", kind: nar, spoil: zeroes(), code: codes.DataLoss},
		{seed: "narstalls", kind: nar, spoil: c.stalling(), code: codes.Unavailable},
		{seed: "infostalls", kind: info, spoil: c.stalling(), code: codes.Unavailable},
		{seed: "narfails", kind: nar, spoil: c.status(500), code: codes.Unavailable},
		{seed: "infofails", kind: info, spoil: c.status(503), code: codes.Unavailable},
		{seed: "forbidden", kind: nar, spoil: c.status(403), code: codes.NotFound}, // for Nix, as S3 says so of what is not there
		{seed: "narismissing", kind: nar, spoil: c.status(404), code: codes.NotFound},
		{seed: "infoismissing", kind: info, spoil: c.status(404), code: codes.NotFound},
	}
}

// TestFault41And42SpoiltCaches pushes one closure for each way to spoil it to one
// cache, and asks one agent for all of them. None is ever mounted, each refusal
// names cache and path, and in the end, when the cache serves what it should, those
// that were only unreachable are there.
func TestFault41And42SpoiltCaches(t *testing.T) { //nolint:tparallel // one agent, and each looks at what is left
	t.Parallel()
	c := newCacheServer(t)
	tests := c.spoiltWays()
	seeds := map[string][]string{c.right: {"good"}}
	for _, test := range tests {
		secret := c.right
		if test.secret != "" {
			secret = strings.TrimPrefix(test.secret, "-")
		}
		seeds[secret] = append(seeds[secret], test.seed)
	}
	roots := map[string]string{}
	for secret, seeds := range seeds {
		for i, root := range c.add(t, secret, seeds...) {
			roots[seeds[i]] = root
		}
	}
	for _, test := range tests {
		if test.spoil != nil {
			c.spoil(t, roots[test.seed], test.kind, test.spoil)
		}
	}
	n := start(t, agent.Config{Args: c.flags()})
	t.Run("spoilt", func(t *testing.T) {
		for i, test := range tests {
			t.Run(test.seed, func(t *testing.T) {
				t.Parallel()
				n := n.as(t)
				v := agent.StorePath(i, roots[test.seed])
				err := n.Publish(t.Context(), v)
				words := []string{"/nix/store/"}
				if test.code != codes.NotFound {
					words = append(words, c.url)
				}
				requireRefusal(t, err, test.code.String(), words...)
				if !strings.Contains(err.Error(), "-syn-"+test.seed) {
					t.Errorf("the message does not name the path: %v", err)
				}
				n.requireAbsent(roots[test.seed])
				if _, err := os.Lstat(n.Target(v)); err == nil {
					t.Error("there is something at the target")
				}
				n.unpublish(v)
			})
		}
	})
	n.requireNothing()
	n.requireIdle()
	v := agent.StorePath(99, roots["good"]) // all the bad ones were no harm to the good one
	n.publish(v)
	n.requireClosure(v, roots["good"])
	n.unpublish(v)
	c.mend()
	for i, test := range tests {
		if test.code == codes.Unavailable { // not remembered
			v := agent.StorePath(i, roots[test.seed])
			n.publish(v)
			n.requireClosure(v, roots[test.seed])
			n.unpublish(v)
		}
	}
	n.requireNothing()
}

// requireAbsent checks that root is neither valid nor on the disk.
func (n node) requireAbsent(root string) {
	n.t.Helper()
	if _, err := os.Lstat(n.StateDir() + root); err == nil {
		n.t.Errorf("%s is in the store", root)
	}
	if err := nixtest.Command(n.t, n.StateDir(), "nix-store", "--check-validity", root).Run(); err == nil {
		n.t.Errorf("%s is valid", root)
	}
}

func zeroes() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		block := make([]byte, 1<<16)
		for r.Context().Err() == nil {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
}

// TestFault42LiesThatDoNotMatter: a FileSize that lies and a body that goes on
// after the archive change nothing of what was signed: a pod may get the closure,
// but nothing else.
func TestFault42LiesThatDoNotMatter(t *testing.T) {
	t.Parallel()
	c := newCacheServer(t)
	seeds := []string{"filesizelies", "bodywithoutend"}
	roots := map[string]string{}
	for i, root := range c.add(t, c.right, seeds...) {
		roots[seeds[i]] = root
	}
	c.spoil(t, roots["filesizelies"], ".narinfo", c.changed(line("FileSize", "99999999999")))
	c.spoil(t, roots["bodywithoutend"], ".nar", c.endless())
	n := start(t, agent.Config{Args: c.flags()})
	for i, seed := range seeds {
		v := agent.StorePath(i, roots[seed])
		began := time.Now()
		err := n.Publish(t.Context(), v)
		t.Logf("%s: %v after %s", seed, err, time.Since(began))
		switch {
		case err == nil:
			n.requireClosure(v, roots[seed])
		case seed == "filesizelies" || status.Code(err) != codes.DataLoss:
			t.Errorf("%s: %v", seed, err)
		}
		n.unpublish(v)
	}
	n.requireIdle()
	n.requireNothing()
}

// TestFault42ArchiveWithoutEnd serves an archive whose one file claims a terabyte,
// and goes on sending it. Nix does not stop it at the size that was signed: the
// agent does, before the disk is full.
func TestFault42ArchiveWithoutEnd(t *testing.T) {
	t.Parallel()
	c := newCacheServer(t)
	root := c.add(t, c.right, "terabyte")[0]
	c.spoil(t, root, ".nar", terabyte())
	dir := smallDisk(t, 96)
	n := start(t, agent.Config{Dir: dir, Args: c.flags()})
	there := agent.StorePath(1, n.textClosure(3, "there"))
	n.publish(there)
	v := agent.StorePath(2, root)
	err := n.Publish(t.Context(), v)
	if status.Code(err) != codes.DataLoss || !strings.Contains(err.Error(), "sends more than") {
		t.Errorf("the endless archive gives %v", err)
	}
	n.requireAbsent(root)
	n.unpublish(v)
	n.requireIdle()
	n.requireClosure(there, there.Attributes["storePath"])
	n.unpublish(there)
	n.requireNothing()
	c.mend()
	deadline := time.Now().Add(time.Minute) // the failure is remembered for a while
	for err != nil && time.Now().Before(deadline) {
		time.Sleep(time.Second)
		err = n.Publish(t.Context(), v)
	}
	n.requireClosure(v, root)
	n.unpublish(v)
}

// terabyte is the beginning of an archive with one file, and zeroes.
func terabyte() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var header bytes.Buffer
		for _, word := range []string{"nix-archive-1", "(", "type", "regular", "contents"} {
			_ = binary.Write(&header, binary.LittleEndian, uint64(len(word))) // a buffer never fails
			header.WriteString(word + strings.Repeat("\x00", (8-len(word)%8)%8))
		}
		_ = binary.Write(&header, binary.LittleEndian, uint64(1<<40))
		if _, err := w.Write(header.Bytes()); err == nil {
			zeroes().ServeHTTP(w, r)
		}
	})
}

// TestFault42SecondCacheHelps: the next substituter is asked when the first fails.
func TestFault42SecondCacheHelps(t *testing.T) {
	t.Parallel()
	c := newCacheServer(t)
	root := c.add(t, c.right, "second")[0]
	bad := newCacheServer(t)
	bad.spoilt["/nix-cache-info"] = bad.status(500)
	n := start(t, agent.Config{Args: append([]string{"--substituter", bad.url}, c.flags()...)})
	v := agent.StorePath(1, root)
	n.publish(v)
	n.requireClosure(v, root)
	n.unpublish(v)
}

// TestFault47CredentialsOfACache: they reach the cache and nobody else.
func TestFault47CredentialsOfACache(t *testing.T) {
	t.Parallel()
	const user, secret = "someuser", "canary-cache-password"
	c := newCacheServer(t)
	signed := c.add(t, c.right, "good", "fails")
	good, failing, bad := signed[0], signed[1], c.add(t, "", "unsigned")[0]
	c.spoil(t, failing, ".nar", c.status(500))
	authorised := 0
	files := http.FileServer(http.Dir(c.dir))
	c.mu.Lock()
	c.spoilt["/nix-cache-info"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name, password, _ := r.BasicAuth(); name == user && password == secret {
			authorised++
		}
		files.ServeHTTP(w, r)
	})
	c.mu.Unlock()
	c.url = strings.Replace(c.url, "http://", "http://"+user+":"+secret+"@", 1)
	var log logtest.Buffer
	n := start(t, agent.Config{Args: append(c.flags(), "--log-level", "debug"), Log: &log})
	watch := watchFor(n, secret)
	v := agent.StorePath(1, good)
	n.publish(v)
	n.requireClosure(v, good)
	n.unpublish(v)
	texts := []string{
		n.refused(agent.StorePath(2, bad), failed, "/nix/store/", "next: sign it"),
	}
	for i, root := range []string{failing, valid} {
		v := agent.StorePath(3+i, root)
		err := n.Publish(t.Context(), v)
		texts = append(texts, status.Convert(err).Message())
		n.unpublish(v)
	}
	if authorised == 0 {
		t.Error("the cache never saw the credentials")
	}
	n.requireSecret(secret, watch(), append(texts, log.String()))
	conf, err := os.Stat(filepath.Join(n.StateDir(), "etc", "nix", "nix.conf"))
	if err != nil || conf.Mode().Perm() != 0o600 {
		t.Errorf("the file with the credentials: %v, %v", conf.Mode(), err)
	}
}
