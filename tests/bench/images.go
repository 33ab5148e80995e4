package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/closured/closured/tests/agent"
)

// imageShape is the closure of the images: 300 MB in 130 paths, most of the bytes in
// a few large files and most of the files small.
var imageShape = shape{"image", 130, 70, 2900 << 10}

const (
	coldRounds  = 7
	imageRounds = 4   // of what takes a second
	knownRounds = 500 // of what takes less than a millisecond
	pullsAtOnce = 16
)

// imageFigures is what was measured of one image.
type imageFigures struct {
	files                 int
	bytes                 int64 // of the files
	layers                int
	cold, plain           times // manifest of an unknown image; SHA-256 of the files on all cores
	again                 times // first manifest after a restart
	get, head             times // manifest of a known one
	stream, tarred        times // all layers, hashed by the client; tar of the paths into sha256sum
	unpacked              times // manifest, all layers, tar
	publish               times // first publish of the closure as a volume
	idle, one, many, kept int64 // resident: before, with one pull, with pullsAtOnce; bytes on the disk
}

// images measures and prints what images cost.
func (b *bench) images(ctx context.Context) error {
	fmt.Fprintf(os.Stderr, "making the closure of the image: %d paths\n", imageShape.paths)
	root, err := imageShape.make(ctx, b.agent.StateDir())
	if err != nil {
		return err
	}
	unix.Sync() // the disk's work must not fall into what is measured
	paths := make([]string, imageShape.paths)
	for i := range paths {
		paths[i] = filepath.Join(b.store(), filepath.Base(imageShape.path(i)))
	}
	var f imageFigures
	names, total, err := filesOf(paths)
	if err != nil {
		return err
	}
	f.files, f.bytes = len(names), total
	for _, measure := range []func() error{
		func() error { return b.coldManifests(ctx, root, names, &f) },
		func() error { return b.knownManifests(ctx, root, &f) },
		func() error { return b.streams(ctx, root, paths, &f) },
		func() error { return b.memory(ctx, root, &f) },
		func() error { return b.unpacks(ctx, root, &f) },
	} {
		if err := measure(); err != nil {
			return err
		}
	}
	printImages(machine(b.agent.StateDir()), f)
	return nil
}

// coldManifests asks for the manifest of an image that the agent knows nothing of,
// and hashes the same files plainly, in turns.
func (b *bench) coldManifests(ctx context.Context, root string, names []string, f *imageFigures) error {
	kept := filepath.Join(b.agent.StateDir(), "cache", "images")
	for n := range coldRounds {
		fmt.Fprintf(os.Stderr, "unknown image, %d of %d\n", n+1, coldRounds)
		if err := errors.Join(b.agent.Kill(), os.RemoveAll(kept), b.startQuietly(ctx)); err != nil {
			return err
		}
		c := newClient(b.agent, root)
		if err := c.ping(ctx); err != nil {
			return err
		}
		if err := timed(&f.cold, func() error { _, err := c.get(ctx); return err }); err != nil {
			return err
		}
		if err := timed(&f.plain, func() error { return hashAll(ctx, names) }); err != nil {
			return err
		}
	}
	var err error
	f.kept, err = diskUsed(kept)
	return err
}

