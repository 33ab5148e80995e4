package closureimage

import "github.com/closured/closured/nixstore"

// Modes of what stands in images, the same as Nix's own
// (libstore/posix-fs-canonicalise.cc).
const (
	folderMode  = 0o555
	programMode = 0o555
	fileMode    = 0o444
	linkMode    = 0o777
)

// Bytes of the parts of a NAR (Nix manual, "Nix Archive (NAR) format"): strings
// have a length of eight bytes in front and are filled up to a multiple of eight.
const (
	narStart      = 24                // "nix-archive-1"
	narFolder     = 16 + 16 + 24 + 16 // ( type directory )
	narExecutable = 24 + 8            // executable ""
	narLeaf       = 16 + 16 + 16 + 16 + 8 + 16
)

// narChild gives the bytes around an entry of a folder: entry ( name … node … ).
func narChild(name int) int64 { return 16 + 16 + 16 + 8 + narPadded(int64(name)) + 16 + 16 }

// narFile gives those of a file: ( type regular [executable ""] contents … ).
func narFile(size int64, program bool) int64 {
	if program {
		return narLeaf + narExecutable + narPadded(size)
	}
	return narLeaf + narPadded(size)
}

// narLink gives those of a symlink: ( type symlink target … ).
func narLink(target int) int64 { return narLeaf + narPadded(int64(target)) }

func narPadded(n int64) int64 { return (n + 7) &^ 7 }

// count adds to the size of the current path's NAR.
func (s *stream) count(n int64) {
	if s.nar >= 0 {
		s.nar += n
	}
}

// checkSize compares the path that ends here with the database. It costs no system
// call, and finds the files without content that a power failure leaves behind.
func (s *stream) checkSize() error {
	if s.current.narSize > 0 && s.nar > 0 && s.nar != s.current.narSize {
		return nixstore.Fail(nixstore.ErrCorrupt, "repair the node's store (nix-store --verify --check-contents --repair)",
			"%s has %d bytes as a NAR, and the store's database says %d", s.current.path, s.nar, s.current.narSize)
	}
	if s.nar > 0 {
		s.nar = 0
	}
	return nil
}
