package storetest

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/closured/closured/nixstore"
)

var _ nixstore.Store = (*Memory)(nil)

// step counts a step and calls the hook.
func (m *Memory) step(ctx context.Context, op string, p nixstore.StorePath) error {
	m.mu.Lock()
	m.counts[Step{op, p}]++
	hook := m.hook
	m.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(ctx, Step{op, p})
}

// Registration implements nixstore.Reader.
func (m *Memory) Registration(ctx context.Context, root nixstore.StorePath) (int64, error) {
	if err := m.step(ctx, "registration", root); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.valid[root]
	if !ok {
		return 0, notValid(root)
	}
	return e.registration, nil
}

// Closure implements nixstore.Reader.
func (m *Memory) Closure(ctx context.Context, root nixstore.StorePath) (nixstore.Closure, error) {
	if err := m.step(ctx, "closure", root); err != nil {
		return nixstore.Closure{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.valid[root]
	if !ok {
		return nixstore.Closure{}, notValid(root)
	}
	c := nixstore.Closure{Root: root, Registration: e.registration}
	for p := range m.reachableLocked(root) {
		info := m.valid[p].info
		info.References = slices.Clone(info.References)
		c.Paths = append(c.Paths, info)
	}
	slices.SortFunc(c.Paths, func(a, b nixstore.PathInfo) int { return a.Path.Compare(b.Path) })
	return c, nil
}

// Realise implements nixstore.Realiser.
func (m *Memory) Realise(ctx context.Context, outputs []nixstore.Output, opts nixstore.RealiseOptions) error {
	defer m.forget(m.protect(outputs))
	for i, out := range outputs {
		if err := m.step(ctx, "realise", out.Path); err != nil {
			return err
		}
		if opts.Progress != nil {
			opts.Progress(nixstore.Progress{
				Phase: "building", What: out.Path.String(), Done: int64(i), Total: int64(len(outputs)),
			})
		}
		if err := m.realise(ctx, out, opts.Build); err != nil {
			return fmt.Errorf("realising %s: %w", out.Path, err)
		}
	}
	return nil
}

// protect makes the outputs and what builds them roots of this realisation, as
// a client's temporary roots are for Nix's collector.
func (m *Memory) protect(outputs []nixstore.Output) []nixstore.StorePath {
	m.mu.Lock()
	defer m.mu.Unlock()
	var roots []nixstore.StorePath
	for _, out := range outputs {
		roots = append(roots, out.Path)
		roots = append(roots, out.Derivation)
	}
	for _, p := range roots {
		m.temporary[p]++
	}
	return roots
}

func (m *Memory) forget(roots []nixstore.StorePath) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range roots {
		if m.temporary[p]--; m.temporary[p] == 0 {
			delete(m.temporary, p)
		}
	}
}

func (m *Memory) realise(ctx context.Context, out nixstore.Output, build bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.isValid(out.Path) {
		return nil
	}
	if info, ok := m.offer(out.Path); ok {
		return m.substitute(ctx, info)
	}
	recipe, ok := m.recipe(out.Derivation)
	if !ok || !build {
		return notValid(out.Path)
	}
	defer m.forget(m.protect(recipe.Inputs))
	for _, in := range recipe.Inputs {
		if err := m.realise(ctx, in, build); err != nil {
			return err
		}
	}
	return m.build(ctx, out, recipe)
}

func (m *Memory) substitute(ctx context.Context, info nixstore.PathInfo) error {
	if err := m.step(ctx, "substitute", info.Path); err != nil {
		return err
	}
	for _, ref := range info.References {
		if ref == info.Path {
			continue
		}
		refOut := []nixstore.Output{{Path: ref}}
		defer m.forget(m.protect(refOut))
		if err := m.realise(ctx, refOut[0], false); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.registerLocked(info)
	return nil
}

// build runs the builder, unless another call does: then it waits for that.
func (m *Memory) build(ctx context.Context, out nixstore.Output, r Recipe) error {
	over, mine := m.claim(out.Path)
	for !mine {
		select {
		case <-over:
		case <-ctx.Done():
			return ctx.Err()
		}
		if m.isValid(out.Path) {
			return nil
		}
		over, mine = m.claim(out.Path)
	}
	defer m.unclaim(out.Path)
	if err := m.step(ctx, "build", out.Path); err != nil {
		return err
	}
	if r.Hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	if r.Fails {
		failure := nixstore.Fail(nixstore.ErrBuild, "read the log", "the builder of %s failed", out.Derivation)
		failure.Log = []string{"this builder fails"}
		return failure
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.registerLocked(result(out.Derivation, r))
	return nil
}

func (m *Memory) claim(p nixstore.StorePath) (over chan struct{}, mine bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if over, ok := m.busy[p]; ok {
		return over, false
	}
	m.busy[p] = make(chan struct{})
	return m.busy[p], true
}

func (m *Memory) unclaim(p nixstore.StorePath) {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.busy[p])
	delete(m.busy, p)
}

// Merge implements nixstore.Realiser.
func (m *Memory) Merge(ctx context.Context, roots []nixstore.StorePath) (nixstore.Output, error) {
	roots = slices.SortedFunc(slices.Values(roots), nixstore.StorePath.Compare)
	roots = slices.Compact(roots)
	r := Recipe{Name: "merged"}
	for _, root := range roots {
		if err := m.step(ctx, "merge", root); err != nil {
			return nixstore.Output{}, err
		}
		if !m.isValid(root) {
			return nixstore.Output{}, notValid(root)
		}
		r.Inputs = append(r.Inputs, nixstore.Output{Path: root})
	}
	// The derivation refers to the roots themselves, not to derivations of them.
	m.mu.Lock()
	defer m.mu.Unlock()
	info := describe("derivation", "merged.drv", "", roots)
	m.recipes[info.Path] = r
	m.registerLocked(info)
	return nixstore.Output{Path: result(info.Path, r).Path, Derivation: info.Path, Name: "out"}, nil
}

// Hold implements nixstore.Barrier.
func (m *Memory) Hold(ctx context.Context) (release func(), err error) {
	if err := m.step(ctx, "hold", nixstore.StorePath{}); err != nil {
		return nil, err
	}
	if err := m.barrier.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	if err := m.step(ctx, "held", nixstore.StorePath{}); err != nil {
		m.barrier.Release(1)
		return nil, err
	}
	return func() { m.barrier.Release(1) }, nil
}

// Collect deletes what no root keeps, once no barrier is held.
func (m *Memory) Collect(ctx context.Context) error {
	if err := m.barrier.Acquire(ctx, everybody); err != nil {
		return err
	}
	defer m.barrier.Release(everybody)
	roots := m.readRoots()
	if err := m.step(ctx, "collect", nixstore.StorePath{}); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// Temporary roots count up to the end: Nix's realisations tell them to a
	// collector that runs already.
	roots = slices.AppendSeq(roots, maps.Keys(m.temporary))
	alive := m.reachableLocked(roots...)
	maps.DeleteFunc(m.valid, func(p nixstore.StorePath, _ entry) bool { return !alive[p] })
	return nil
}

func (m *Memory) readRoots() []nixstore.StorePath {
	m.mu.Lock()
	roots := slices.Collect(maps.Keys(m.rooted))
	further := m.roots
	m.mu.Unlock()
	if further != nil {
		roots = append(roots, further()...)
	}
	// As Nix does: a root that is not valid now is none for this collection, even if
	// it becomes valid before the collection ends.
	return slices.DeleteFunc(roots, func(p nixstore.StorePath) bool { return !m.isValid(p) })
}

// reachableLocked gives all valid paths that the roots lead to.
func (m *Memory) reachableLocked(roots ...nixstore.StorePath) map[nixstore.StorePath]bool {
	seen := map[nixstore.StorePath]bool{}
	todo := slices.Clone(roots)
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if e, ok := m.valid[p]; ok && !seen[p] {
			seen[p] = true
			todo = append(todo, e.info.References...)
		}
	}
	return seen
}

func (m *Memory) isValid(p nixstore.StorePath) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.valid[p]
	return ok
}

func (m *Memory) offer(p nixstore.StorePath) (nixstore.PathInfo, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	info, ok := m.offered[p]
	return info, ok
}

// recipe gives the recipe of a derivation that is still in the store.
func (m *Memory) recipe(drv nixstore.StorePath) (Recipe, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.recipes[drv]
	_, valid := m.valid[drv]
	return r, ok && valid
}

func notValid(p nixstore.StorePath) error {
	return nixstore.Fail(nixstore.ErrNotFound, "push it to the cache", "%s is not in the store and no cache has it", p)
}
