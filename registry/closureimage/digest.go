package closureimage

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// digest is a SHA-256.
type digest [sha256.Size]byte

// key is a name in the cache, a SHA-256 of all that the content depends on.
type key [sha256.Size]byte

// algorithm stands in front of digests in OCI documents.
const algorithm = "sha256"

func (d digest) String() string { return algorithm + ":" + hex.EncodeToString(d[:]) }

func (d digest) hash() v1.Hash { return v1.Hash{Algorithm: algorithm, Hex: hex.EncodeToString(d[:])} }

func (k key) String() string { return hex.EncodeToString(k[:]) }

// parseDigest is the inverse of String and takes no other spelling.
func parseDigest(s string) (digest, bool) {
	var d digest
	text, ok := strings.CutPrefix(s, algorithm+":")
	if !ok || len(text) != hex.EncodedLen(len(d)) || strings.ToLower(text) != text {
		return d, false
	}
	_, err := hex.Decode(d[:], []byte(text))
	return d, err == nil
}
