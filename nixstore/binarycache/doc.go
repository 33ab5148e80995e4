// Package binarycache serves a node's store to the other nodes of a cluster as a
// signed Nix binary cache over HTTP, so that a node that lacks a closure fetches
// it from one that has it, by Nix's own substituter.
//
//	/nix-cache-info           what Nix asks first
//	/<hash>.narinfo           the description of a valid path, signed when asked for
//	/nar/<hash>-<sha256>.nar  its content, made from the store while it is read
//
// Nothing is listed, nothing can be written, and nothing is kept: all answers come
// from Nix's database and the files of the store. It is no cache in front of other
// caches and builds nothing.
//
// All nodes of an installation share one secret key (SecretKey), made at install.
// Its holder signs what it serves, and is let in by a password that is derived
// from it; Netrc tells Nix's daemon. Who has the key is believed by all nodes:
// it belongs into a Secret that agents alone can read. The transport is plain
// HTTP: content cannot be changed on its way unnoticed, but whoever can read the
// pod network can read what is fetched, and the password.
//
// A path is not pinned while it is served. When a collector takes it in
// mid-stream, files that are open go on to their end and the next one is missing:
// the answer is cut, as it is when the content does not have the hash of the
// database. The end of an answer is held back until its hash was compared, so that
// a wrong one never looks whole; Nix refuses it and asks the next substituter.
//
// Each request runs in a goroutine of net/http; a Handler and its keys may be
// shared between goroutines. Memory is bounded: a buffer for each stream, and the
// names of the folders on the way to the current file. Nothing remains after a crash.
package binarycache
