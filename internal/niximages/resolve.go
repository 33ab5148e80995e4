package niximages

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/closured/closured/internal/ociindex"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage"
)

const (
	// startPatience is how long a question waits for the API server's first answer.
	startPatience = 10 * time.Second
	// shortPatience is how long it waits for what may not come at all: an object that
	// was applied together with its pod comes within a moment, a wrong name never.
	shortPatience = 2 * time.Second
	// pullPatience is how long a pull waits at most: below registry.Config.Hold, after
	// which its client would read of a pull under way, and not of what it waits for.
	pullPatience = 20 * time.Second
)

// Version is what a tag or digest of an image stands for on this node.
type Version struct {
	Source   nixstore.Source // one store path
	Settings closureimage.Settings
	Digest   string // of the manifest of this node's system
	Index    []byte // the OCI index of several systems; empty: there is one only
}

// Source gives what the image <namespace>/<name> stands for on this node now: what
// provide.Config.Images asks. It waits as the package's comment says. Errors:
// ErrUnavailable while the image, or the API server, is not there yet; ErrNotFound
// of an unknown name; ErrInvalid when the spec has nothing for this system.
func (i *Images) Source(ctx context.Context, name string) (nixstore.Source, error) {
	q := question{i, name}
	return ask(ctx, q, i.cfg.Patience, func(o *object) (nixstore.Source, *holdup) {
		found, ok := of(o.images, i.cfg.System)
		if !ok {
			return nixstore.Source{}, q.pending(o)
		}
		return o.sourceOf(found), nil
	})
}

// Waiting gives what the image <namespace>/<name> waits for on this node: one line
// of the object's conditions. waits is false when the image is there, when there is
// no such object, or no image for this node's system, and when somebody has to
// change something.
func (i *Images) Waiting(name string) (why string, waits bool) {
	i.mu.RLock()
	o := i.objects[name]
	i.mu.RUnlock()
	if o == nil || o.stuck || !slices.Contains(o.systems, i.cfg.System) {
		return "", false
	}
	_, there := of(o.images, i.cfg.System)
	return o.why, !there
}

// Version gives what a tag, or the digest of a manifest or index, stands for on
// this node. Errors are those of Source.
func (i *Images) Version(ctx context.Context, namespace, name, reference string) (Version, error) {
	q := question{i, key(namespace, name)}
	// A pull that waits keeps others from being served, so that only a few may.
	patience := time.Duration(0)
	select {
	case i.waiters <- struct{}{}:
		patience = min(i.cfg.Patience, pullPatience)
		defer func() { <-i.waiters }()
	default:
	}
	return ask(ctx, q, patience, func(o *object) (Version, *holdup) { return q.version(o, reference) })
}

// Tags gives the tags of an image, sorted. Errors are those of Source.
func (i *Images) Tags(ctx context.Context, namespace, name string) ([]string, error) {
	return ask(ctx, question{i, key(namespace, name)}, 0, func(o *object) ([]string, *holdup) {
		tags := map[string]struct{}{}
		for _, v := range o.versions {
			tags[v.tag] = struct{}{}
		}
		return sortedKeys(tags), nil
	})
}

// Versions gives all versions of an image that this node can serve, the newest
// first. Errors are those of Source.
func (i *Images) Versions(ctx context.Context, namespace, name string) ([]Version, error) {
	return ask(ctx, question{i, key(namespace, name)}, 0, func(o *object) ([]Version, *holdup) {
		var all []Version
		for _, v := range o.versions {
			found, ok := of(v.images, i.cfg.System)
			if !ok {
				continue
			}
			if version, err := o.describe(v, found); err == nil {
				all = append(all, version)
			}
		}
		return all, nil
	})
}

// describe gives what a version stands for on a node with one of its images.
func (o *object) describe(v version, found image) (Version, error) {
	index, err := v.index()
	return Version{Source: o.sourceOf(found), Settings: Settings(v.config), Digest: found.digest, Index: index}, err
}

// question is about one object.
type question struct {
	*Images
	key string
}

// holdup is why there is no answer yet, and how long one may still come.
type holdup struct {
	err      error
	patience time.Duration
}

