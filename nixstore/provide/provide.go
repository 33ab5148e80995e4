package provide

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/flight"
	"github.com/closured/closured/nixstore/pins"
)

const (
	// flightsMax bounds how often one request flies again because its root was gone
	// after the flight. Flights pin what they make until the holder has, so that
	// only somebody who ignores Nix's locks makes a second one necessary.
	flightsMax = 3
	// attemptsMax bounds how often one flight realises what a collector took before
	// it was seen valid and pinned. Beside Nix 2.8 collecting without any pause, two
	// of five quick builds went that way (the suite of storetest counts them), so
	// that one flight in a hundred gives up, and its next one goes on.
	attemptsMax = 5
	// attemptsFree is how many of them name their outputs without the barrier.
	attemptsFree = 2
)

// Config says what a Provider stands on.
type Config struct {
	Store nixstore.Store // required
	Pins  *pins.Pins     // required
	// Evaluator resolves packages, flakes and expressions; nil: they are refused.
	Evaluator nixstore.Evaluator
	// Images resolves <namespace>/<name> of an image to its source, which is no
	// image itself; nil: images are refused.
	Images func(ctx context.Context, name string) (nixstore.Source, error)
	// Peers gives binary caches that may have what is to be realised, besides those
	// that the store knows (nixstore.RealiseOptions.Substituters); it is quick, and
	// its failures are its own. ctx ends when they are asked no more. nil: there are none.
	Peers func(ctx context.Context, paths []nixstore.StorePath) []string
	// Log gets what goes wrong beside an answer. nil: discarded.
	Log *slog.Logger
	// Grace is how long work goes on when nobody needs it any more. Default 30 s.
	Grace time.Duration
	// Limit bounds one evaluation with its realisation. Default 2 h.
	Limit time.Duration
	// Lapse is how long a holder that did not come back still counts. Default 10 min.
	Lapse time.Duration
}

// Provider implements nixstore.Provider. Make it with New, end it with Close.
type Provider struct {
	cfg   Config
	log   *slog.Logger
	known *memo

	sources      *flight.Group[nixstore.StorePath] // by source: the root
	realisations *flight.Group[struct{}]           // by outputs

	counts  counters
	flights atomic.Uint64 // names of flight pins given so far

	mu      sync.Mutex // guards all below
	holders map[nixstore.Holder]*holder
	leases  map[string]*lease // by key of the source's flight
}

var _ nixstore.Provider = (*Provider)(nil)

// New makes a provider and drops the pins of flights that an earlier process
// left. The error joins every problem.
func New(cfg Config) (*Provider, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Lapse == 0 {
		cfg.Lapse = 10 * time.Minute
	}
	var problems []error
	if cfg.Store == nil {
		problems = append(problems, errors.New("no store"))
	}
	if cfg.Pins == nil {
		problems = append(problems, errors.New("no pins"))
	}
	times := flight.Config{Grace: cfg.Grace, Limit: cfg.Limit, Lapse: cfg.Lapse, Log: cfg.Log}
	sources, err := flight.New[nixstore.StorePath](times)
	problems = append(problems, err)
	times.Grace = -1 // the grace was the source's: when that ends, so does this
	realisations, err := flight.New[struct{}](times)
	problems = append(problems, err)
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("making a provider: %w", err)
	}
	for _, pin := range cfg.Pins.List(nixstore.HolderFlight) {
		if err := cfg.Pins.Drop(pin.Holder); err != nil {
			return nil, fmt.Errorf("sweeping the pins of flights: %w", err)
		}
	}
	return &Provider{
		cfg: cfg, log: cfg.Log, known: newMemo(),
		sources: sources, realisations: realisations,
		holders: map[nixstore.Holder]*holder{}, leases: map[string]*lease{},
	}, nil
}

// Provide implements nixstore.Provider. Beside the errors of the store and the
// evaluator it gives ErrInvalid (a source without content, or one that this node
// has no resolver for), and ErrConflict when the holder has a pin of an earlier
// answer with another root: that pin stays, for something may use it.
func (p *Provider) Provide(ctx context.Context, req nixstore.Request) (nixstore.Realised, error) {
	if err := pins.CheckHolder(req.Holder); err != nil {
		return nixstore.Realised{}, err
	}
	c := p.enter(req.Holder)
	defer p.exit(c)
	src, err := p.resolve(ctx, req.Source)
	if err != nil {
		return nixstore.Realised{}, p.settle(ctx, c, req.Source, err)
	}
	got, err := p.provide(ctx, c, p.want(src, req.Build))
	if errors.Is(err, nixstore.ErrNotFound) && src.Origin != nil {
		got, err = p.makeAgain(ctx, c, src, req.Build)
	}
	return got, p.settle(ctx, c, src, err)
}

