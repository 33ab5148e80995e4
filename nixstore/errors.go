package nixstore

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The kinds of errors that a caller may test for with errors.Is. Three
// translators (driver, registry, controller) turn them into their protocol;
// nobody else does.
var (
	// ErrInvalid: an attribute, a path or a name is malformed or missing. Trying
	// again without changing the request never helps.
	ErrInvalid = errors.New("invalid")
	// ErrForbidden: the operator's policy refuses this source to this namespace.
	ErrForbidden = errors.New("forbidden by policy")
	// ErrNotFound: the store does not hold the path and no cache offers it, or no
	// package has that name.
	ErrNotFound = errors.New("not found")
	// ErrEvaluation: the expression fails or exceeds its limits.
	ErrEvaluation = errors.New("evaluation failed")
	// ErrBuild: a builder fails, or a build is refused because it cannot be sandboxed.
	ErrBuild = errors.New("build failed")
	// ErrUntrusted: no trusted key has signed the path.
	ErrUntrusted = errors.New("not signed by a trusted key")
	// ErrCorrupt: content does not match its hash.
	ErrCorrupt = errors.New("content does not match its hash")
	// ErrConflict: what is asked contradicts what is there, such as a volume that is
	// published with other attributes.
	ErrConflict = errors.New("conflicts with what is there")
	// ErrBusy: the work goes on; ask again and join it.
	ErrBusy = errors.New("still in progress")
	// ErrUnavailable: the Nix daemon or a cache cannot be reached now.
	ErrUnavailable = errors.New("unavailable")
	// ErrNoSpace: the disk, its inodes, or a quota is full.
	ErrNoSpace = errors.New("no space left")
)

// Failure is an error that a user reads: in the first 200 characters of its
// text stand the cause, the object and the next step. It unwraps to its Kind.
// Texts never hold credentials or the content of files.
type Failure struct {
	Kind  error    // one of the sentinels above
	Cause string   // what is wrong, and with which object
	Next  string   // what the reader can do about it; may be empty
	Log   []string // the last lines of a builder or of Nix; may be empty
}

// Fail makes a Failure. next is the reader's next step; format and args give
// the cause, which names the object.
func Fail(kind error, next, format string, args ...any) *Failure {
	return &Failure{Kind: kind, Cause: fmt.Sprintf(format, args...), Next: next}
}

// Error gives cause and next step, and then the log.
func (f *Failure) Error() string {
	var b strings.Builder
	b.WriteString(f.Cause)
	if f.Next != "" {
		b.WriteString("; next: " + f.Next)
	}
	if len(f.Log) > 0 {
		b.WriteString("; log: " + strings.Join(f.Log, " | "))
	}
	return b.String()
}

// Unwrap gives the kind.
func (f *Failure) Unwrap() error { return f.Kind }

// quoteMax bounds what a message repeats of a foreign string, in bytes.
const quoteMax = 80

// Quote quotes a foreign string for a message: escaped, and cut after 80 bytes,
// so that a hostile value can neither forge lines nor crowd out the cause.
func Quote(s string) string {
	if len(s) <= quoteMax {
		return strconv.Quote(s)
	}
	return strconv.Quote(s[:quoteMax]) + "… (" + strconv.Itoa(len(s)) + " bytes)"
}
