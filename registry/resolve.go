package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/flight"
	"github.com/closured/closured/registry/closureimage"
)

// clients is the one holder of all flights: a request says nothing about whether
// its sender comes again, so that their interest lapses together.
const clients = "clients"

// tagsMax bounds how many tags of one image are looked through for a blob.
const tagsMax = 16

// claim is an image in use: its pin stays until release is called.
type claim struct {
	*served
	release func()
}

// allowed asks the policy whether n may be pulled now, and whether it may be built.
func (r *Registry) allowed(n name) (build bool, err error) {
	src := nixstore.Source{Kind: n.kind, Packages: n.packages}
	if n.kind == nixstore.SourceImage {
		src.Image = n.namespace + "/" + n.image
	}
	return r.cfg.Policy.Check("", src)
}

// tagged gives the image that n's tag means now.
func (r *Registry) tagged(ctx context.Context, n name, tag string) (claim, error) {
	if n.kind != nixstore.SourceImage && tag != latest {
		return claim{}, noTag(tag)
	}
	build, err := r.allowed(n)
	if err != nil {
		return claim{}, err
	}
	return r.current(ctx, n, tag, build)
}

// holding gives an image of n in which has finds what is looked for by digest:
// one served lately, one pinned under the name, or what the name means now.
func (r *Registry) holding(ctx context.Context, n name, t route, has func(*served) bool) (claim, error) {
	build, err := r.allowed(n)
	if err != nil {
		return claim{}, err
	}
	for _, s := range r.shelf.of(n.canonical()) {
		if !has(s) {
			continue
		}
		if release, ok := r.keeper.resume(s.holder); ok {
			return claim{s, release}, nil
		}
	}
	if c, ok := r.pinned(ctx, n, has); ok {
		return c, nil
	}
	references, err := r.references(ctx, n, t)
	if err != nil {
		return claim{}, err
	}
	var problems []error
	for _, reference := range references {
		c, err := r.current(ctx, n, reference, build)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if has(c.served) {
			return c, nil
		}
		c.release()
	}
	for _, err := range problems {
		if !errors.Is(err, nixstore.ErrNotFound) {
			return claim{}, err // one that might hold it cannot be looked at now
		}
	}
	return claim{}, nixstore.Fail(nixstore.ErrNotFound, "pull it by its tag", "no image of %s holds that digest", n.canonical())
}

// pinned looks through the closures that are pinned under n's name: of what was
// pulled before a restart in the middle of a pull, or of an earlier version whose
// image was forgotten since.
func (r *Registry) pinned(ctx context.Context, n name, has func(*served) bool) (claim, bool) {
	for _, d := range r.pulled(ctx, n) {
		key := flightKey(n, d.Source.Paths[0].String()+d.Digest, false)
		c, err := r.join(ctx, n, key, func(context.Context) (Description, error) { return d, nil }, false)
		if err != nil {
			continue // the name itself is asked next, and its error told
		}
		if has(c.served) {
			return c, true
		}
		c.release()
	}
	return claim{}, false
}

// pulled describes the closures that are pinned under n's name, the one used last
// first. A described image has settings that no pin knows: its versions do.
func (r *Registry) pulled(ctx context.Context, n name) []Description {
	var versions []Description
	if t, ok := r.cfg.Named.(Tagger); ok && n.kind == nixstore.SourceImage {
		versions, _ = t.Versions(ctx, n.namespace, n.image) // the name is asked next, and its error told
	}
	var all []Description
	for _, root := range r.keeper.roots(n.canonical()) {
		src := nixstore.Source{Kind: nixstore.SourceStorePath, Paths: []nixstore.StorePath{root}}
		if n.kind != nixstore.SourceImage {
			all = append(all, Description{Source: src})
		}
		for _, d := range versions {
			if slices.Equal(d.Source.Paths, src.Paths) {
				all = append(all, d)
			}
		}
	}
	return all
}

