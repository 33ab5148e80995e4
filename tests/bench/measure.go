package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/tests/agent"
)

// bench is one run.
type bench struct {
	options
	agent *agent.Agent
	rows  []row
}

// row is what was measured of one closure.
type row struct {
	shape
	root      string // store path
	first     times  // whole call, the agent has no view of the closure
	warm      times  // whole call, the view is there
	unpublish times
	storeBind times // one bind mount of the whole store: the limit
	link      times // hard link tree
	linkGone  times
	bindEach  times // a bind mount for each path
	bindGone  times
}

// times are durations of one thing done several times.
type times []time.Duration

// at gives the quantile q of 0 to 1.
func (t times) at(q float64) time.Duration {
	if len(t) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(t))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// timed adds to t how long do takes.
func timed(t *times, do func() error) error {
	begin := time.Now()
	err := do()
	*t = append(*t, time.Since(begin))
	return err
}

func (b *bench) store() string { return filepath.Join(b.agent.StateDir(), "nix", "store") }

// fill makes the closures and one to warm up with.
func (b *bench) fill(ctx context.Context) error {
	for _, s := range append([]shape{warmUp}, shapes...) {
		fmt.Fprintf(os.Stderr, "making the %s closure: %d paths, %d files\n", s.name, s.paths, s.paths*s.files)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		root, err := s.make(ctx, b.agent.StateDir())
		if err != nil {
			return err
		}
		if s != warmUp {
			b.rows = append(b.rows, row{shape: s, root: root})
		}
	}
	unix.Sync() // the disk's work must not fall into what is measured
	return nil
}

// warmUp is the closure that takes what only the first call of all costs.
var warmUp = shape{"warm-up", 3, 2, 0}

// first times the first publish of each closure after each start. The agent is
// killed in between; a view does not outlive its agent.
func (b *bench) first(ctx context.Context) error {
	for n := range b.starts {
		fmt.Fprintf(os.Stderr, "first publishes after start %d of %d\n", n+1, b.starts)
		if err := b.agent.Restart(ctx); err != nil {
			return err
		}
		if err := b.once(ctx, warmUp.path(0), nil); err != nil {
			return err
		}
		for i := range b.rows {
			if err := b.once(ctx, b.rows[i].root, &b.rows[i].first); err != nil {
				return err
			}
		}
	}
	return nil
}

// once publishes and unpublishes.
func (b *bench) once(ctx context.Context, root string, publish *times) error {
	v := agent.StorePath(0, root)
	if publish == nil {
		publish = new(times)
	}
	if err := b.publish(ctx, v, publish); err != nil {
		return err
	}
	return b.agent.Unpublish(ctx, v)
}

// publish times the call alone, without what kubelet does before.
func (b *bench) publish(ctx context.Context, v agent.Volume, t *times) error {
	if err := b.agent.Prepare(v); err != nil {
		return err
	}
	return timed(t, func() error { return b.agent.Publish(ctx, v) })
}

// compare measures one closure in all ways, next to each other in time.
func (b *bench) compare(ctx context.Context, r *row) error {
	fmt.Fprintf(os.Stderr, "comparing on the %s closure\n", r.name)
	if err := b.once(ctx, r.root, nil); err != nil { // makes the view
		return err
	}
	for n := range b.rounds {
		v := agent.StorePath(1+n, r.root)
		if err := b.publish(ctx, v, &r.warm); err != nil {
			return err
		}
		if err := timed(&r.unpublish, func() error { return b.agent.Unpublish(ctx, v) }); err != nil {
			return err
		}
	}
	dir := filepath.Join(b.agent.Dir(), "alternatives")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	// after an error something may be mounted there: that is for the agent's Close
	if err := b.alternatives(ctx, r, dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func (b *bench) alternatives(ctx context.Context, r *row, dir string) error {
	target := filepath.Join(dir, "store")
	if err := os.Mkdir(target, 0o755); err != nil {
		return err
	}
	for range b.rounds {
		if err := timed(&r.storeBind, func() error { return bind(b.store(), target) }); err != nil {
			return err
		}
		if err := unix.Unmount(target, 0); err != nil {
			return err
		}
	}
	paths := make([]string, r.paths)
	for i := range paths {
		paths[i] = r.path(i)
	}
	const repeats = 3 // each takes seconds
	for range repeats {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		tree := filepath.Join(dir, "links")
		if err := timed(&r.link, func() error { return errors.Join(os.Mkdir(tree, 0o755), linkTree(b.store(), tree, paths)) }); err != nil {
			return err
		}
		if err := timed(&r.linkGone, func() error { return os.RemoveAll(tree) }); err != nil {
			return err
		}
		tree = filepath.Join(dir, "binds")
		err := timed(&r.bindEach, func() error { return errors.Join(os.Mkdir(tree, 0o755), bindEach(b.store(), tree, paths)) })
		err = errors.Join(err, timed(&r.bindGone, func() error { return unbindEach(tree, paths) }))
		if err != nil {
			return err
		}
	}
	return nil
}

// crowd is what was measured with a number of volumes at once.
type crowd struct {
	volumes            int
	publish, unpublish times
	lines              int // of mountinfo, more than without any volume
	resident           int64
}

// many publishes each count of volumes of one closure, all mounted together.
func (b *bench) many(ctx context.Context, root string, counts []int) ([]crowd, error) {
	var all []crowd
	if err := b.once(ctx, root, nil); err != nil { // makes the view again, which an idle time may have ended
		return nil, err
	}
	for _, count := range counts {
		fmt.Fprintf(os.Stderr, "%d volumes at once\n", count)
		c := crowd{volumes: count}
		before, err := agent.MountsBelow("/")
		if err != nil {
			return nil, err
		}
		for n := range count {
			if err := b.publish(ctx, agent.StorePath(n, root), &c.publish); err != nil {
				return nil, err
			}
		}
		after, err := agent.MountsBelow("/")
		if err != nil {
			return nil, err
		}
		c.lines = len(after) - len(before)
		if c.resident, err = b.agent.Resident(); err != nil {
			return nil, err
		}
		for n := range count {
			if err := timed(&c.unpublish, func() error { return b.agent.Unpublish(ctx, agent.StorePath(n, root)) }); err != nil {
				return nil, err
			}
		}
		all = append(all, c)
	}
	return all, nil
}
