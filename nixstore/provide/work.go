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

// obtain realises what name names and gives it, sorted, valid and pinned for the
// flight. name is called again when a collector took a derivation before it was
// pinned.
func (p *Provider) obtain(ctx context.Context, l *lease, build bool, name func() ([]nixstore.Output, error)) ([]nixstore.StorePath, error) {
	for range attempts {
		outs, err := name()
		if err != nil {
			return nil, err
		}
		have, err := p.secure(ctx, l, outs, build)
		if err == nil && have == missing {
			err = p.realise(ctx, l, outs, build)
			if err == nil {
				// Their pins are older than the realisation, so that no collector
				// can have taken them: this asks whether the store kept its word.
				have, err = p.look(ctx, outs, false)
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

// secure pins the outputs and, when they may be built, their derivations, and
// tells what of them is there. It is pinAndCheck for a flight. An evaluation may
// take a minute, too long to keep collectors away, so that it runs without the
// barrier and what it made is pinned and checked after.
func (p *Provider) secure(ctx context.Context, l *lease, outs []nixstore.Output, build bool) (presence, error) {
	release, err := p.cfg.Store.Hold(ctx)
	if err != nil {
		return lost, err
	}
	defer release()
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
			return struct{}{}, p.cfg.Store.Realise(ctx, outs, nixstore.RealiseOptions{Build: build, Progress: report})
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
