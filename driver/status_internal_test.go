package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/nixstore"
)

func TestStatusTable(t *testing.T) {
	t.Parallel()
	failure := func(kind error) error { return nixstore.Fail(kind, "do this", "that is wrong") }
	for _, row := range []struct {
		name  string
		err   error
		code  codes.Code
		final bool
	}{
		{"a malformed attribute", failure(nixstore.ErrInvalid), codes.InvalidArgument, true},
		{"what the policy refuses", failure(nixstore.ErrForbidden), codes.PermissionDenied, true},
		{"a path that nobody has", failure(nixstore.ErrNotFound), codes.NotFound, true},
		{"an expression that fails", failure(nixstore.ErrEvaluation), codes.FailedPrecondition, true},
		{"a builder that fails", failure(nixstore.ErrBuild), codes.FailedPrecondition, true},
		{"a missing signature", failure(nixstore.ErrUntrusted), codes.FailedPrecondition, true},
		{"wrong content", failure(nixstore.ErrCorrupt), codes.DataLoss, true},
		{"another volume at the target", failure(nixstore.ErrConflict), codes.AlreadyExists, true},
		{"work that goes on", failure(nixstore.ErrBusy), codes.Aborted, false},
		{"a daemon that is away", failure(nixstore.ErrUnavailable), codes.Unavailable, false},
		{"a full disk", failure(nixstore.ErrNoSpace), codes.ResourceExhausted, false},
		{"a full disk that nobody judged", &fs.PathError{Op: "mkdir", Path: "/x", Err: syscall.ENOSPC}, codes.ResourceExhausted, false},
		{"a full quota", fmt.Errorf("writing: %w", syscall.EDQUOT), codes.ResourceExhausted, false},
		{"a deadline", fmt.Errorf("waiting: %w", context.DeadlineExceeded), codes.DeadlineExceeded, false},
		{"a caller that left", context.Canceled, codes.Canceled, false},
		{"a mount that fails", fmt.Errorf("mounting: %w", syscall.EPERM), codes.Internal, true},
		{"a bare sentinel", nixstore.ErrBuild, codes.FailedPrecondition, true},
		{"a failure of unknown kind", failure(errors.New("else")), codes.Internal, true},
		{"a failure inside others", fmt.Errorf("realising: %w", errors.Join(errors.New("x"), failure(nixstore.ErrUntrusted))), codes.FailedPrecondition, true},
		{"a judgement that has a context error beside it", errors.Join(context.Canceled, failure(nixstore.ErrBuild)), codes.FailedPrecondition, true},
		{"a status of another library", status.Error(codes.Unknown, "x"), codes.Internal, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if got := status.Code(toStatus(row.err)); got != row.code {
				t.Errorf("code %s, want %s", got, row.code)
			}
			if got := final(row.err); got != row.final {
				t.Errorf("final is %t, want %t", got, row.final)
			}
			if details := status.Convert(toStatus(row.err)).Details(); len(details) > 0 {
				t.Errorf("the status has details: %v", details)
			}
		})
	}
}

func TestEverySentinelHasARow(t *testing.T) {
	t.Parallel()
	for _, kind := range []error{
		nixstore.ErrInvalid, nixstore.ErrForbidden, nixstore.ErrNotFound, nixstore.ErrEvaluation, nixstore.ErrBuild, nixstore.ErrUntrusted,
		nixstore.ErrCorrupt, nixstore.ErrConflict, nixstore.ErrBusy, nixstore.ErrUnavailable, nixstore.ErrNoSpace,
	} {
		if codeOf(kind) == codes.Internal {
			t.Errorf("%q has no code", kind)
		}
	}
}

func TestMessageBeginsWithTheFailure(t *testing.T) {
	t.Parallel()
	first := nixstore.Fail(nixstore.ErrInvalid, "fix it", "first cause")
	second := nixstore.Fail(nixstore.ErrInvalid, "", "second cause")
	for _, row := range []struct {
		name string
		err  error
		want string
	}{
		{"alone", first, "first cause; next: fix it"},
		{"wrapped", fmt.Errorf("publishing: realising: %w", first), "first cause; next: fix it"},
		{"several", errors.Join(first, second), "first cause; next: fix it; also: second cause"},
		{"beside others", errors.Join(errors.New("noise"), second), "second cause"},
		{"none", errors.New("mounting: permission denied"), "mounting: permission denied"},
	} {
		if got := message(row.err); got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}

// TestMessageEndsWithTheLog: of a log only the end stays, which says what a builder
// died of, and neither crowds the other out.
func TestMessageEndsWithTheLog(t *testing.T) {
	t.Parallel()
	lines := make([]string, 20)
	for i := range lines {
		lines[i] = strings.Repeat("line ", 20)
	}
	lines[19] = "fatal: é"
	long := &nixstore.Failure{Kind: nixstore.ErrBuild, Cause: "it " + strings.Repeat("failed ", 200), Next: "mend it", Log: lines}
	short := &nixstore.Failure{Kind: nixstore.ErrBuild, Cause: "it failed", Next: "mend it", Log: []string{"a", "b\x1bc"}}
	if got, want := message(short), "it failed; next: mend it; log: a | b c"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := message(errors.Join(short, short)), "it failed; next: mend it; also: it failed; next: mend it; log: a | b c | a | b c"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	long2 := *long
	long2.Cause = "it failed"
	for name, f := range map[string]*nixstore.Failure{"both long": long, "log long": &long2} {
		got := message(f)
		if len(got) > messageMax || len(got) < messageMax-10 || !utf8.ValidString(got) {
			t.Errorf("%s: %d bytes, valid %t", name, len(got), utf8.ValidString(got))
		}
		if !strings.HasPrefix(got, "it failed") || !strings.HasSuffix(got, " | fatal: é") || !strings.Contains(got, "; log: …") {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func FuzzTame(f *testing.F) {
	f.Add("plain")
	f.Add("two\nlines\x1b[31m red \u202e backwards \x00")
	f.Add("\xff\xfe")
	f.Add(strings.Repeat("é", 800))
	f.Fuzz(func(t *testing.T, text string) {
		got := tame(text)
		if len(got) > messageMax || !utf8.ValidString(got) {
			t.Fatalf("%d bytes, valid %t", len(got), utf8.ValidString(got))
		}
		if strings.ContainsFunc(got, func(r rune) bool { return unicode.IsControl(r) || r == '\u202e' || r == '\u2028' }) {
			t.Fatalf("%q holds control characters", got)
		}
	})
}
