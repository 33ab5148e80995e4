package drivertest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/pins"
	"github.com/closured/closured/nixstore/provide"
)

// Root gives the store path that the provider has for a name.
func Root(name string) nixstore.StorePath {
	const hash = "00000000000000000000000000000000"
	return nixstore.MustParseStorePath(nixstore.Dir + "/" + hash + "-" + name)
}

// Provider is a nixstore.Provider that has the roots whose names were given to
// Add, as store paths, and as packages and images of the same names.
type Provider struct {
	// Hook is called as a step ("provide", "release") begins; its error is the step's.
	Hook func(step string) error
	// Seen is shown each request; nil: nobody looks.
	Seen func(nixstore.Request)

	pins *pins.Pins

	mu         sync.Mutex       // guards what follows
	works      map[string]*work // by name
	lost       map[string]bool  // names whose store path is gone
	interested map[nixstore.Holder]bool
	provided   int
}

// work is the realisation of one closure. It takes off when somebody waits for it.
type work struct {
	done     chan struct{} // closed when it has ended
	err      error         // how; read after done
	started  time.Time
	progress nixstore.Progress
	waiting  map[nixstore.Holder]bool
}

func newProvider(p *pins.Pins) *Provider {
	return &Provider{pins: p, works: map[string]*work{}, lost: map[string]bool{}, interested: map[nixstore.Holder]bool{}}
}

// Add makes closures that are in the store.
func (p *Provider) Add(names ...string) {
	for _, name := range names {
		p.AddSlow(name)()
	}
}

// AddSlow makes a closure that can be realised, and is when finish is called.
func (p *Provider) AddSlow(name string) (finish func()) {
	end := p.AddEnding(name)
	return func() { end(nil) }
}

// AddEnding makes a closure whose realisation ends, well or with an error, when
// end is called first. Adding it again starts all over.
func (p *Provider) AddEnding(name string) (end func(error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := &work{done: make(chan struct{}), waiting: map[nixstore.Holder]bool{}}
	p.works[name] = w
	var once sync.Once
	return func(err error) {
		once.Do(func() {
			w.err = err
			close(w.done)
		})
	}
}

// SetProgress says how far the realisation of a closure is.
func (p *Provider) SetProgress(name string, progress nixstore.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.works[name].progress = progress
}

// Running gives the realisations that somebody waits for, or did.
func (p *Provider) Running() []provide.Running {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []provide.Running
	for _, name := range slices.Sorted(maps.Keys(p.works)) {
		w := p.works[name]
		if w.started.IsZero() || isClosed(w.done) {
			continue
		}
		var holders []string
		for h := range w.waiting {
			if p.interested[h] {
				holders = append(holders, string(h.Kind)+"/"+h.Name)
			}
		}
		slices.Sort(holders)
		all = append(all, provide.Running{Source: "packages " + name, Started: w.started, Holders: holders, Progress: w.progress})
	}
	return all
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Lost takes a closure out of the store, as a hand or a broken disk does. No
// cache has its path; its package gives Root(name + "-2") from now on, as with a
// package set that was replaced meanwhile.
func (p *Provider) Lost(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost[name] = true
}

// Provide waits for the closure and pins it.
func (p *Provider) Provide(ctx context.Context, req nixstore.Request) (nixstore.Realised, error) {
	p.mu.Lock()
	p.provided++
	p.mu.Unlock()
	if p.Seen != nil {
		p.Seen(req)
	}
	root, err := p.realise(ctx, req)
	have, pinned := p.pins.Get(req.Holder)
	if err == nil && pinned && have != root {
		return nixstore.Realised{}, nixstore.Fail(nixstore.ErrConflict, "", "the holder pins another root")
	}
	if err == nil {
		err = p.pins.Put(req.Holder, root)
	}
	if err == nil {
		p.setInterest(req.Holder, false)
		return nixstore.Realised{Root: root, Registration: 1}, nil
	}
	if ctx.Err() == nil && !errors.Is(err, nixstore.ErrUnavailable) && !errors.Is(err, nixstore.ErrNoSpace) {
		p.setInterest(req.Holder, false) // a pin of an earlier answer stays: something may use it
	}
	return nixstore.Realised{}, err
}

func (p *Provider) realise(ctx context.Context, req nixstore.Request) (nixstore.StorePath, error) {
	if p.Hook != nil {
		if err := p.Hook("provide"); err != nil {
			return nixstore.StorePath{}, err
		}
	}
	name := strings.Join(req.Source.Packages, "+")
	switch req.Source.Kind {
	case nixstore.SourceStorePath:
		name = req.Source.Paths[0].Name()
	case nixstore.SourceImage:
		_, name, _ = strings.Cut(req.Source.Image, "/")
	default: // packages, or nothing that it has
	}
	p.mu.Lock()
	w, known := p.works[name]
	if p.lost[name] {
		known = known && req.Source.Kind != nixstore.SourceStorePath
		name += "-2"
	}
	p.mu.Unlock()
	if !known {
		return nixstore.StorePath{}, nixstore.Fail(nixstore.ErrNotFound, "check its spelling", "there is no closure of that name")
	}
	p.setInterest(req.Holder, true)
	p.mu.Lock()
	w.waiting[req.Holder] = true
	if w.started.IsZero() {
		w.started = time.Now()
	}
	p.mu.Unlock()
	select {
	case <-w.done:
		if w.err != nil {
			return nixstore.StorePath{}, w.err
		}
		return Root(name), nil
	case <-ctx.Done():
		return nixstore.StorePath{}, nixstore.Fail(nixstore.ErrBusy, "", "the flight goes on: %s", ctx.Err())
	}
}

// Release drops pin and interest.
func (p *Provider) Release(_ context.Context, h nixstore.Holder) error {
	if p.Hook != nil {
		if err := p.Hook("release"); err != nil {
			return err
		}
	}
	p.setInterest(h, false)
	return p.pins.Drop(h)
}

// Interested gives the holders that wait, or stopped waiting, for running work.
func (p *Provider) Interested() []nixstore.Holder {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.SortedFunc(maps.Keys(p.interested), func(a, b nixstore.Holder) int { return strings.Compare(a.Name, b.Name) })
}

// Provided counts the calls of Provide.
func (p *Provider) Provided() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.provided
}

func (p *Provider) setInterest(h nixstore.Holder, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on {
		p.interested[h] = true
		return
	}
	delete(p.interested, h)
}
