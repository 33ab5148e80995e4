package niximages

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/pins"
)

// Pins are the pins of the node; see package pins. Safe for concurrent use.
type Pins interface {
	Put(h nixstore.Holder, root nixstore.StorePath) error
	Drop(h nixstore.Holder) error
	List(kind nixstore.HolderKind) []pins.Pin
}

// keepAgain is how long after a failure to pin or to unpin it is tried again,
// when nothing changes.
const keepAgain = time.Minute

// Keep pins what the node built for as long as an object names it, until ctx ends;
// the pins stay then. It always gives nil. A pin that an earlier process left goes
// only when all objects were seen and none names it.
func (i *Images) Keep(ctx context.Context, node string, p Pins) error {
	trouble := ""
	for {
		roots, next, known := i.builtOn(node)
		var err error
		if known {
			err = keep(p, roots)
		}
		var again <-chan time.Time
		if err == nil {
			trouble = ""
		} else {
			again = time.After(keepAgain)
			if trouble != err.Error() {
				trouble = err.Error()
				i.log.Error("pins of built images are not as they should be", slog.String(logkey.Error, trouble))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-next:
		case <-again:
		}
	}
}

// builtOn gives the roots that the node built, and what is closed at the next
// change. known is false until all objects were seen, or there surely are none: the
// cluster does not know the kind.
func (i *Images) builtOn(node string) (roots map[nixstore.StorePath]struct{}, next <-chan struct{}, known bool) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	roots = map[nixstore.StorePath]struct{}{}
	for _, o := range i.objects {
		o.eachImage(func(found image) {
			if found.node == node && found.system == i.cfg.System {
				roots[found.root] = struct{}{}
			}
		})
	}
	return roots, i.changed, i.seen || i.absent >= absentSure
}

// keep pins exactly these roots.
func keep(p Pins, roots map[nixstore.StorePath]struct{}) error {
	var problems []error
	for _, pin := range p.List(nixstore.HolderBuilt) {
		if _, ok := roots[pin.Root]; !ok || pin.Holder != builtHolder(pin.Root) {
			problems = append(problems, p.Drop(pin.Holder))
		}
	}
	for root := range roots {
		problems = append(problems, p.Put(builtHolder(root), root))
	}
	return errors.Join(problems...)
}

func builtHolder(root nixstore.StorePath) nixstore.Holder {
	return nixstore.Holder{Kind: nixstore.HolderBuilt, Name: root.Hash()}
}