// startQuietly starts the agent and waits for the end of its self-test of Nix, which
// would take processors from what is measured.
func (b *bench) startQuietly(ctx context.Context) error {
	if err := b.agent.Start(ctx); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); ; {
		log := b.agent.Log()
		if life := log[max(0, strings.LastIndex(log, `"msg":"starting"`)):]; strings.Contains(life, `"msg":"nix works"`) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the self-test of the agent does not end:\n%s", log)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// knownManifests asks for the manifest over a connection that is open, first after a restart.
func (b *bench) knownManifests(ctx context.Context, root string, f *imageFigures) error {
	fmt.Fprintln(os.Stderr, "known image")
	for range imageRounds {
		if err := errors.Join(b.agent.Kill(), b.startQuietly(ctx)); err != nil {
			return err
		}
		c := newClient(b.agent, root)
		if err := c.ping(ctx); err != nil {
			return err
		}
		if err := timed(&f.again, func() error { _, err := c.get(ctx); return err }); err != nil {
			return err
		}
	}
	c := newClient(b.agent, root)
	for range knownRounds {
		if err := timed(&f.get, func() error { _, err := c.get(ctx); return err }); err != nil {
			return err
		}
		if err := timed(&f.head, func() error { return c.head(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// streams reads all layers, one after the other, beside tar of the same paths.
func (b *bench) streams(ctx context.Context, root string, paths []string, f *imageFigures) error {
	c := newClient(b.agent, root)
	m, err := c.manifest(ctx)
	if err != nil {
		return err
	}
	f.layers = len(m.Layers)
	for n := range imageRounds {
		fmt.Fprintf(os.Stderr, "layers, %d of %d\n", n+1, imageRounds)
		if err := timed(&f.stream, func() error { return c.layers(ctx, m.Layers) }); err != nil {
			return err
		}
		if err := timed(&f.tarred, func() error { return tarToSum(ctx, paths) }); err != nil {
			return err
		}
	}
	return nil
}

// memory looks at the agent's memory while layers are pulled, by one client and
// by many at once.
func (b *bench) memory(ctx context.Context, root string, f *imageFigures) error {
	fmt.Fprintf(os.Stderr, "%d pulls at once\n", pullsAtOnce)
	if err := b.agent.Restart(ctx); err != nil {
		return err
	}
	m, err := newClient(b.agent, root).manifest(ctx)
	if err != nil {
		return err
	}
	if f.idle, err = b.agent.Resident(); err != nil {
		return err
	}
	if f.one, err = b.residentDuring(ctx, root, m.Layers, 1); err != nil {
		return err
	}
	f.many, err = b.residentDuring(ctx, root, m.Layers, pullsAtOnce)
	return err
}

// residentDuring gives the most memory that the agent had while count clients read
// layers at once, each of them a quarter, from another one on.
func (b *bench) residentDuring(ctx context.Context, root string, layers []v1.Descriptor, count int) (most int64, err error) {
	var pulls errgroup.Group
	for n := range count {
		at := n * len(layers) / count
		own := slices.Concat(layers[at:], layers[:at])[:(len(layers)+3)/4]
		pulls.Go(func() error { return newClient(b.agent, root).layers(ctx, own) })
	}
	ended := make(chan struct{})
	var watch sync.WaitGroup
	var seen error
	watch.Go(func() {
		for seen == nil {
			var now int64
			now, seen = b.agent.Resident()
			most = max(most, now)
			select {
			case <-ended:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	err = pulls.Wait()
	close(ended)
	watch.Wait()
	return most, errors.Join(err, seen)
}

// unpacks takes what a node has to do before a program runs: an image is pulled and
// unpacked, a volume is published.
func (b *bench) unpacks(ctx context.Context, root string, f *imageFigures) error {
	dir := filepath.Join(b.agent.Dir(), "unpacked")
	for n := range 3 { // each writes all bytes
		fmt.Fprintf(os.Stderr, "image and volume, %d of 3\n", n+1)
		if err := b.agent.Restart(ctx); err != nil {
			return err
		}
		if err := b.once(ctx, root, &f.publish); err != nil {
			return err
		}
		c := newClient(b.agent, root)
		if err := timed(&f.unpacked, func() error { return c.unpack(ctx, dir) }); err != nil {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// diskUsed gives the bytes of the blocks of all files below dir.
func diskUsed(dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		var stat syscall.Stat_t
		err = syscall.Lstat(path, &stat)
		bytes += stat.Blocks * 512 // stat(2)
		return err
	})
	return bytes, err
}

func newClient(a *agent.Agent, root string) *client {
	return &client{base: "http://" + a.Registry() + "/v2/store/" + filepath.Base(root)[:32]}
}
