// Package provide is the one way from what a user named to a closure that is
// valid and pinned on this node. It puts together a store, an evaluator, the
// pins and shared work; volumes and images both use it, through nixstore.Provider.
//
// A warm request (one store path, or a source that was resolved before) takes
// the barrier, makes one link and asks the store one question: no process, no
// goroutine, no evaluation. Everything else is a flight: one for each source,
// and inside it one for each set of outputs, so that fifty pods with one source
// evaluate once, and two sources of one closure build once.
//
// It does not judge: policy and the form of attributes are checked before.
//
// All methods may be called concurrently; flights have goroutines, which Close
// ends and waits for. The only state on disk are pins. Pins of flights mean
// nothing after a crash, and New sweeps them.
package provide
