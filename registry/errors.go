package registry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/closured/closured/nixstore"
)

// The codes of the specification that a registry without pushes needs ("Error
// codes"), and UNKNOWN, which distribution uses for what has no other.
const (
	codeBlobUnknown     = "BLOB_UNKNOWN"
	codeDenied          = "DENIED"
	codeDigestInvalid   = "DIGEST_INVALID"
	codeManifestUnknown = "MANIFEST_UNKNOWN"
	codeNameInvalid     = "NAME_INVALID"
	codeNameUnknown     = "NAME_UNKNOWN"
	codePagination      = "PAGINATION_NUMBER_INVALID"
	codeTooMany         = "TOOMANYREQUESTS"
	codeUnsupported     = "UNSUPPORTED"
	codeUnknown         = "UNKNOWN"
)

// messageMax bounds the text of an answer, in bytes.
const messageMax = 2000

// coded is an error whose kind alone does not say which code is meant.
type coded struct {
	error
	code   string
	status int // 0: that of the kind
}

func (e *coded) Unwrap() error { return e.error }

func withCode(code string, err error) error { return &coded{error: err, code: code} }

// answer is what an error becomes.
type answer struct {
	status int
	code   string
	retry  time.Duration // for Retry-After; 0: none
}

// translation is a row of the table from error to answer.
type translation struct {
	kind   error
	answer answer
}

// translations gives the table; the first row that matches wins. Work that goes
// on is 429, which containerd and the clients of containers/image repeat within
// one pull; 503 ends the pull.
func translations() []translation {
	return []translation{
		{nixstore.ErrInvalid, answer{http.StatusBadRequest, codeNameInvalid, 0}},
		{nixstore.ErrForbidden, answer{http.StatusForbidden, codeDenied, 0}},
		{nixstore.ErrNotFound, answer{http.StatusNotFound, codeNameUnknown, 0}},
		// Not 404: clients replace the text of that by their own "not found".
		{nixstore.ErrEvaluation, answer{http.StatusUnprocessableEntity, codeUnknown, 0}},
		{nixstore.ErrBuild, answer{http.StatusUnprocessableEntity, codeUnknown, 0}},
		{nixstore.ErrUntrusted, answer{http.StatusForbidden, codeDenied, 0}},
		{nixstore.ErrCorrupt, answer{http.StatusInternalServerError, codeUnknown, 0}},
		{nixstore.ErrBusy, answer{http.StatusTooManyRequests, codeTooMany, 5 * time.Second}},
		{nixstore.ErrUnavailable, answer{http.StatusServiceUnavailable, codeUnknown, 10 * time.Second}},
		{nixstore.ErrNoSpace, answer{http.StatusServiceUnavailable, codeUnknown, time.Minute}},
		{syscall.ENOSPC, answer{http.StatusServiceUnavailable, codeUnknown, time.Minute}},
		{syscall.EDQUOT, answer{http.StatusServiceUnavailable, codeUnknown, time.Minute}},
		{context.DeadlineExceeded, answer{http.StatusGatewayTimeout, codeUnknown, 0}},
	}
}

// judge gives the answer to an error that is not nil; 500 when nobody judged it.
func judge(err error) answer {
	judged := err
	if f, ok := errors.AsType[*nixstore.Failure](err); ok {
		judged = f.Kind // the outermost has the word, as in the driver
	}
	a := answer{http.StatusInternalServerError, codeUnknown, 0}
	for _, row := range translations() {
		if errors.Is(judged, row.kind) {
			a = row.answer
			break
		}
	}
	if c, ok := errors.AsType[*coded](err); ok && (a.status < http.StatusInternalServerError || c.status != 0) {
		a.code = c.code
		a.status = cmp.Or(c.status, a.status)
	}
	return a
}

// writeError answers with an error of the specification, and gives the status.
func writeError(w http.ResponseWriter, err error) int {
	a := judge(err)
	h := w.Header()
	for _, name := range []string{"Docker-Content-Digest", "Etag", "Cache-Control", "Accept-Ranges", "Link", "OCI-Filters-Applied"} {
		h.Del(name)
	}
	if a.status != http.StatusRequestedRangeNotSatisfiable {
		h.Del("Content-Range")
	}
	if a.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(int(a.retry/time.Second)))
	}
	if a.status == http.StatusMethodNotAllowed {
		h.Set("Allow", "GET, HEAD")
	}
	h.Set("Cache-Control", "no-store")
	writeJSON(w, a.status, "application/json", errorBody(a, err))
	return a.status
}

func errorBody(a answer, err error) any {
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	one := item{Code: a.code, Message: message(err)}
	if b, ok := errors.AsType[*busyError](err); ok {
		one.Detail = b.detail()
	}
	return struct {
		Errors []item `json:"errors"`
	}{[]item{one}}
}

// writeJSON answers with v, of a type that JSON can write.
func writeJSON(w http.ResponseWriter, status int, mediaType string, v any) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // people read it in terminals and events
	if err := enc.Encode(v); err != nil {
		body.Reset()
		body.WriteString(`{"errors":[{"code":"UNKNOWN","message":"internal error"}]}`)
		status = http.StatusInternalServerError
	}
	text := bytes.TrimSuffix(body.Bytes(), []byte("\n"))
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text) // to HEAD nothing is sent; a client that is gone needs nothing
}

// message gives what a client reads: the words of the failure. An error that
// nobody judged may hold anything, and is in the log.
func message(err error) string {
	f, ok := errors.AsType[*nixstore.Failure](err)
	if !ok {
		return "the registry has a fault; next: look into the agent's log"
	}
	return cut(withoutHostPaths(plain(f.Error())), messageMax)
}

// withoutHostPaths hides where things are on the node: absolute paths other than
// those inside the closure or the sandbox of a build. It is compiled for each
// error, which is rare.
func withoutHostPaths(text string) string {
	paths := regexp.MustCompile(`(^|[\s"'(=,\[])(/[^\s"'(),;\]]+)`)
	return paths.ReplaceAllStringFunc(text, func(s string) string {
		at := strings.IndexByte(s, '/')
		for _, known := range []string{nixstore.Dir, "/build/", "/v2/"} {
			if strings.HasPrefix(s[at:], known) {
				return s
			}
		}
		return s[:at] + "[path]"
	})
}

// plain makes text valid UTF-8 on one line.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "�"))
}

// cut gives the first bytes of a text, to the border of a character.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit] + "…"
}
