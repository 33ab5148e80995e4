package provide

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/flight"
)

// work gives the flight of a source: evaluate, realise, merge, remember.
func (p *Provider) work(w want) flight.Func[nixstore.StorePath] {
	return func(ctx context.Context, report func(nixstore.Progress)) (root nixstore.StorePath, err error) {
		l := p.beginLease(w.key, short(w.src))
		defer func() { p.endLease(l, err) }()
		roots, err := p.obtain(ctx, l, w.build, func() ([]nixstore.Output, error) {
			return p.evaluate(ctx, w.src, report)
		})
		if err != nil {
			return nixstore.StorePath{}, err
		}
		if len(roots) > 1 {
			// The builder of a merge is Nix's own, so that policy has no say in it.
			roots, err = p.obtain(ctx, l, true, func() ([]nixstore.Output, error) {
				merged, err := p.cfg.Store.Merge(ctx, roots)
				return []nixstore.Output{merged}, err
			})
			if err != nil {
				return nixstore.StorePath{}, fmt.Errorf("merging %d roots: %w", len(roots), err)
			}
		}
		p.known.put(w.key, roots[0])
		return roots[0], nil
	}
}

// naming evaluates or merges: it gives outputs, with derivations that no root keeps.
type naming func() ([]nixstore.Output, error)

// obtain realises what name names and gives it, sorted, valid and pinned for the
// flight. name is called again when a collector took a derivation before it was
// pinned.
func (p *Provider) obtain(ctx context.Context, l *lease, build bool, name naming) ([]nixstore.StorePath, error) {
	for attempt := range attemptsMax {
		secure := p.secure
		if attempt >= attemptsFree {
			secure = p.secureInHold
		}
		outs, have, err := secure(ctx, l, build, name)
		if err == nil && have == missing {
			if err = p.realise(ctx, l, outs, build); err == nil {
				have, err = p.lookInHold(ctx, outs)
			}
		}
		if err != nil {
			return nil, err
		}
		if have == complete {
			return paths(outs), nil
		}
	}
	return nil, lostAgain()
}

// presence is how much of some outputs is in the store.
type presence int

const (
	complete presence = iota // all outputs are valid
	missing                  // not all, but what is needed to realise the others
	lost                     // a derivation is gone: name the outputs again
)

// secure names the outputs, pins them and, when they may be built, their
// derivations, and tells what of them is there. It is pinAndCheck for a flight.
// An evaluation may take a minute, too long to keep collectors away, so that it
// runs without the barrier and what it made is pinned and checked after.
func (p *Provider) secure(ctx context.Context, l *lease, build bool, name naming) ([]nixstore.Output, presence, error) {
	outs, err := name()
	if err != nil {
		return nil, lost, err
	}
	release, err := p.cfg.Store.Hold(ctx)
	if err != nil {
		return nil, lost, err
	}
	defer release()
	have, err := p.pinAndLook(ctx, l, outs, build)
	return outs, have, err
}

// secureInHold is secure with the barrier held all the time. Beside a collector
// that runs without a pause the derivations would be lost again and again: now
// it is the collector who waits.
func (p *Provider) secureInHold(ctx context.Context, l *lease, build bool, name naming) ([]nixstore.Output, presence, error) {
	release, err := p.cfg.Store.Hold(ctx)
	if err != nil {
		return nil, lost, err
	}
	defer release()
	outs, err := name()
	if err != nil {
		return nil, lost, err
	}
	have, err := p.pinAndLook(ctx, l, outs, build)
	return outs, have, err
}

// pinAndLook needs the barrier.
func (p *Provider) pinAndLook(ctx context.Context, l *lease, outs []nixstore.Output, build bool) (presence, error) {
	for _, out := range outs {
		if err := p.pinForFlight(l, out.Path); err != nil {
			return lost, err
		}
		if build && !out.Derivation.IsZero() {
			if err := p.pinForFlight(l, out.Derivation); err != nil {
				return lost, err
			}
		}
	}
	return p.look(ctx, outs, build)
}

