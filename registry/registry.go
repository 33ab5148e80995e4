package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/flight"
	"github.com/closured/closured/nixstore/provide"
	"github.com/closured/closured/registry/closureimage"
)

// Policy tells who may pull what. Safe for concurrent use.
type Policy interface {
	// Check gives whether the namespace may have the source built, or ErrForbidden
	// when it may not use it at all. Pulls have no namespace: it is empty. Of a
	// store path only the kind is known yet.
	Check(namespace string, src nixstore.Source) (build bool, err error)
}

// Images makes images of closures; a closureimage.Builder does. Safe for concurrent use.
type Images interface {
	Image(ctx context.Context, spec closureimage.Spec) (*closureimage.Image, error)
}

// Named resolves names of described images. Safe for concurrent use.
type Named interface {
	// Resolve gives what a tag, or the digest of a manifest, of an image stands
	// for; its source is no image itself. It is ErrNotFound when there is none.
	Resolve(ctx context.Context, namespace, name, reference string) (Description, error)
}

// Tagger is a Named that can list what it names. Without it the tags of described
// images cannot be listed, and their blobs not be found again after a restart.
type Tagger interface {
	// Tags gives the tags of an image, or ErrNotFound.
	Tags(ctx context.Context, namespace, name string) ([]string, error)
	// Versions gives what Resolve gives by the digest of each version, also of those
	// that no tag leads to any more, or ErrNotFound.
	Versions(ctx context.Context, namespace, name string) ([]Description, error)
}

// Description is what a name stands for.
type Description struct {
	Source   nixstore.Source
	Settings closureimage.Settings
	// Digest is that of the image's manifest, which the name does not mean with other
	// bytes: the pull is ErrCorrupt then. Empty: any.
	Digest string
	// Index is an OCI image index that lists the image beside those for other
	// systems, which other nodes serve. A tag leads to it instead of to the image;
	// both have their digests. Empty: there is none. The image that Source leads to
	// must be in it, or the pull is ErrCorrupt.
	Index []byte
}

// Finder finds store paths by their hash part; a nixcli.Store does. Safe for concurrent use.
type Finder interface {
	// FindByHash gives the path with the hash of 32 characters, or ErrNotFound.
	FindByHash(ctx context.Context, hash string) (nixstore.StorePath, error)
}

// Flights tells how far the provider's work is; a provide.Provider does.
type Flights interface {
	Running() []provide.Running
}

// Limits bound what all clients together may take. On loopback they all have one
// address, so that there is no limit for each. Zero values take the defaults.
type Limits struct {
	Cold    int // images that are made at a time, of names never served before; default 16
	Flights int // the same with those that wait for their turn; default 128
	Waiting int // requests that wait for an image or a stream; default 512
	Streams int // blobs that are streamed at a time; default 64
}

// Config is what a Registry needs. Provider, Pins, Images and Policy are required.
type Config struct {
	Provider nixstore.Provider
	Pins     Pins
	Images   Images
	Policy   Policy
	Named    Named   // of image/…; nil: there are none
	Finder   Finder  // of store/…; nil: there are none
	Flights  Flights // for the texts of waiting; nil: they name no progress
	// Host is the host part of image names, such as "nix.internal". A mirror asked
	// on behalf of another host (the parameter ns) refuses. Empty: any host.
	Host string
	// Hold is how long a request waits for its image. Default 25 s: below the 30 s
	// after which HTTP clients and proxies commonly give up.
	Hold time.Duration
	// Keep is how long a closure stays pinned after its last use. Default 24 h, at
	// least a second.
	Keep time.Duration
	// Linger is how long the making of an image goes on when no request waits for
	// it. Default 6 min: kubelet's pauses between two pulls end at 5 min.
	Linger time.Duration
	// Stall is how long a client may take for 256 KiB of an answer. Default 30 s.
	Stall      time.Duration
	Limits     Limits
	Log        *slog.Logger          // nil: discarded
	Registerer prometheus.Registerer // nil: nobody counts
}

// Registry answers the requests. Make it with New, end it with Close.
type Registry struct {
	cfg     Config
	log     *slog.Logger
	flights *flight.Group[*served]
	keeper  *keeper
	shelf   *shelf
	limits  *limits
	metrics *metrics
	buffers sync.Pool // of *[chunkSize]byte
}

// New makes a Registry, and drops the pins of pulls that an earlier process left
// without an answer. The error joins every problem.
func New(cfg Config) (*Registry, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("making the registry: %w", err)
	}
	r := &Registry{cfg: cfg, log: cfg.Log, shelf: newShelf(), limits: newLimits(cfg.Limits)}
	r.buffers.New = func() any { return new([chunkSize]byte) }
	// The provider remembers failures, by a key that changes with the package set.
	// Here they are remembered just long enough to stop a flood.
	r.flights, err = flight.New[*served](flight.Config{
		Lapse: cfg.Linger, Grace: -1, BackoffFirst: time.Second, BackoffMax: 4 * time.Second, Log: cfg.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("making the registry: %w", err)
	}
	if r.keeper, err = newKeeper(cfg.Pins, cfg.Keep, cfg.Log); err != nil {
		return nil, fmt.Errorf("making the registry: %w", err)
	}
	if r.metrics, err = newMetrics(cfg.Registerer, r); err != nil {
		return nil, fmt.Errorf("making the registry: %w", err)
	}
	return r, nil
}

func (c Config) withDefaults() (Config, error) {
	var problems []error
	for _, p := range []struct {
		missing bool
		what    string
	}{
		{c.Provider == nil, "no provider"},
		{c.Pins == nil, "no pins"},
		{c.Images == nil, "no images"},
		{c.Policy == nil, "no policy"},
		{c.Hold < 0 || c.Keep < 0 || c.Linger < 0 || c.Stall < 0, "a negative duration"},
		{c.Keep > 0 && c.Keep < time.Second, "images are kept for less than a second"},
		{c.Limits.Cold < 0 || c.Limits.Flights < 0 || c.Limits.Waiting < 0 || c.Limits.Streams < 0, "a negative limit"},
	} {
		if p.missing {
			problems = append(problems, errors.New(p.what))
		}
	}
	c.Hold = cmp.Or(c.Hold, 25*time.Second)
	c.Keep = cmp.Or(c.Keep, 24*time.Hour)
	c.Linger = cmp.Or(c.Linger, 6*time.Minute)
	c.Stall = cmp.Or(c.Stall, 30*time.Second)
	c.Limits.Cold = cmp.Or(c.Limits.Cold, 16)
	c.Limits.Flights = cmp.Or(c.Limits.Flights, 128)
	c.Limits.Waiting = cmp.Or(c.Limits.Waiting, 512)
	c.Limits.Streams = cmp.Or(c.Limits.Streams, 64)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(problems...)
}

// Handler gives the handler of all requests. It sets the deadlines of the
// connection that it writes to; Listen gives a server that fits.
func (r *Registry) Handler() http.Handler { return http.HandlerFunc(r.serve) }

// Run drops pins of images that nobody has used for Config.Keep, until ctx ends.
// It always gives nil.
func (r *Registry) Run(ctx context.Context) error {
	const sweeps = 24 // in the time that a pin is kept
	ticker := time.NewTicker(max(r.cfg.Keep/sweeps, time.Millisecond))
	defer ticker.Stop()
	for {
		r.keeper.sweep(ctx, time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Close cancels the flights of pulls and waits for them. Requests that come later
// are answered 503. Pins stay.
func (r *Registry) Close() { r.flights.Close() }
