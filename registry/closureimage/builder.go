package closureimage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/closured/closured/nixstore"
)

// How much is kept in memory: an image has some 30 kB, a plan some 100 kB for a
// closure of 1,500 paths.
const (
	imagesMax = 64
	plansMax  = 16
)

// Config says what a Builder works with.
type Config struct {
	StoreDir    string          // physical folder of the store paths; absolute
	CacheDir    string          // for the small files; absolute; made when it is missing, and ours alone
	Closures    nixstore.Reader // says what belongs to a closure
	Compression Compression     // of layers; the default is None
	Workers     int             // layers that are read at once; 0: as many as there are processors for us
	Log         *slog.Logger    // nil: nobody listens
}

// Builder makes images. Make it with New.
type Builder struct {
	cfg     Config
	cache   *cache
	images  *lru[*Image]
	plans   *lru[*plan]
	chunks  chunks
	packing compressors
	workers *semaphore.Weighted

	computedImages, computedLayers atomic.Int64

	imageCalls *shared[*Image]
	planCalls  *shared[*plan]
	layerCalls *shared[layer]
}

// New makes a Builder, and its cache's folders.
func New(cfg Config) (*Builder, error) {
	if err := cfg.normalise(); err != nil {
		return nil, err
	}
	c, err := openCache(cfg.CacheDir, cfg.Log)
	if err != nil {
		return nil, err
	}
	return &Builder{
		packing: compressors{kind: cfg.Compression},
		cfg:     cfg, cache: c, images: newLRU[*Image](imagesMax), plans: newLRU[*plan](plansMax),
		workers:    semaphore.NewWeighted(int64(cfg.Workers)),
		imageCalls: newShared[*Image](), planCalls: newShared[*plan](), layerCalls: newShared[layer](),
	}, nil
}

func (c *Config) normalise() error {
	var problems []error
	for name, dir := range map[string]string{"StoreDir": c.StoreDir, "CacheDir": c.CacheDir} {
		if !filepath.IsAbs(dir) {
			problems = append(problems, fmt.Errorf("%s is %q, which is not an absolute path", name, dir))
		}
	}
	if c.Closures == nil {
		problems = append(problems, errors.New("the field Closures is missing"))
	}
	if c.Compression < None || c.Compression > Zstd {
		problems = append(problems, fmt.Errorf("there is no compression %d", c.Compression))
	}
	if c.Workers < 0 {
		problems = append(problems, fmt.Errorf("%d workers are not a number of workers", c.Workers))
	}
	if c.Workers == 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return errors.Join(problems...)
}

// Image gives the image of a closure that is valid, and stays so for as long as the
// caller works with it. A known one is read from memory or from one small file. For
// an unknown one each layer is read once, however many ask; when the last of them
// leaves, the work ends.
// Errors: ErrInvalid (settings, system), ErrNotFound, ErrCorrupt, ErrBusy (the root was realised anew), ErrNoSpace, and that of ctx.
func (b *Builder) Image(ctx context.Context, spec Spec) (*Image, error) {
	spec, err := spec.normalise()
	if err != nil {
		return nil, err
	}
	k, err := spec.key(b.cfg.Compression)
	if err != nil {
		return nil, err
	}
	if i, ok := b.images.get(k); ok {
		return i, nil
	}
	return b.imageCalls.do(ctx, k, func(ctx context.Context) (*Image, error) {
		if i, ok := b.known(spec, k); ok {
			return i, nil
		}
		return b.build(ctx, spec, k)
	})
}

// known gives an image of an earlier life.
func (b *Builder) known(spec Spec, k key) (*Image, bool) {
	doc, ok := b.cache.image(k)
	if !ok {
		return nil, false
	}
	i := newImage(b, spec, k, doc)
	b.images.put(k, i)
	return i, true
}

// build computes an image.
func (b *Builder) build(ctx context.Context, spec Spec, k key) (*Image, error) {
	c, err := b.closure(ctx, spec)
	if err != nil {
		return nil, err
	}
	p, err := planOf(c, spec.Form, b.cfg.Compression)
	if err != nil {
		return nil, err
	}
	t, err := makeTop(b.cfg.StoreDir, spec, c)
	if err != nil {
		return nil, err
	}
	layers, err := b.layers(ctx, spec.Form, p)
	if err != nil {
		return nil, fmt.Errorf("making the image of %s: %w", spec.Root, err)
	}
	last, err := b.digestOf(bytesSource(t.tar()), 0)
	if err != nil {
		return nil, err
	}
	doc, err := b.documents(spec, c, t.env, append(layers, last))
	if err != nil {
		return nil, err
	}
	i := newImage(b, spec, k, doc)
	b.computedImages.Add(1)
	b.plans.put(k, p)
	b.images.put(k, i)
	b.cache.putImage(k, doc)
	return i, nil
}

