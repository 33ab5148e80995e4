package registry

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/closured/closured/nixstore"
)

// matches tells whether a condition's list of entity tags holds that of digest,
// by weak comparison (RFC 9110, 13.1.2).
func matches(conditions []string, digest string) bool {
	for _, line := range conditions {
		for tag := range strings.SplitSeq(line, ",") {
			tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
			if tag == "*" || tag == strconv.Quote(digest) {
				return true
			}
		}
	}
	return false
}

// span is a part of a blob: length bytes from offset on.
type span struct {
	offset, length int64
	partial        bool // 206 and not 200
}

// parseRange reads the header Range for a blob of size bytes. A header that is
// malformed, of another unit, or of several ranges asks for the whole blob, as
// RFC 9110, 14.2 allows; the error is for a range that lies outside of it.
func parseRange(header string, size int64) (span, error) {
	whole := span{length: size}
	list, ok := strings.CutPrefix(header, "bytes=")
	if !ok || strings.Contains(list, ",") {
		return whole, nil
	}
	first, last, ok := strings.Cut(strings.TrimSpace(list), "-")
	if !ok {
		return whole, nil
	}
	if first == "" { // the last so many bytes
		n, ok := parseBytes(last)
		switch {
		case !ok:
			return whole, nil
		case n == 0 || size == 0:
			return span{}, outside(header, size)
		}
		n = min(n, size)
		return span{offset: size - n, length: n, partial: true}, nil
	}
	from, ok := parseBytes(first)
	to := size - 1
	if last != "" && ok {
		to, ok = parseBytes(last)
	}
	switch {
	case !ok || last != "" && to < from:
		return whole, nil
	case from >= size:
		return span{}, outside(header, size)
	}
	to = min(to, size-1)
	return span{offset: from, length: to - from + 1, partial: true}, nil
}

// parseBytes reads 1*DIGIT; a number beyond all sizes is as good as the greatest.
func parseBytes(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 1<<63 - 1, true // too long for the type: all digits were checked
	}
	return n, true
}

func outside(header string, size int64) error {
	return &coded{
		error: nixstore.Fail(nixstore.ErrInvalid, "ask for a part of it", "the range %s lies outside of the blob's %d bytes",
			nixstore.Quote(header), size),
		code: codeUnknown, status: http.StatusRequestedRangeNotSatisfiable,
	}
}

// wantsRange tells whether a Range counts: without If-Range, or when that names
// the same content by a strong comparison (RFC 9110, 13.1.5).
func wantsRange(h http.Header, digest string) bool {
	condition := h.Get("If-Range")
	return h.Get("Range") != "" && (condition == "" || condition == strconv.Quote(digest))
}
