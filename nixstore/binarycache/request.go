package binarycache

import (
	"strings"

	"github.com/closured/closured/nixstore"
)

// requestKind is the kind of a request, a label of the metrics.
type requestKind string

const (
	kindCacheInfo requestKind = "cacheInfo"
	kindNarInfo   requestKind = "narInfo"
	kindNar       requestKind = "nar"
	kindOther     requestKind = "other"
)

// request is what the path of a URL asks for.
type request struct {
	kind    requestKind
	hash    string // of the store path, 32 characters of Nix's base 32; for narInfo and nar
	content string // of the NAR, 52 of them; for nar
}

// hashLen is the length of the hash part of a store path.
const hashLen = 32

// parseRequest reads the path of a URL. ErrNotFound: there is no such file, as
// those that Nix tries with other caches (listings, logs, realisations).
func parseRequest(path string) (request, error) {
	if path == "/nix-cache-info" {
		return request{kind: kindCacheInfo}, nil
	}
	if hash, ok := strings.CutSuffix(path, ".narinfo"); ok {
		hash = strings.TrimPrefix(hash, "/")
		if isBase32(hash, hashLen) {
			return request{kind: kindNarInfo, hash: hash}, nil
		}
		return request{kind: kindOther}, nixstore.Fail(nixstore.ErrInvalid, "ask for <hash>.narinfo",
			"%s does not begin with the hash of a store path", nixstore.Quote(path))
	}
	name, isNar := strings.CutPrefix(path, "/nar/")
	name, whole := strings.CutSuffix(name, ".nar")
	if hash, content, _ := strings.Cut(name, "-"); isNar && whole && isBase32(hash, hashLen) && isBase32(content, base32Len) {
		return request{kind: kindNar, hash: hash, content: content}, nil
	}
	return request{kind: kindOther}, nixstore.Fail(nixstore.ErrNotFound, "", "there is no %s here", nixstore.Quote(path))
}

func isBase32(s string, n int) bool { return len(s) == n && strings.Trim(s, base32Digits) == "" }
