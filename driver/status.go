package driver

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/nixstore"
)

// messageMax bounds the text of a status in bytes: it becomes the note of an
// event, and kubernetes refuses notes of more than 1 KiB (events.k8s.io/v1).
const messageMax = 1000

// translation is a row of the table from error to code.
type translation struct {
	kind error
	code codes.Code
}

// translations gives the table; the first row that matches wins. Kinds of our
// own come first: they are a judgement, and what they wrap is detail.
func translations() []translation {
	return []translation{
		{nixstore.ErrInvalid, codes.InvalidArgument},
		{nixstore.ErrForbidden, codes.PermissionDenied},
		{nixstore.ErrNotFound, codes.NotFound},
		{nixstore.ErrEvaluation, codes.FailedPrecondition},
		{nixstore.ErrBuild, codes.FailedPrecondition},
		{nixstore.ErrUntrusted, codes.FailedPrecondition},
		{nixstore.ErrCorrupt, codes.DataLoss},
		{nixstore.ErrConflict, codes.AlreadyExists},
		{nixstore.ErrBusy, codes.Aborted},
		{nixstore.ErrUnavailable, codes.Unavailable},
		{nixstore.ErrNoSpace, codes.ResourceExhausted},
		{syscall.ENOSPC, codes.ResourceExhausted},
		{syscall.EDQUOT, codes.ResourceExhausted},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
	}
}

// codeOf gives the code of an error that is not nil; Internal when nobody judged it.
func codeOf(err error) codes.Code {
	// The outermost Failure has the word: it may wrap nothing but its kind, while
	// the chain around and beside it may hold others' errors.
	judged := err
	if f, ok := errors.AsType[*nixstore.Failure](err); ok {
		judged = f.Kind
	}
	for _, row := range translations() {
		if errors.Is(judged, row.kind) {
			return row.code
		}
	}
	return codes.Internal
}

// final tells whether kubelet, given this error, forgets a volume that was never
// mounted, so that no unpublish comes (pkg/volume/csi, isFinalError).
func final(err error) bool {
	switch codeOf(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted, codes.Aborted:
		return false
	default:
		return true
	}
}

// toStatus makes the status that a caller gets. It carries no details.
func toStatus(err error) error {
	return status.Error(codeOf(err), message(err))
}

// headMax bounds, in bytes, what a text says before a log that has no room beside
// it, so that there is some for the log.
const headMax = 600

// message gives what a user reads of err: the words of its failures, without the
// way that they took through the program. Several are told one after the other,
// and then the end of their logs: a builder says last what it died of.
func message(err error) string {
	head, logs := told(err)
	if len(logs) == 0 {
		return tame(head)
	}
	return withLog(plain(head), plain(strings.Join(logs, logBreak)))
}

// told gives causes and next steps of err's failures, and the lines of their logs.
func told(err error) (head string, logs []string) {
	var heads []string
	for _, f := range failures(err) {
		words := nixstore.Failure{Cause: f.Cause, Next: f.Next}
		heads = append(heads, words.Error())
		logs = append(logs, f.Log...)
	}
	if len(heads) == 0 {
		heads = []string{err.Error()}
	}
	return strings.Join(heads, "; also: "), logs
}

// logBreak stands between the lines of a log.
const logBreak = " | "

// withLog adds to a head as much of a log's end as there is room for.
func withLog(head, log string) string {
	const intro = "; log: "
	if len(head)+len(intro)+len(log) > messageMax {
		head = cutEnd(head, headMax)
	}
	head += intro
	return head + cutBegin(log, messageMax-len(head))
}

// failures gives the outermost failures in err's tree, in its order.
func failures(err error) []*nixstore.Failure {
	switch e := err.(type) { //nolint:errorlint // it walks the tree that errors.As walks
	case *nixstore.Failure:
		return []*nixstore.Failure{e}
	case interface{ Unwrap() error }:
		return failures(e.Unwrap())
	case interface{ Unwrap() []error }:
		var all []*nixstore.Failure
		for _, inner := range e.Unwrap() {
			all = append(all, failures(inner)...)
		}
		return all
	}
	return nil
}

// tame makes foreign text fit for an event: plain, and of at most messageMax bytes.
func tame(text string) string { return cutEnd(plain(text), messageMax) }

// plain makes text valid UTF-8 on one line, with nothing that moves a terminal's
// cursor.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) { // control and format characters, line and paragraph separators
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "�"))
}

// ellipsis stands for what was cut off.
const ellipsis = "…"

// cutEnd gives the first bytes of a text, to the border of a character.
func cutEnd(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	cut := limit - len(ellipsis)
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + ellipsis
}