// references gives what to resolve n by in search of a digest. A described image
// is asked for by a manifest's digest, and by its tags.
func (r *Registry) references(ctx context.Context, n name, t route) ([]string, error) {
	if n.kind != nixstore.SourceImage {
		return []string{latest}, nil
	}
	tags, err := r.tags(ctx, n)
	tags = tags[:min(len(tags), tagsMax)]
	if t.kind == kindBlob {
		return tags, err
	}
	return append([]string{t.reference}, tags...), nil // without tags the digest may do
}

// tags gives the tags of n, sorted.
func (r *Registry) tags(ctx context.Context, n name) ([]string, error) {
	if n.kind != nixstore.SourceImage {
		return []string{latest}, nil
	}
	t, ok := r.cfg.Named.(Tagger)
	if !ok {
		return nil, noImages(n)
	}
	tags, err := t.Tags(ctx, n.namespace, n.image)
	return slices.Compact(slices.Sorted(slices.Values(tags))), err
}

// current gives the image that n with a tag or digest means now.
func (r *Registry) current(ctx context.Context, n name, reference string, build bool) (claim, error) {
	return r.join(ctx, n, flightKey(n, reference, build),
		func(ctx context.Context) (Description, error) { return r.describe(ctx, n, reference) }, build)
}

// flightKey is equal for equal work. No part of it holds a space.
func flightKey(n name, reference string, build bool) string {
	return fmt.Sprintf("%s %s %t", n.canonical(), reference, build)
}

// describe gives the source of a name.
func (r *Registry) describe(ctx context.Context, n name, reference string) (Description, error) {
	switch n.kind {
	case nixstore.SourcePackages:
		return Description{Source: nixstore.Source{Kind: n.kind, Packages: n.packages}}, nil
	case nixstore.SourceStorePath:
		path, err := r.findPath(ctx, n.hash)
		return Description{Source: nixstore.Source{Kind: n.kind, Paths: []nixstore.StorePath{path}}}, err
	default:
		if r.cfg.Named == nil {
			return Description{}, noImages(n)
		}
		return r.cfg.Named.Resolve(ctx, n.namespace, n.image, reference)
	}
}

func noImages(n name) error {
	return nixstore.Fail(nixstore.ErrNotFound, "name its packages as pkgs/<name>/<name>, or use it on a node whose agent knows images",
		"this agent knows no images, so not %s either", n.canonical())
}

func (r *Registry) findPath(ctx context.Context, hash string) (nixstore.StorePath, error) {
	if r.cfg.Finder == nil {
		return nixstore.StorePath{}, nixstore.Fail(nixstore.ErrNotFound, "name the packages instead",
			"this agent cannot find a store path by its hash %s alone", hash)
	}
	path, err := r.cfg.Finder.FindByHash(ctx, hash)
	if err == nil && path.IsDerivation() {
		return path, nixstore.Fail(nixstore.ErrNotFound, "name what it builds, as nix-store --query --outputs tells",
			"%s is a derivation, not what it builds", path)
	}
	return path, err
}

// join joins or starts the flight of key, waits for it at most Config.Hold, and
// claims its image.
func (r *Registry) join(ctx context.Context, n name, key string, describe func(context.Context) (Description, error), build bool) (claim, error) {
	leave, err := r.limits.wait()
	if err != nil {
		return claim{}, err
	}
	defer leave()
	cold := len(r.keeper.roots(n.canonical())) == 0
	if cold && r.crowded(key) {
		return claim{}, tooMany("images are being made")
	}
	f := r.flights.Join(ctx, key, clients, func(ctx context.Context, report func(nixstore.Progress)) (*served, error) {
		if cold {
			if err := r.limits.cold.Acquire(ctx, 1); err != nil {
				return nil, err
			}
			defer r.limits.cold.Release(1)
		}
		d, err := describe(ctx)
		if err != nil {
			return nil, err
		}
		return r.obtain(ctx, n, key, d, build, report)
	})
	limited, cancel := context.WithTimeout(ctx, r.cfg.Hold)
	defer cancel()
	s, err := f.Wait(limited)
	switch {
	case ctx.Err() != nil:
		return claim{}, context.Cause(ctx)
	case errors.Is(err, nixstore.ErrBusy):
		return claim{}, r.busy(n, key, f)
	case err != nil:
		return claim{}, err
	}
	release, ok := r.keeper.resume(s.holder)
	if !ok {
		return claim{}, nixstore.Fail(nixstore.ErrUnavailable, "ask again", "the image of %s was dropped in this moment", n.canonical())
	}
	return claim{s, release}, nil
}