// makeAgain makes a path of its origin, because nobody has it any more. A merge of
// several packages is in no cache ever, and one package that was built here may be
// in none. The origin may lead elsewhere by now, as when the package set was
// replaced: what was named is the path, so that nothing else is given for it.
func (p *Provider) makeAgain(ctx context.Context, c call, src nixstore.Source, build bool) (nixstore.Realised, error) {
	origin := src.Origin.Source
	if err := p.check(origin); err != nil {
		return nixstore.Realised{}, err
	}
	p.log.Info("no cache has a path, making it again", slog.String(logkey.Root, short(src)), slog.String(logkey.Source, string(origin.Kind)))
	got, err := p.provide(ctx, c, p.want(origin, build && src.Origin.Build))
	if err == nil && !slices.Equal(src.Paths, []nixstore.StorePath{got.Root}) {
		return nixstore.Realised{}, nixstore.Fail(nixstore.ErrNotFound, "apply the image anew: delete and create it",
			"no node and no cache has it any more, and its source leads to another path now")
	}
	return got, err
}

// Release implements nixstore.Provider. A Provide of the same holder that is
// still running makes no pin after it.
func (p *Provider) Release(_ context.Context, who nixstore.Holder) error {
	c := p.enter(who)
	defer p.exit(c)
	p.sources.Leave(c.name())
	p.leaveLeases(c.name())
	return p.release(c)
}

// Close cancels all flights, waits for them and drops their pins. Pins of
// holders stay: they belong to mounts that stay too.
func (p *Provider) Close() {
	p.sources.Close()
	p.realisations.Close()
	p.endLeases()
}

// want is a source with what decides about its result.
type want struct {
	src   nixstore.Source
	build bool
	key   string             // of memo and flight
	root  nixstore.StorePath // when the source says it itself; else zero
}

func (p *Provider) want(src nixstore.Source, build bool) want {
	w := want{src: src, build: build}
	if src.Kind == nixstore.SourceStorePath {
		w.build = false // a path has no derivation: there is nothing to build
		if roots := src.Canonical().Paths; len(roots) == 1 {
			w.root = roots[0]
		}
		w.key = src.Key()
		return w
	}
	w.key = fmt.Sprintf("%s build=%t %s", src.Key(), build, p.cfg.Evaluator.Fingerprint(src))
	return w
}

// provide finds the root, by memory or by a flight, and pins it, until it is
// pinned and valid.
func (p *Provider) provide(ctx context.Context, c call, w want) (nixstore.Realised, error) {
	root, known := w.root, !w.root.IsZero()
	if !known {
		root, known = p.known.get(w.key)
	}
	for flown := 0; ; flown++ {
		if known {
			got, valid, err := p.pinAndCheck(ctx, c, root)
			if err != nil {
				return nixstore.Realised{}, err
			}
			if valid {
				p.counts.answered(flown)
				return got, nil
			}
		}
		if flown == flightsMax {
			return nixstore.Realised{}, lostAgain()
		}
		p.joinLease(w.key, c.name())
		f := p.sources.Join(ctx, w.key, c.name(), p.work(w))
		var err error
		if root, err = f.Wait(ctx); err != nil {
			return nixstore.Realised{}, err
		}
		known = true
	}
}

// settle makes the contract of Provide true: what it leaves behind follows from
// how it ended.
func (p *Provider) settle(ctx context.Context, c call, src nixstore.Source, err error) error {
	if err == nil {
		c.answered()
		p.leaveLeases(c.name())
		return nil
	}
	if errors.Is(err, nixstore.ErrBusy) || (ctx.Err() != nil && errors.Is(err, ctx.Err())) {
		p.counts.busy.Add(1)
		// Always the same words: kubelet merges equal events and floods with others.
		return nixstore.Fail(nixstore.ErrBusy, "wait: it is there when that is done",
			"realising %s: still in progress", short(src))
	}
	p.counts.failed.Add(1)
	p.leaveLeases(c.name())
	if !errors.Is(err, nixstore.ErrUnavailable) && !errors.Is(err, nixstore.ErrNoSpace) {
		p.sources.Leave(c.name()) // final: nobody comes back, nor says that he does not
	}
	err = fmt.Errorf("realising %s: %w", short(src), err)
	if errors.Is(err, nixstore.ErrConflict) {
		return err
	}
	return errors.Join(err, p.unpin(c))
}

func lostAgain() error {
	return nixstore.Fail(nixstore.ErrUnavailable, "look for a collector that ignores Nix's locks",
		"what was realised was gone from the store again and again")
}
