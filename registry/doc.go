// Package registry serves the closures of the node's store as OCI images: the
// pull and content discovery parts of the OCI distribution specification v1.1,
// over HTTP on the node's loopback. It takes no pushes and keeps no blobs: package
// closureimage generates them from the store.
//
// A name is a source (see parseName for the grammar), so that a pull is resolved,
// realised and pinned like a volume, by the same policy, provider and flights:
//
//	store/<hash>                the closure of /nix/store/<hash>-…
//	pkgs/<name>[/<name>…]       packages of the operator's package set
//	image/<namespace>/<name>    an image that somebody described (Config.Named)
//	volume/<any of these>       the same, with the contents of /nix at the root
//
// OCI names are lower case. The evaluator takes a name for the one attribute that
// differs from it in case only, so that pkgs/xorg finds Xorg; where several
// attributes do, and for names with "+" or a leading "_", only volumes can tell.
//
// A manifest by tag means what the name means now. A manifest or blob by digest is
// served under a name when an image that the name means, or meant when it was
// pulled lately, holds it: so that a pull in progress ends well when the package
// set moves on. A request waits for a realisation at most Config.Hold; the work
// goes on, and the next request joins it.
//
// What was pulled lately stays pinned for Config.Keep. The pins and the times of
// their links are the only state: kill -9 at any instruction leaves whole pins,
// and New sweeps those of pulls that had no answer yet. All else is found again
// by resolving the name.
//
// All methods may be called concurrently. Requests run in the goroutines of the
// HTTP server and share flights, which Close ends and waits for.
package registry