// lookInHold looks at outputs that are pinned and were realised. Pins that are
// older than the realisation are not enough: Nix's collector skips a root that is
// not valid when it reads the roots (LocalStore::findRoots, libstore/gc.cc), and
// one that read them during a build may take the result right after. A hold
// waits for the end of that one, and those after it find a valid root.
func (p *Provider) lookInHold(ctx context.Context, outs []nixstore.Output) (presence, error) {
	release, err := p.cfg.Store.Hold(ctx)
	if err != nil {
		return lost, err
	}
	defer release()
	return p.look(ctx, outs, false)
}

// look tells what of the outputs is valid; derivations matter if build says so.
func (p *Provider) look(ctx context.Context, outs []nixstore.Output, build bool) (presence, error) {
	have := complete
	for _, out := range outs {
		valid, err := p.isValid(ctx, out.Path)
		if err != nil {
			return lost, err
		}
		if valid {
			continue
		}
		have = missing
		if !build || out.Derivation.IsZero() {
			continue
		}
		if valid, err = p.isValid(ctx, out.Derivation); err != nil || !valid {
			return lost, err
		}
	}
	return have, nil
}

func (p *Provider) isValid(ctx context.Context, path nixstore.StorePath) (bool, error) {
	_, err := p.cfg.Store.Registration(ctx, path)
	if errors.Is(err, nixstore.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// realise joins or starts the realisation of exactly these outputs, and waits.
func (p *Provider) realise(ctx context.Context, l *lease, outs []nixstore.Output, build bool) error {
	f := p.realisations.Join(ctx, realisationKey(outs, build), l.key,
		func(ctx context.Context, report func(nixstore.Progress)) (struct{}, error) {
			p.counts.realisations.Add(1)
			opts := nixstore.RealiseOptions{Build: build, Progress: report}
			ctx, done := context.WithCancel(ctx)
			defer done()
			if p.cfg.Peers != nil {
				opts.Substituters = p.cfg.Peers(ctx, paths(outs))
			}
			return struct{}{}, p.cfg.Store.Realise(ctx, outs, opts)
		})
	defer p.realisations.Leave(l.key)
	p.mu.Lock()
	l.inner = f
	p.mu.Unlock()
	_, err := f.Wait(ctx)
	return err
}

// realisationKey is equal for equal work. Whether it may build is a part of it:
// else a holder that may would get the failure of one that may not.
func realisationKey(outs []nixstore.Output, build bool) string {
	words := make([]string, 0, len(outs))
	for _, out := range outs {
		word := out.Path.BaseName()
		if build {
			word += "<" + out.Derivation.BaseName()
		}
		words = append(words, word)
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), " ")
}

// evaluate names the outputs of a source.
func (p *Provider) evaluate(ctx context.Context, src nixstore.Source, report func(nixstore.Progress)) ([]nixstore.Output, error) {
	if src.Kind == nixstore.SourceStorePath {
		outs := make([]nixstore.Output, 0, len(src.Paths))
		for _, path := range src.Paths {
			outs = append(outs, nixstore.Output{Path: path})
		}
		return outs, nil
	}
	report(nixstore.Progress{Phase: "evaluating", What: short(src)})
	p.counts.evaluations.Add(1)
	outs, err := p.cfg.Evaluator.Evaluate(ctx, src)
	if err == nil && len(outs) == 0 {
		err = nixstore.Fail(nixstore.ErrEvaluation, "name a derivation", "it evaluates to nothing that could be realised")
	}
	return outs, err
}

// paths gives the paths of outputs, sorted and without doubles.
func paths(outs []nixstore.Output) []nixstore.StorePath {
	all := make([]nixstore.StorePath, 0, len(outs))
	for _, out := range outs {
		all = append(all, out.Path)
	}
	slices.SortFunc(all, nixstore.StorePath.Compare)
	return slices.Compact(all)
}
