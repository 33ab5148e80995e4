package provide

import (
	"log/slog"
	"strconv"
	"time"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/flight"
)

// lease keeps the pins of one source's flight: on its derivations between their
// evaluation and their build, and on its outputs. It lasts while the flight runs,
// and after a success until each holder that wanted the result has its own pin,
// has left, or stayed away too long. So a collection between the end of a build
// and a holder's next call, which kubelet makes up to two minutes later, does not
// undo the build. The provider's mutex guards it.
type lease struct {
	key     string
	source  string                   // for people
	running bool                     // a flight runs; those of one key never overlap
	users   map[string]struct{}      // names of holders
	pins    []nixstore.Holder        // flight pins
	inner   *flight.Flight[struct{}] // what the flight waits for now, for its progress; may be nil
	expiry  *time.Timer              // set while no flight runs
	turn    uint64                   // changes with expiry
}

// joinLease makes the holder a user of the lease of key.
func (p *Provider) joinLease(key, holder string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.leaseLocked(key)
	l.users[holder] = struct{}{}
	p.updateLocked(l)
}

// beginLease notes that a flight of key runs.
func (p *Provider) beginLease(key, source string) *lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.leaseLocked(key)
	l.running = true
	l.source = source
	p.updateLocked(l)
	return l
}

// endLease notes that the flight has ended. A failure has nothing to keep.
func (p *Provider) endLease(l *lease, err error) {
	p.mu.Lock()
	l.running = false
	l.inner = nil
	if err != nil {
		clear(l.users)
	}
	drop := p.updateLocked(l)
	p.mu.Unlock()
	p.dropFlightPins(drop)
}

// leaveLeases ends the holder's use of all leases.
func (p *Provider) leaveLeases(holder string) {
	p.mu.Lock()
	var drop []nixstore.Holder
	for _, l := range p.leases {
		if _, ok := l.users[holder]; ok {
			delete(l.users, holder)
			drop = append(drop, p.updateLocked(l)...)
		}
	}
	p.mu.Unlock()
	p.dropFlightPins(drop)
}

// endLeases ends all leases; no flight runs any more.
func (p *Provider) endLeases() {
	p.mu.Lock()
	var drop []nixstore.Holder
	for _, l := range p.leases {
		clear(l.users)
		drop = append(drop, p.updateLocked(l)...)
	}
	p.mu.Unlock()
	p.dropFlightPins(drop)
}

func (p *Provider) leaseLocked(key string) *lease {
	l := p.leases[key]
	if l == nil {
		l = &lease{key: key, users: map[string]struct{}{}}
		p.leases[key] = l
	}
	return l
}

// updateLocked ends the lease when nobody needs it, and else sees to it that it
// ends one day. It gives the pins to drop once the mutex is free: warm requests
// must not wait for the disk.
func (p *Provider) updateLocked(l *lease) []nixstore.Holder {
	l.turn++
	if l.expiry != nil {
		l.expiry.Stop()
		l.expiry = nil
	}
	if l.running {
		return nil
	}
	if len(l.users) > 0 {
		turn := l.turn
		l.expiry = time.AfterFunc(p.cfg.Lapse, func() { p.expire(l, turn) })
		return nil
	}
	delete(p.leases, l.key)
	drop := l.pins
	l.pins = nil
	return drop
}

func (p *Provider) expire(l *lease, turn uint64) {
	p.mu.Lock()
	var drop []nixstore.Holder
	if l.turn == turn {
		clear(l.users)
		drop = p.updateLocked(l)
	}
	p.mu.Unlock()
	p.dropFlightPins(drop)
}

// progress gives that of the realisation that the flight waits for, which another
// flight may have started, or else the flight's own.
func (l *lease) progress(own nixstore.Progress) nixstore.Progress {
	if l.inner == nil {
		return own
	}
	inner := l.inner.Progress()
	if inner.Phase == "" {
		return own // it has not reported yet
	}
	return inner
}

// pinForFlight pins path for the flight of l, which runs. Its name is new in
// this process, so that two flights never share a pin.
func (p *Provider) pinForFlight(l *lease, path nixstore.StorePath) error {
	h := nixstore.Holder{
		Kind: nixstore.HolderFlight,
		Name: strconv.FormatUint(p.flights.Add(1), 10) + "." + path.Hash(),
	}
	if err := p.cfg.Pins.Put(h, path); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l.pins = append(l.pins, h)
	return nil
}

// dropFlightPins drops what nobody can ask for again: when that fails, the next
// New sweeps it, and until then it only keeps too much.
func (p *Provider) dropFlightPins(drop []nixstore.Holder) {
	for _, h := range drop {
		if err := p.cfg.Pins.Drop(h); err != nil {
			p.log.Error("dropping the pin of a flight", slog.String("pin", h.Name), slog.Any("error", err))
		}
	}
}
