// Package flight runs work that many callers share and that outlives each of
// them: a volume's call may end after two minutes while its build needs twenty.
//
// Work is named by a key: whoever joins a key while its work runs shares it. A
// caller joins on behalf of a holder (a volume), waits as long as its own context
// lets it, and comes back later to join again. The work ends early only when
// nobody wants it any more: each holder left, or has not asked for a while, and
// nobody new came within a grace. Failures that would only repeat are remembered
// for a growing time, so that retries do not build again and again.
//
// It is not a cache: a success is given to those who joined, and forgotten. It
// knows nothing of Nix.
//
// All methods may be called concurrently. Each running work has one goroutine,
// which Close ends and waits for. Nothing is on disk: after a crash all work is
// gone, and the next caller starts it again.
package flight
