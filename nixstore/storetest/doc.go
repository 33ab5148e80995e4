// Package storetest holds the suite that each nixstore.Store must pass (Run),
// and a store in memory that passes it, for tests of what stands on a store.
//
// Memory behaves like Nix where it matters to its users: a path is valid only
// with all its references, what no root keeps goes at a collection, a running
// realisation protects what it has made until it ends, a collection excludes
// holds of the barrier and reads the roots first, and a root that is not valid at
// that moment is none. It has no files, no hashes of
// content and no signatures. Its hook can delay or fail each step. Memory may be
// used concurrently and starts no goroutine.
//
// This package is for tests only; it imports testing.
package storetest
