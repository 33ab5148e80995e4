package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/pins"
)

// Pins are the pins of images; see package pins. Safe for concurrent use.
type Pins interface {
	Put(h nixstore.Holder, root nixstore.StorePath) error
	Drop(h nixstore.Holder) error
	Find(kind nixstore.HolderKind, prefix string) []pins.Pin
	Touch(h nixstore.Holder, when time.Time) error
	Used(h nixstore.Holder) (time.Time, error)
}

const (
	// pullSuffix ends the names of pins of pulls that have no answer yet.
	pullSuffix = ".pull"
	// rootsMax bounds how many earlier closures of one name are looked through.
	rootsMax = 8
	// touchEvery bounds how often the use of one pin is written to disk.
	touchEvery = time.Minute
)

// Each image has a pin for each root, "<digest of the name>.<hash of the root>":
// a name that moves on gets a further pin, and the old one lapses by itself.

func prefixOf(canonical string) string {
	sum := sha256.Sum256([]byte(canonical))
	return hex.EncodeToString(sum[:16]) + "."
}

func holderOf(canonical string, root nixstore.StorePath) nixstore.Holder {
	return nixstore.Holder{Kind: nixstore.HolderImage, Name: prefixOf(canonical) + root.Hash()}
}

// holderOfPull gives the holder of one flight, which does not know its root yet.
func holderOfPull(key string) nixstore.Holder {
	return nixstore.Holder{Kind: nixstore.HolderImage, Name: strings.TrimSuffix(prefixOf(key), ".") + pullSuffix}
}

// keeper knows which pins of images are in use, and drops those that no longer are.
type keeper struct {
	pins Pins
	keep time.Duration
	log  *slog.Logger

	mu     sync.Mutex // guards all below, and is held while a pin changes
	leases map[nixstore.Holder]*lease
}

// lease is one pin.
type lease struct {
	users   int
	used    time.Time // the end of the last use
	written time.Time // the last use that is on disk
}

// newKeeper adopts the pins of an earlier process. Their ages are taken once, from
// the wall clock; from then on a clock that jumps changes nothing.
func newKeeper(p Pins, keep time.Duration, log *slog.Logger) (*keeper, error) {
	k := &keeper{pins: p, keep: keep, log: log, leases: map[nixstore.Holder]*lease{}}
	now := time.Now()
	for _, pin := range p.Find(nixstore.HolderImage, "") {
		if strings.HasSuffix(pin.Holder.Name, pullSuffix) {
			if err := p.Drop(pin.Holder); err != nil {
				return nil, fmt.Errorf("sweeping the pins of pulls: %w", err)
			}
			continue
		}
		used, err := p.Used(pin.Holder)
		if err != nil {
			used = now // removed by hand meanwhile, or unreadable: the sweep comes to it
		}
		age := min(max(now.Sub(used), 0), keep)
		k.leases[pin.Holder] = &lease{used: now.Add(-age), written: now.Add(-age)}
	}
	return k, nil
}

// hold pins root for h, which somebody pins already or has just found valid, and
// uses the pin until release is called.
func (k *keeper) hold(h nixstore.Holder, root nixstore.StorePath) (release func(), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.pins.Put(h, root); err != nil {
		return nil, err
	}
	l := k.leases[h]
	if l == nil {
		l = &lease{}
		k.leases[h] = l
	}
	return k.useLocked(h, l), nil
}

// resume uses the pin of h, if it is still there.
func (k *keeper) resume(h nixstore.Holder) (release func(), ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.leases[h]
	if l == nil {
		return nil, false
	}
	return k.useLocked(h, l), true
}

func (k *keeper) useLocked(h nixstore.Holder, l *lease) (release func()) {
	l.users++
	k.noteLocked(h, l)
	return sync.OnceFunc(func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		l.users--
		k.noteLocked(h, l)
	})
}

// noteLocked notes a use. On disk it matters only after a restart, so that a
// failure is no reason to fail a pull.
func (k *keeper) noteLocked(h nixstore.Holder, l *lease) {
	l.used = time.Now()
	if l.used.Sub(l.written) < touchEvery {
		return
	}
	l.written = l.used
	if err := k.pins.Touch(h, l.used); err != nil && !errors.Is(err, nixstore.ErrNotFound) {
		k.log.Warn("noting the use of an image's pin", slog.String(logkey.Pin, h.Name), slog.String(logkey.Error, err.Error()))
	}
}

// roots gives what is pinned under a name, at most rootsMax, the one used last first.
func (k *keeper) roots(canonical string) []nixstore.StorePath {
	found := k.pins.Find(nixstore.HolderImage, prefixOf(canonical))
	k.mu.Lock()
	defer k.mu.Unlock()
	var roots []nixstore.StorePath
	for len(found) > 0 && len(roots) < rootsMax {
		last := 0
		for i, pin := range found {
			if k.usedLocked(pin.Holder).After(k.usedLocked(found[last].Holder)) {
				last = i
			}
		}
		if k.leases[found[last].Holder] != nil {
			roots = append(roots, found[last].Root)
		}
		found = append(found[:last], found[last+1:]...)
	}
	return roots
}

func (k *keeper) usedLocked(h nixstore.Holder) time.Time {
	if l := k.leases[h]; l != nil {
		return l.used
	}
	return time.Time{}
}

// sweep drops the pins that nobody has used for as long as they are kept.
func (k *keeper) sweep(ctx context.Context, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for h, l := range k.leases {
		if l.users > 0 || now.Sub(l.used) < k.keep || ctx.Err() != nil {
			continue
		}
		if err := k.pins.Drop(h); err != nil {
			k.log.Error("dropping the pin of an image", slog.String(logkey.Pin, h.Name), slog.String(logkey.Error, err.Error()))
			continue // the next sweep tries again
		}
		delete(k.leases, h)
	}
}
