package main

import (
	"context"
	"strings"

	"github.com/closured/closured/driver"
	"github.com/closured/closured/internal/niximages"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry"
)

// imageSource gives what resolves the attribute image; nil without a cluster.
func (c cluster) imageSource(rules driver.Policy) func(context.Context, string) (nixstore.Source, error) {
	if c.images == nil {
		return nil
	}
	return func(ctx context.Context, name string) (nixstore.Source, error) {
		src, err := c.images.Source(ctx, name)
		namespace, _, _ := strings.Cut(name, "/")
		return permitted(rules, namespace, src), err
	}
}

// permitted says of a source's origin what the policy does: whether the namespace
// of the object may have it built, or may not use it at all. Who asks for the
// image has been asked about already, and may be somebody else, as at a pull.
func permitted(rules driver.Policy, namespace string, src nixstore.Source) nixstore.Source {
	if src.Origin == nil {
		return src
	}
	decision, err := rules.Check(namespace, src.Origin.Source)
	if err != nil {
		src.Origin = nil
		return src
	}
	src.Origin = &nixstore.Origin{Source: src.Origin.Source, Build: decision.Build}
	return src
}

// named gives what resolves image/… of the registry; nil without a cluster.
func (c cluster) named(rules driver.Policy) registry.Named {
	if c.images == nil {
		return nil // an interface must be nil, and not hold a nil
	}
	return named{c.images, rules}
}

// named tells the registry about NixImages.
type named struct {
	images *niximages.Images
	rules  driver.Policy
}

// Resolve implements registry.Named.
func (n named) Resolve(ctx context.Context, namespace, name, reference string) (registry.Description, error) {
	v, err := n.images.Version(ctx, namespace, name, reference)
	return n.description(namespace, v), err
}

// description gives what the registry needs of a version.
func (n named) description(namespace string, v niximages.Version) registry.Description {
	return registry.Description{Source: permitted(n.rules, namespace, v.Source), Settings: v.Settings, Digest: v.Digest, Index: v.Index}
}

// Tags implements registry.Tagger.
func (n named) Tags(ctx context.Context, namespace, name string) ([]string, error) {
	return n.images.Tags(ctx, namespace, name)
}

// Versions implements registry.Tagger.
func (n named) Versions(ctx context.Context, namespace, name string) ([]registry.Description, error) {
	versions, err := n.images.Versions(ctx, namespace, name)
	all := make([]registry.Description, 0, len(versions))
	for _, v := range versions {
		all = append(all, n.description(namespace, v))
	}
	return all, err
}

// keepers gives what keeps the closures that this node built.
func (a *agent) keepers() []func(context.Context) error {
	if a.cluster.images == nil {
		return nil
	}
	return []func(context.Context) error{func(ctx context.Context) error {
		return a.cluster.images.Keep(ctx, a.cfg.nodeName, a.pins)
	}}
}
