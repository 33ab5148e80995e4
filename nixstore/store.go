package nixstore

import (
	"context"
	"time"
)

// Reader reads what a store knows. It starts no process and does not wait for
// running builds. Its methods may be called concurrently.
type Reader interface {
	// Registration gives the number of root's registration (see Closure), or
	// ErrNotFound when the path is not valid.
	Registration(ctx context.Context, root StorePath) (int64, error)
	// Closure gives root's closure, or ErrNotFound when root is not valid.
	Closure(ctx context.Context, root StorePath) (Closure, error)
}

// Realiser makes paths valid.
type Realiser interface {
	// Realise substitutes or, with opts.Build, builds the outputs and all that
	// they need. It blocks until that is done or ctx ends; ending ctx ends the
	// builders. Concurrent calls are fine, also for the same path.
	// Errors: ErrNotFound, ErrBuild, ErrUntrusted, ErrCorrupt, ErrUnavailable, ErrNoSpace.
	Realise(ctx context.Context, outputs []Output, opts RealiseOptions) error
	// Merge gives the output that joins several valid roots in one tree of
	// links, the same for the same set of roots. It realises nothing.
	Merge(ctx context.Context, roots []StorePath) (Output, error)
}

// RealiseOptions bound and watch one realisation.
type RealiseOptions struct {
	Build    bool           // false: substitute only
	Progress func(Progress) // called from one goroutine at a time; nil: nobody looks
	// Substituters are addresses of binary caches to ask besides the configured
	// ones, for this realisation: other nodes that have the closure. What they give
	// must be signed by a trusted key as well. They hold no credentials, and never
	// come from a pod. A malformed one is ErrInvalid.
	Substituters []string
}

// Progress is a moment of a realisation.
type Progress struct {
	Phase   string    // "evaluating", "fetching", "building": stable words
	What    string    // the path or derivation worked on last; may be empty
	Done    int64     // paths finished so far
	Total   int64     // paths known to be needed so far
	Bytes   int64     // bytes fetched so far, at least
	Started time.Time // when the flight took off
}

// Evaluator turns a source into outputs without power: in a process that may
// not read the host, has no privilege, and ends at its limits.
type Evaluator interface {
	// Evaluate resolves packages, a flake or an expression to at least one
	// output, in the order that the source gave.
	// Errors: ErrInvalid, ErrEvaluation, ErrNotFound (no such attribute), ErrUnavailable.
	Evaluate(ctx context.Context, src Source) ([]Output, error)
	// Fingerprint changes when the same source may evaluate to something else,
	// as when the operator replaces the package set. It is cheap.
	Fingerprint(src Source) string
}

// Barrier keeps collectors away for a moment.
type Barrier interface {
	// Hold waits until no garbage collector runs on the store, ours or another's,
	// and keeps new ones from starting until release is called. A root made in
	// between is seen by each later collection. Holds are shared, and must be short.
	Hold(ctx context.Context) (release func(), err error)
}

// Store is all that a realisation needs of a store.
type Store interface {
	Reader
	Realiser
	Barrier
}

// Request asks for a closure on behalf of a holder.
type Request struct {
	Source Source
	Build  bool // policy lets the holder build
	Holder Holder
}

// Realised is a closure that is valid and pinned for its holder.
type Realised struct {
	Root         StorePath
	Registration int64 // see Closure
}

// Provider is the one way from a source to a closure on this node; volumes and
// images share it. Its methods may be called concurrently.
type Provider interface {
	// Provide resolves, realises and pins. When ctx ends first, the work goes on
	// for whoever asks next and the error is ErrBusy. After any other error the holder has no pin.
	Provide(ctx context.Context, req Request) (Realised, error)
	// Release drops the holder's pin and its interest in running flights; the
	// last one out cancels a flight after a grace. Unknown holders are fine.
	Release(ctx context.Context, holder Holder) error
}
