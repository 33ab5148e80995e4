package main

import (
	"context"

	"github.com/closured/closured/internal/niximages"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry"
)

// imageSource gives what resolves the attribute image; nil without a cluster.
func (c cluster) imageSource() func(context.Context, string) (nixstore.Source, error) {
	if c.images == nil {
		return nil
	}
	return c.images.Source
}

// named gives what resolves image/… of the registry; nil without a cluster.
func (c cluster) named() registry.Named {
	if c.images == nil {
		return nil // an interface must be nil, and not hold a nil
	}
	return named{c.images}
}

// named tells the registry about NixImages.
type named struct{ images *niximages.Images }

// Resolve implements registry.Named.
func (n named) Resolve(ctx context.Context, namespace, name, reference string) (registry.Description, error) {
	v, err := n.images.Version(ctx, namespace, name, reference)
	return registry.Description{Source: v.Source, Settings: v.Settings, Index: v.Index}, err
}

// Tags implements registry.Tagger.
func (n named) Tags(ctx context.Context, namespace, name string) ([]string, error) {
	return n.images.Tags(ctx, namespace, name)
}
