// Package nixeval is nixstore.Evaluator by Nix itself, without power: each
// evaluation is a nix-instantiate or nix process in a jail, as an unprivileged
// user, with bounds of memory and time, no environment, and a root that holds
// the programs of Nix, the daemon's socket and the package set, and nothing of
// the host. Expressions and package sets are evaluated with restrict-eval,
// flakes of users in pure mode, so that also what the jail holds is out of reach
// of their words.
//
// What a user wrote travels as data: names in a JSON file, an expression in a
// file of its own. Only a flake reference is an argument, after its grammar was
// checked; references with credentials are refused, since arguments are seen by
// every process of the node.
//
// It realises nothing: derivations are written to the store through the daemon
// and have no root yet. With Config.AllowIFD, and for flakes, the jail also holds
// the physical store, read-only: Nix reads sources there, and its own rules keep
// an evaluation from other paths. Flakes have the node's network, which no rule
// here narrows: that is for the network policy of the agent.
//
// Programs that use it call jail.MaybeChild first thing in main. An Evaluator
// may be used concurrently; at most Config.Concurrency evaluations run at a time
// and others wait. It keeps no state on disk but the fetched sources of
// Config.CacheDir, and kill -9 at any time leaves no process behind.
package nixeval