// ask looks at the object until there is an answer, or no more patience: the
// caller's, or that with what holds it up.
func ask[T any](ctx context.Context, q question, patience time.Duration, look func(*object) (T, *holdup)) (T, error) {
	var none T
	start := time.Now()
	for {
		answer, next, held := glance(q, look)
		if held == nil {
			return answer, nil
		}
		left := min(patience, held.patience) - time.Since(start)
		if left <= 0 {
			return none, held.err
		}
		timer := time.NewTimer(left)
		select {
		case <-ctx.Done():
			timer.Stop()
			return none, fmt.Errorf("waiting for the NixImage %s: %w", q.key, ctx.Err())
		case <-next:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// glance looks once.
func glance[T any](q question, look func(*object) (T, *holdup)) (answer T, next <-chan struct{}, held *holdup) {
	o, next, err := q.get(q.key)
	switch {
	case err != nil:
		return answer, next, &holdup{err, startPatience}
	case o == nil:
		namespace, name, _ := strings.Cut(q.key, "/")
		return answer, next, &holdup{nixstore.Fail(nixstore.ErrNotFound, "create it, or correct the name, see kubectl get niximages -n "+namespace,
			"there is no NixImage %s in the namespace %s", name, namespace), shortPatience}
	}
	answer, held = look(o)
	return answer, next, held
}

// version finds a version by its tag, or by a digest.
func (q question) version(o *object, reference string) (Version, *holdup) {
	digest := strings.Contains(reference, ":")
	for _, v := range o.versions { // the newest first
		switch {
		case digest && !v.has(reference), !digest && v.tag != reference:
			continue
		}
		found, ok := of(v.images, q.cfg.System)
		switch {
		case !ok && digest:
			return Version{}, q.elsewhere(reference)
		case !ok:
			return Version{}, q.pending(o)
		case digest && reference != v.digest && reference != found.digest:
			return Version{}, q.elsewhere(reference)
		}
		version, err := o.describe(v, found)
		if err != nil {
			return Version{}, &holdup{err, 0}
		}
		return version, nil
	}
	if reference == o.tag {
		return Version{}, q.pending(o)
	}
	return Version{}, &holdup{nixstore.Fail(nixstore.ErrNotFound, "use status.reference of the object, or a digest of status.history",
		"the NixImage %s has no version %s", q.key, nixstore.Quote(reference)), 0}
}

// index gives the index of several images.
func (v version) index() ([]byte, error) {
	if len(v.images) < 2 {
		return nil, nil
	}
	listed := make([]ociindex.Image, 0, len(v.images))
	for _, i := range v.images {
		listed = append(listed, ociindex.Image{System: i.system, Digest: i.digest, Size: i.size})
	}
	return ociindex.Of(listed...)
}

// has tells whether a digest is one of the version's manifests.
func (v version) has(digest string) bool {
	return v.digest == digest || slices.ContainsFunc(v.images, func(i image) bool { return i.digest == digest })
}

// pending says that the image of this node's system is not there yet.
func (q question) pending(o *object) *holdup {
	if !slices.Contains(o.systems, q.cfg.System) {
		return &holdup{nixstore.Fail(nixstore.ErrInvalid, "add it to spec.systems, or choose other nodes",
			"the NixImage %s has nothing for %s, the system of this node", q.key, q.cfg.System), 0}
	}
	namespace, name, _ := strings.Cut(q.key, "/")
	held := &holdup{nixstore.Fail(nixstore.ErrUnavailable, "kubectl describe niximage -n "+namespace+" "+name,
		"the NixImage %s is not ready: %s", q.key, o.why), q.cfg.Patience}
	if o.stuck {
		held.patience = shortPatience
	}
	return held
}

func (q question) elsewhere(digest string) *holdup {
	return &holdup{nixstore.Fail(nixstore.ErrNotFound, "pull it on a node of its system",
		"%s of the NixImage %s is not for %s, the system of this node", digest, q.key, q.cfg.System), 0}
}

// sourceOf gives what an image is made of. That of an earlier version nobody knows.
func (o *object) sourceOf(i image) nixstore.Source {
	src := nixstore.Source{Kind: nixstore.SourceStorePath, Paths: []nixstore.StorePath{i.root}}
	if now, ok := of(o.images, i.system); ok && now.root == i.root {
		src.Origin = o.origin
	}
	return src
}

// nodesOf adds the nodes that have the root's closure.
func (o *object) nodesOf(root nixstore.StorePath, nodes map[string]struct{}) {
	o.eachImage(func(i image) {
		if i.root == root && i.node != "" {
			nodes[i.node] = struct{}{}
		}
	})
}

// eachImage calls visit with all images that the object names, some repeatedly.
func (o *object) eachImage(visit func(image)) {
	lists := [][]image{o.images, o.resolved}
	for _, v := range o.versions {
		lists = append(lists, v.images)
	}
	for _, images := range lists {
		for _, i := range images {
			visit(i)
		}
	}
}

func sortedKeys(set map[string]struct{}) []string { return slices.Sorted(maps.Keys(set)) }
