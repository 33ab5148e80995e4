package binarycache

import (
	"crypto/sha256"
	"strconv"
	"strings"

	"github.com/closured/closured/nixstore"
)

// Media types, as Nix's own binary caches have them (libstore/binary-cache-store.cc).
const (
	typeNarInfo   = "text/x-nix-narinfo"
	typeCacheInfo = "text/x-nix-cache-info"
	typeNar       = "application/x-nix-nar"
)

// described is a valid path with what is made of its hash.
type described struct {
	nixstore.PathInfo

	sum    [sha256.Size]byte
	base32 string // of sum
}

// describe checks what the database says of a path. A path without a size cannot
// be served: its answer could not be told from one that was cut.
func describe(info nixstore.PathInfo) (described, error) {
	sum, err := digest(info.NarHash)
	if err != nil {
		return described{}, err
	}
	if info.NarSize <= 0 {
		return described{}, nixstore.Fail(nixstore.ErrCorrupt, "check the store with nix-store --verify",
			"Nix's database does not know the size of %s", info.Path)
	}
	return described{PathInfo: info, sum: sum, base32: base32(sum[:])}, nil
}

// url gives the address of the content. It holds the hash of the content as well,
// so that who knows an older description is told that there is nothing any more.
func (d described) url() string { return "nar/" + d.Path.Hash() + "-" + d.base32 + ".nar" }

// fingerprint gives what is signed (ValidPathInfo::fingerprint, libstore/path-info.cc).
// References are sorted by their bytes, as Nix has them.
func (d described) fingerprint() string {
	references := make([]string, len(d.References))
	for i, r := range d.References {
		references[i] = r.String()
	}
	return "1;" + d.Path.String() + ";sha256:" + d.base32 + ";" + strconv.FormatInt(d.NarSize, 10) +
		";" + strings.Join(references, ",")
}

// text gives the narinfo, with one signature of each key (libstore/nar-info.cc).
func (d described) text(keys []SecretKey) string {
	references := make([]string, len(d.References))
	for i, r := range d.References {
		references[i] = r.BaseName()
	}
	size := strconv.FormatInt(d.NarSize, 10)
	var b strings.Builder
	for _, line := range [][2]string{
		{"StorePath", d.Path.String()},
		{"URL", d.url()},
		{"Compression", "none"},
		{"FileHash", "sha256:" + d.base32},
		{"FileSize", size},
		{"NarHash", "sha256:" + d.base32},
		{"NarSize", size},
		{"References", strings.Join(references, " ")},
	} {
		b.WriteString(line[0] + ": " + line[1] + "\n")
	}
	fingerprint := d.fingerprint()
	for _, key := range keys {
		b.WriteString("Sig: " + key.sign(fingerprint) + "\n")
	}
	return b.String()
}
