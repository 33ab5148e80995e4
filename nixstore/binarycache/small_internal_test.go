package binarycache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/closured/closured/nixstore"
)

func TestBase32IsNixs(t *testing.T) {
	t.Parallel()
	for digits, want := range map[string]string{ // of nix-hash --type sha256 --to-base32
		"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad": "1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s",
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855": "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
	} {
		raw, err := hex.DecodeString(digits)
		if got := base32(raw); err != nil || got != want || len(got) != base32Len || !isBase32(got, base32Len) {
			t.Errorf("%s is %q, want %q (%v)", digits, got, want, err)
		}
	}
}

func TestDigestsThatAreNone(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256(nil)
	for _, bad := range []string{"", "sha256-", "sha256-AAAA", "sha512-" + strings.Repeat("A", 43) + "=", "sha256:" + hex.EncodeToString(sum[:])} {
		if _, err := digest(bad); !errors.Is(err, nixstore.ErrCorrupt) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := describe(nixstore.PathInfo{NarHash: "sha256-" + strings.Repeat("A", 43) + "="}); !errors.Is(err, nixstore.ErrCorrupt) {
		t.Errorf("without a size: %v", err)
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, s := range []string{
		"/nix-cache-info", "/0123456789abcdfghijklmnpqrsvwxyz.narinfo", "/nar/", "/../x.narinfo", "//.narinfo", "/nar/.nar", "",
		"/nar/0123456789abcdfghijklmnpqrsvwxyz-0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73.nar",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		to, err := parseRequest(path)
		if err != nil {
			if to.kind != kindOther || to.hash != "" || !errors.Is(err, nixstore.ErrInvalid) && !errors.Is(err, nixstore.ErrNotFound) {
				t.Errorf("%q is %+v, %v", path, to, err)
			}
			return
		}
		if to.kind == kindNarInfo && path != "/"+to.hash+".narinfo" && path != to.hash+".narinfo" ||
			to.kind == kindNar && path != "/nar/"+to.hash+"-"+to.content+".nar" {
			t.Errorf("%q is %+v", path, to)
		}
		if to.kind != kindCacheInfo && !isBase32(to.hash, hashLen) {
			t.Errorf("%q has the hash %q", path, to.hash)
		}
	})
}

func TestWhoWaitsTooLongIsSentAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, err := newMetrics(nil)
		if err != nil {
			t.Fatal(err)
		}
		h := &Handler{slots: make(chan struct{}, 1), metrics: m}
		release, err := h.slot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := h.slot(t.Context()); !errors.Is(err, nixstore.ErrBusy) || time.Since(began) != slotWait {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h.slot(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("a client that left: %v", err)
		}
		release()
		if _, err := h.slot(t.Context()); err != nil {
			t.Errorf("when it is free again: %v", err)
		}
	})
}

// watch is a connection that notes its deadlines.
type watch struct {
	http.ResponseWriter

	deadlines []time.Time
}

func (w *watch) SetWriteDeadline(t time.Time) error {
	w.deadlines = append(w.deadlines, t)
	return nil
}

func TestEachBufferHasItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &watch{ResponseWriter: httptest.NewRecorder()}
		a := &answer{to: w, control: http.NewResponseController(w)}
		for i := range 3 {
			time.Sleep(time.Hour)
			if _, err := a.Write([]byte("x")); err != nil || len(w.deadlines) != i+1 || time.Until(w.deadlines[i]) != writeLimit {
				t.Errorf("the deadlines are %v, %v", w.deadlines, err)
			}
		}
		if a.bytes != 3 || a.status != http.StatusOK {
			t.Errorf("%d bytes, status %d", a.bytes, a.status)
		}
	})
}