// crowded tells whether too many other flights run to start that of key.
func (r *Registry) crowded(key string) bool {
	running := r.flights.Running()
	return len(running) >= r.cfg.Limits.Flights &&
		!slices.ContainsFunc(running, func(i flight.Info) bool { return i.Key == key })
}

// obtain makes what d describes valid, pins it, and gives its image. Until the
// root is known the flight's own pin keeps it.
func (r *Registry) obtain(ctx context.Context, n name, key string, d Description, build bool, report func(nixstore.Progress)) (*served, error) {
	who := holderOfPull(key)
	defer r.letGo(ctx, who)
	got, err := r.cfg.Provider.Provide(ctx, nixstore.Request{Source: d.Source, Build: build, Holder: who})
	if err != nil {
		return nil, err
	}
	holder := holderOf(n.canonical(), got.Root)
	release, err := r.keeper.hold(holder, got.Root)
	if err != nil {
		return nil, err
	}
	defer release()
	report(nixstore.Progress{Phase: hashing, What: got.Root.String()})
	image, err := r.cfg.Images.Image(ctx, closureimage.Spec{
		Root: got.Root, Registration: got.Registration, Form: n.form, Settings: d.Settings,
	})
	if err != nil {
		return nil, err
	}
	s, err := newServed(n.canonical(), holder, image)
	if err == nil && n.form == closureimage.Root { // neither digest nor index speak of volumes
		s, err = s.described(d)
	}
	if err == nil {
		r.shelf.put(s)
	}
	return s, err
}

// hashing is the phase of a flight after its realisation.
const hashing = "computing digests"

// letGo ends the flight's own pin, whatever became of the flight.
func (r *Registry) letGo(ctx context.Context, who nixstore.Holder) {
	if err := r.cfg.Provider.Release(context.WithoutCancel(ctx), who); err != nil {
		r.log.Error("releasing the pin of a pull", slog.String(logkey.Pin, who.Name), slog.String(logkey.Error, err.Error()))
	}
}

// busyError is ErrBusy with how far the work is.
type busyError struct {
	*nixstore.Failure
	progress nixstore.Progress
}

func (e *busyError) Unwrap() error { return e.Failure }

func (e *busyError) detail() any {
	return struct {
		Phase string `json:"phase"`
		Done  int64  `json:"pathsDone"`
		Total int64  `json:"pathsKnown"`
		Bytes int64  `json:"bytesFetched"`
	}{e.progress.Phase, e.progress.Done, e.progress.Total, e.progress.Bytes}
}

// busy says how far the flight of key is.
func (r *Registry) busy(n name, key string, f *flight.Flight[*served]) error {
	p := f.Progress()
	if p.Phase == "" && r.cfg.Flights != nil {
		who := holderOfPull(key)
		for _, running := range r.cfg.Flights.Running() {
			if slices.Contains(running.Holders, string(who.Kind)+"/"+who.Name) {
				p = running.Progress
			}
		}
	}
	text := "waiting for its turn"
	if p.Phase != "" {
		text = strings.TrimSpace(p.Phase + " " + p.What)
	}
	if p.Total > 0 {
		text += fmt.Sprintf(", %d of %d paths", p.Done, p.Total)
	}
	return &busyError{nixstore.Fail(nixstore.ErrBusy, "pull again: the work goes on and is joined",
		"%s is not ready yet: %s", n.canonical(), text), p}
}
