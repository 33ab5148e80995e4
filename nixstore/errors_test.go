package nixstore_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/closured/closured/nixstore"
)

func TestAFailureSaysCauseNextStepAndLog(t *testing.T) {
	t.Parallel()
	f := nixstore.Fail(nixstore.ErrBuild, "read the log", "the builder of %s failed", "hello")
	if got, want := f.Error(), "the builder of hello failed; next: read the log"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	f.Log = []string{"one", "two"}
	if got, want := f.Error(), "the builder of hello failed; next: read the log; log: one | two"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := nixstore.Fail(nixstore.ErrBusy, "", "wait").Error(), "wait"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAFailureIsItsKindAndNoOther(t *testing.T) {
	t.Parallel()
	kinds := []error{
		nixstore.ErrInvalid, nixstore.ErrForbidden, nixstore.ErrNotFound, nixstore.ErrEvaluation, nixstore.ErrBuild,
		nixstore.ErrUntrusted, nixstore.ErrCorrupt, nixstore.ErrConflict, nixstore.ErrBusy, nixstore.ErrUnavailable, nixstore.ErrNoSpace,
	}
	for i, kind := range kinds {
		err := fmt.Errorf("realising: %w", nixstore.Fail(kind, "", "x"))
		for j, other := range kinds {
			if errors.Is(err, other) != (i == j) {
				t.Errorf("%v is %v: %t", kind, other, errors.Is(err, other))
			}
		}
		if _, ok := errors.AsType[*nixstore.Failure](err); !ok {
			t.Errorf("%v is no Failure", err)
		}
	}
}

func FuzzQuote(f *testing.F) {
	for _, s := range []string{"", "x", "a\nb", "\x00\x1b[31m", strings.Repeat("ä", 100), strings.Repeat("\xff", 81)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q := nixstore.Quote(s)
		// Each byte takes at most four ("\xff"), a rune of ten bytes at most ("\U0010ffff").
		if len(q) > 4*80+40 || !utf8.ValidString(q) || strings.ContainsFunc(q, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%q is quoted as %q", s, q)
		}
		if len(s) <= 80 && strings.Contains(q, "…") && !strings.Contains(s, "…") {
			t.Errorf("%q was cut", s)
		}
	})
}

func ExampleFail() {
	err := nixstore.Fail(nixstore.ErrNotFound, "push it to the cache", "no cache has %s", "/nix/store/…-hello")
	fmt.Println(err)
	fmt.Println(errors.Is(err, nixstore.ErrNotFound))
	// Output:
	// no cache has /nix/store/…-hello; next: push it to the cache
	// true
}
