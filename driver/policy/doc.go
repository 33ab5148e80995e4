// Package policy decides which namespace may name closures in which way.
//
// A policy is the operator's list of rules. The first rule one of whose namespace
// patterns matches the asking namespace decides alone: what it does not list is
// refused, and no later rule is asked. Read otherwise, a request that a narrow
// rule refuses, such as a foreign flake, would fall through to a broad rule
// below, and each rule added at the end could open what one above had closed.
// As it is, one rule holds for one namespace, and it is enough to read that rule.
//
//	rules:
//	- namespaces: ["dev-*"]                # * stands for any letters
//	  sources: [storePath, packages, image, flakeRef, nixExpr]
//	  flakes: ["github:our-org/*"]         # must be there with flakeRef; "*" is all but path:
//	  build: true                          # false: substitute only; true when left out
//	- namespaces: ["*"]
//	  sources: [storePath, packages, image]
//	  build: false
//
// storePath stands for the keys of the Nix systems, too. A request with no
// namespace matches only the pattern "*" itself. Where no rule matches, nothing
// is allowed.
//
// # Patterns of flakes
//
// A pattern bounds where a flake's own files come from; the inputs that its lock
// file names are the flake's business. In a pattern, * stands for any characters
// of one part between slashes, and a final /** for this place, all that lies
// below, and any revision. "*" alone allows every
// reference to another machine; the node's own disk needs a pattern that begins
// with path:. In the authority of
// a URL only a leading "*." may be used, and the scheme must be written out.
//
// A reference has many spellings, and a pattern knows one: references with
// percent signs, dot segments, empty segments, credentials, or parameters other
// than dir, ref, rev and narHash are refused, whatever the pattern, unless it
// is "*". GitHub and its kind serve each commit of each *fork* under the name of
// the parent repository, and pull requests as references; so commit ids and
// references other than branches and tags need a pattern that ends in /**, or
// one that spells the commit out (github:our-org/app/<commit>). For an archive, as
// in https://host/x.tar.gz, a pattern bounds the address only: its server may
// redirect, and the archive's name may hold any revision.
//
// # Concurrency and crashes
//
// A Policy never changes and may be shared. A File holds the policy of a file
// and swaps it whole; Check takes no lock. Nothing is written anywhere.
package policy
