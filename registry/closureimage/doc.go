// Package closureimage makes OCI images of closures: the same bytes on every
// node, with layers that are generated from the store whenever somebody reads them.
//
// An image is computed once. What is kept of it is one file with its manifest and
// its configuration, and for each layer a record of digest and size that other
// images with the same content share. A known image is answered from memory or
// from that one file; no file of the closure is read, and the database is not asked.
// Layers are never kept: a Blob walks the store and gives the tar as it goes.
//
// The two forms of an image differ in where the closure stands:
//
//	Root    /nix/store/…  /nix/var/result  /nix/var/closure.json
//	        the root's folders linked at / (/bin, /lib, …), /etc, /tmp
//	Volume  /store/…      /var/result      /var/closure.json
//
// /etc of the form Root is a real folder, as runtimes put files of their own into
// it: it holds links to what is in the root's etc, and passwd and group where those
// are missing. The store's layers are cut by package layering; the links, the
// result and closure.json are the last layer, which is small and changes always.
//
// Bytes of layers depend on nothing but the closure's content: entries are sorted
// by their names, owned by 0:0, have the modes that Nix gives (0444, 0555) and the
// time 1 s. Whoever changes a byte raises formatVersion; a test with written-down
// digests notices when that was forgotten.
//
// What it is not: it serves no HTTP, decides about no names, realises and pins
// nothing. The caller keeps the closure pinned while it works with an image.
// Content is compared with the store's database by size alone, when a layer is read
// from its beginning: that is free, and finds what a power failure leaves. Hashes
// of archives are Nix's business (nix-store --verify).
//
// All methods may be called concurrently; callers who ask for the same unknown
// image or layer share the work, and the last one who leaves ends it. kill -9 at any
// instruction loses nothing: files appear by rename, each checks itself, and what is
// missing or damaged is computed again.
package closureimage
