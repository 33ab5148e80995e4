package storetest

import (
	"context"
	"sync"

	"github.com/closured/closured/nixstore"
)

// Evaluator is a nixstore.Evaluator for tests: each package, flake or expression
// that was Defined gives the outputs of its function.
type Evaluator struct {
	mu          sync.Mutex // guards all below
	define      map[string]func() []nixstore.Output
	fingerprint string
	count       int
	hook        func(ctx context.Context) error
}

var _ nixstore.Evaluator = (*Evaluator)(nil)

// Define lets name evaluate to what outputs gives, which is called once for each
// evaluation, as instantiation writes the derivations each time.
func (e *Evaluator) Define(name string, outputs func() []nixstore.Output) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.define == nil {
		e.define = map[string]func() []nixstore.Output{}
	}
	e.define[name] = outputs
}

// SetFingerprint sets what Fingerprint gives.
func (e *Evaluator) SetFingerprint(f string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fingerprint = f
}

// SetHook sets what is called in each evaluation; it may wait or fail.
func (e *Evaluator) SetHook(hook func(ctx context.Context) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hook = hook
}

// Count gives the number of evaluations so far.
func (e *Evaluator) Count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.count
}

// Evaluate implements nixstore.Evaluator.
func (e *Evaluator) Evaluate(ctx context.Context, src nixstore.Source) ([]nixstore.Output, error) {
	e.mu.Lock()
	e.count++
	hook := e.hook
	e.mu.Unlock()
	if hook != nil {
		if err := hook(ctx); err != nil {
			return nil, err
		}
	}
	var outs []nixstore.Output
	for _, name := range names(src) {
		e.mu.Lock()
		outputs, ok := e.define[name]
		e.mu.Unlock()
		if !ok {
			return nil, nixstore.Fail(nixstore.ErrNotFound, "", "no package has the name %s", nixstore.Quote(name))
		}
		outs = append(outs, outputs()...)
	}
	return outs, nil
}

func names(src nixstore.Source) []string {
	switch src.Kind {
	case nixstore.SourceFlake:
		return []string{src.Flake}
	case nixstore.SourceExpr:
		return []string{src.Expr}
	default:
		return src.Packages
	}
}

// Fingerprint implements nixstore.Evaluator.
func (e *Evaluator) Fingerprint(nixstore.Source) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fingerprint
}
