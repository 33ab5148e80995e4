package provide

import (
	"context"
	"errors"
	"sync"

	"github.com/closured/closured/nixstore"
)

// holder is what is known of a holder while a call of it runs, or while it has
// a pin that no answer has named yet.
type holder struct {
	id    nixstore.Holder
	calls int // running calls; guarded by the provider's mutex

	mu       sync.Mutex // held while the pin changes; guards all below
	releases int        // calls of Release so far, so that older calls of Provide notice
	pending  bool       // has a pin that no answer has named
}

// call is one running Provide or Release of a holder.
type call struct {
	*holder
	since int // releases when it began
}

// name is the holder's name in flights and leases.
func (h *holder) name() string { return string(h.id.Kind) + "/" + h.id.Name }

func (h *holder) answered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending = false
}

func (p *Provider) enter(id nixstore.Holder) call {
	p.mu.Lock()
	h := p.holders[id]
	if h == nil {
		h = &holder{id: id}
		p.holders[id] = h
	}
	h.calls++
	p.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	return call{holder: h, since: h.releases}
}

func (p *Provider) exit(c call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.calls--
	// Nobody has c.mu when no call runs, and pending is what they left.
	if c.calls == 0 && !c.pending {
		delete(p.holders, c.id)
	}
}

// pinAndCheck pins root for the holder and tells whether it is valid then. It is
// the one rule against races with collectors:
//
//  1. hold the barrier, 2. pin, 3. find the root valid, 4. release.
//
// Nix's collector takes its lock exclusively before it reads the roots, and keeps
// it to its end; a hold shares that lock. So each collection lies wholly before
// the hold or wholly after. What one before it took is not valid in step 3, and
// is realised again by the caller, with the pin in place. One after it reads the
// roots when the pin is there and its path valid, and keeps that with all that it
// references, which is valid because Nix never lets a path be valid without its
// references. Without the hold a collector that read the roots before the pin was
// there, or while its path was not valid, takes the path after step 3. So a pin
// that was made before the realisation does not spare the hold after it.
func (p *Provider) pinAndCheck(ctx context.Context, c call, root nixstore.StorePath) (nixstore.Realised, bool, error) {
	release, err := p.cfg.Store.Hold(ctx)
	if err != nil {
		return nixstore.Realised{}, false, err
	}
	defer release()
	if err := p.pin(c, root); err != nil {
		return nixstore.Realised{}, false, err
	}
	registration, err := p.cfg.Store.Registration(ctx, root)
	if errors.Is(err, nixstore.ErrNotFound) {
		return nixstore.Realised{}, false, nil
	}
	return nixstore.Realised{Root: root, Registration: registration}, err == nil, err
}

// pin pins root. A pin of another root that no answer has named was a guess,
// and gives way.
func (p *Provider) pin(c call, root nixstore.StorePath) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.releases != c.since {
		return nixstore.Fail(nixstore.ErrBusy, "ask again", "the holder was released meanwhile")
	}
	old, had := p.cfg.Pins.Get(c.id)
	if had && old != root && c.pending {
		if err := p.cfg.Pins.Drop(c.id); err != nil {
			return err
		}
		had = false
	}
	if err := p.cfg.Pins.Put(c.id, root); err != nil {
		return err
	}
	c.pending = c.pending || !had
	return nil
}

// unpin drops the holder's pin after a failure, unless a Release came between:
// then the pin, if there is one, belongs to a later call.
func (p *Provider) unpin(c call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.releases != c.since {
		return nil
	}
	return p.dropLocked(c)
}

// release drops the holder's pin, and lets older calls make none.
func (p *Provider) release(c call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.releases++
	return p.dropLocked(c)
}

func (p *Provider) dropLocked(c call) error {
	if err := p.cfg.Pins.Drop(c.id); err != nil {
		return err
	}
	c.pending = false
	return nil
}