// documents writes what is kept of an image.
func (b *Builder) documents(spec Spec, c nixstore.Closure, env []string, layers []layer) (documents, error) {
	config, err := configOf(spec, env, layers)
	if err != nil {
		return documents{}, err
	}
	return documents{
		manifest: manifestOf(b.cfg.Compression, config, layers), config: config, sbom: describe(sbomOf(c)),
	}, nil
}

// closure reads the closure of an image, and makes sure that it still is the one that was asked for.
func (b *Builder) closure(ctx context.Context, spec Spec) (nixstore.Closure, error) {
	c, err := b.cfg.Closures.Closure(ctx, spec.Root)
	if err != nil {
		return c, fmt.Errorf("reading the closure of %s: %w", spec.Root, err)
	}
	if c.Root != spec.Root || c.Registration != spec.Registration {
		return c, nixstore.Fail(nixstore.ErrBusy, "try again",
			"%s was collected and realised again meanwhile", spec.Root)
	}
	return c, nil
}

// plan gives the plan of a known image. It is made anew when an image of an earlier
// life is pulled for the first time.
func (b *Builder) plan(ctx context.Context, i *Image) (*plan, error) {
	if p, ok := b.plans.get(i.key); ok {
		return p, nil
	}
	return b.planCalls.do(ctx, i.key, func(ctx context.Context) (*plan, error) {
		c, err := b.closure(ctx, i.spec)
		if err != nil {
			return nil, err
		}
		p, err := planOf(c, i.spec.Form, b.cfg.Compression)
		if err == nil {
			b.plans.put(i.key, p)
		}
		return p, err
	})
}

// layers gives the digests of all layers of the store. The largest come first, so
// that none of them is left alone at the end.
func (b *Builder) layers(ctx context.Context, form Form, p *plan) ([]layer, error) {
	order := make([]int, len(p.layers))
	for n := range order {
		order[n] = n
	}
	slices.SortStableFunc(order, func(m, n int) int {
		return int(min(1, max(-1, p.size(n)-p.size(m))))
	})
	all := make([]layer, len(p.layers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(b.cfg.Workers)
	for _, n := range order {
		g.Go(func() error {
			var err error
			all[n], err = b.layer(ctx, form, p, n)
			return err
		})
	}
	return all, g.Wait()
}

// layer gives the digests of one layer: known ones, or those that somebody computes now.
func (b *Builder) layer(ctx context.Context, form Form, p *plan, n int) (layer, error) {
	k := p.keys[n]
	return b.layerCalls.do(ctx, k, func(ctx context.Context) (layer, error) {
		if l, ok := b.cache.layer(k, b.cfg.Compression); ok {
			return l, nil
		}
		if err := b.workers.Acquire(ctx, 1); err != nil {
			return layer{}, err
		}
		defer b.workers.Release(1)
		src, err := openStream(ctx, b.cfg.StoreDir, form, p.layers[n], 0)
		if err != nil {
			return layer{}, err
		}
		l, err := b.digestOf(src, p.size(n))
		if err == nil {
			b.computedLayers.Add(1)
			b.cache.putLayer(k, b.cfg.Compression, l)
		}
		return l, err
	})
}

// Stats count what was computed since New, for metrics: what was known already does
// not count.
type Stats struct {
	Images int64 // manifests
	Layers int64 // layers of the store that were read to their end
}

// Stats gives the counts so far.
func (b *Builder) Stats() Stats {
	return Stats{Images: b.computedImages.Load(), Layers: b.computedLayers.Load()}
}

// forget drops what is known of an image, and of the layer that was wrong.
func (b *Builder) forget(i *Image, layerKey *key) {
	b.cfg.Log.Error("the store's files do not match the digests of an image",
		slog.String("storePath", i.spec.Root.String()), slog.String("digest", i.Digest().String()))
	b.images.drop(i.key)
	b.plans.drop(i.key)
	b.cache.dropImage(i.key)
	if layerKey != nil {
		b.cache.dropLayer(*layerKey)
	}
}
