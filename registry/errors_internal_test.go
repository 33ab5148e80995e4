package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"github.com/closured/closured/nixstore"
)

func TestEachKindOfErrorHasItsAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind   error
		status int
		code   string
		retry  bool
	}{
		{nixstore.ErrInvalid, http.StatusBadRequest, codeNameInvalid, false},
		{nixstore.ErrForbidden, http.StatusForbidden, codeDenied, false},
		{nixstore.ErrNotFound, http.StatusNotFound, codeNameUnknown, false},
		{nixstore.ErrEvaluation, http.StatusUnprocessableEntity, codeUnknown, false},
		{nixstore.ErrBuild, http.StatusUnprocessableEntity, codeUnknown, false},
		{nixstore.ErrUntrusted, http.StatusForbidden, codeDenied, false},
		{nixstore.ErrCorrupt, http.StatusInternalServerError, codeUnknown, false},
		{nixstore.ErrConflict, http.StatusInternalServerError, codeUnknown, false},
		{nixstore.ErrBusy, http.StatusTooManyRequests, codeTooMany, true},
		{nixstore.ErrUnavailable, http.StatusServiceUnavailable, codeUnknown, true},
		{nixstore.ErrNoSpace, http.StatusServiceUnavailable, codeUnknown, true},
		{syscall.ENOSPC, http.StatusServiceUnavailable, codeUnknown, true},
		{context.DeadlineExceeded, http.StatusGatewayTimeout, codeUnknown, false},
		{errors.New("anything"), http.StatusInternalServerError, codeUnknown, false},
	} {
		for _, err := range []error{c.kind, fmt.Errorf("pulling: %w", c.kind), errors.Join(nixstore.Fail(c.kind, "", "x"), errors.New("unpinning"))} {
			w := httptest.NewRecorder()
			if status := writeError(w, err); status != c.status || w.Code != c.status {
				t.Errorf("%v gave %d, want %d", err, w.Code, c.status)
			}
			if !strings.Contains(w.Body.String(), `"code":"`+c.code+`"`) || (w.Header().Get("Retry-After") != "") != c.retry {
				t.Errorf("%v gave %s with %v", err, w.Body, w.Header())
			}
		}
	}
}

func TestTheOutermostJudgementCounts(t *testing.T) {
	t.Parallel()
	inner := nixstore.Fail(nixstore.ErrUnavailable, "", "inner")
	outer := &busyError{nixstore.Fail(nixstore.ErrBusy, "", "outer"), nixstore.Progress{}}
	if a := judge(errors.Join(outer, inner)); a.status != http.StatusTooManyRequests {
		t.Errorf("the answer is %+v", a)
	}
	// What a server's own fault is does not depend on what was asked for.
	if a := judge(withCode(codeBlobUnknown, nixstore.Fail(nixstore.ErrCorrupt, "", "x"))); a.code != codeUnknown {
		t.Errorf("the answer is %+v", a)
	}
}

func TestMessagesNameNoPlaceOfTheNode(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"no space left below /var/lib/closured/nix":      "no space left below [path]",
		`cannot open "/etc/shadow": denied`:              `cannot open "[path]": denied`,
		"the path /nix/store/" + hash + "-x is unsigned": "the path /nix/store/" + hash + "-x is unsigned",
		"cc: /build/source/main.c:1: error":              "cc: /build/source/main.c:1: error",
		"https://cache.nixos.org/nix-cache-info is down": "https://cache.nixos.org/nix-cache-info is down",
		"1/2 of it, and/or more":                         "1/2 of it, and/or more",
		"(/root/x,/root/y)":                              "([path],[path])",
		"/root/z\x1b[31m":                                "[path]",
		"two\nlines":                                     "two lines",
		"a very long text " + strings.Repeat("ä", 1<<12): "a very long text " + strings.Repeat("ä", 991) + "…",
	} {
		if got := message(nixstore.Fail(nixstore.ErrInvalid, "", "%s", text)); !strings.HasPrefix(got, want) || len(got) > messageMax+4 {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}
