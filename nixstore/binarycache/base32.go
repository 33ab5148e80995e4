package binarycache

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/closured/closured/nixstore"
)

// base32Digits are those of Nix: without e, o, t and u (libutil/hash.cc).
const base32Digits = "0123456789abcdfghijklmnpqrsvwxyz"

// base32Len is how many digits a SHA-256 hash has.
const base32Len = (sha256.Size*8 + 4) / 5

// base32 writes bytes as Nix does: the last digit holds the five lowest bits of
// the first byte (printHash32 of libutil/hash.cc).
func base32(hash []byte) string {
	var b strings.Builder
	for n := (len(hash)*8+4)/5 - 1; n >= 0; n-- {
		i, j := n*5/8, n*5%8
		bits := uint16(hash[i])
		if i+1 < len(hash) {
			bits |= uint16(hash[i+1]) << 8
		}
		b.WriteByte(base32Digits[bits>>j&0x1f])
	}
	return b.String()
}

// digest gives the bytes of a SHA-256 hash in SRI form, "sha256-<base 64>".
func digest(sri string) ([sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	text, ok := strings.CutPrefix(sri, "sha256-")
	raw, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(raw) != len(sum) {
		return sum, nixstore.Fail(nixstore.ErrCorrupt, "check the store with nix-store --verify",
			"%s is not a SHA-256 hash in SRI form", nixstore.Quote(sri))
	}
	copy(sum[:], raw)
	return sum, nil
}
