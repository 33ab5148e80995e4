// Package nixcli is the store contract by Nix itself: nix-store through a
// nix-daemon realises, Nix's database is read directly, and Nix's own lock
// keeps its collectors away.
//
// The daemon is the package's own child, supervised by Store.Run over a chroot
// store with a nix.conf of its own, or somebody else's behind a socket. Nothing
// here evaluates what a user wrote, mounts, pins or collects.
//
// A Store may be used by many goroutines; work that nobody waits for any more is
// ended by ending its context, which ends the builders too. Nothing but nix.conf
// is kept on disk, written whole and renamed. The daemon and the clients die
// with this process (a signal of the kernel sees to it, also after kill -9); a
// realisation that was cut leaves the store valid and goes on when it is asked
// for again.
//
// Tried with Nix 2.8, 2.26 and 2.34, which share the database's schema 10 and
// the daemon protocol from 1.34 on.
package nixcli
