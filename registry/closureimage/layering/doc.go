// Package layering decides which store paths of a closure share a layer of its
// image, and in which order the layers come. It knows names, sizes and
// references only: no files, no digests, no registry. The same closure gets the
// same layers on every node and in every version of the agent: whoever changes
// a constant or a tie-break here makes every node pull every image anew.
//
// # What is minimised
//
// An image has about a hundred layers, a closure has hundreds or thousands of
// paths, so paths must share. A path's name holds a hash of everything that it
// was built from, so an update of one path renames all paths that need it,
// directly or not. Seen from a layer: it changes, and all of it is pulled again,
// as soon as anything changes in the union of its paths' closures. Nobody knows what
// will be updated next, so let each path be as likely as any other. Then
//
//	size of the layer × number of paths in the union of its paths' closures
//
// summed up over the layers, and divided by the number of paths, is the expected
// number of bytes to pull for an update. That sum is what Cut makes small. It is
// least when each path has a layer of its own; joining two layers a and b adds
//
//	size(a) × (paths that only b depends on) + size(b) × (paths that only a depends on)
//
// which is nothing when both depend on the same, and cheap when the large one
// depends on much and the small one on a part of that. Being popular, which is what
// other tools go by, is something else: what two layers are used *by* does not
// tell when they change.
//
// # How
//
//   - line.go checks the closure and puts it in line: what needs little comes first,
//     the root comes last. Sizes are rounded down to three bits, so that the small changes of
//     size that come with every update move nothing to another layer.
//   - layering.go gives the root and the largest paths a layer each. Being alone is
//     also what lets two different images share a layer.
//   - groups.go makes groups of the rest: one path each, or runs of tiny neighbours when
//     there are thousands. It links each group with those that it may be cheap to join
//     with: neighbours in the line, and along references. Trying all pairs would be
//     quadratic and hardly better.
//   - join.go joins the cheapest pair again and again until the layers suffice, and
//     goes on while a join costs next to nothing (floorBytes).
//   - graph.go holds the arithmetic of closures: sets of bits, a band at a time.
//
// Joining is greedy and not optimal: the two large closures in testdata come to 1.025
// and 1.353 times the sum of one layer for each path, which no hundred layers can
// have. BenchmarkUpdate measures what an update really pulls, beside other ways
// of cutting.
//
// There is no history, no randomness and no floating point. Comparisons are total: every
// tie ends at a name or at a rank, which follows from names. Maps are only looked up,
// never walked.
//
// # Concurrency and crashes
//
// Everything here is a pure function: no state, no goroutines, no files.
package layering
