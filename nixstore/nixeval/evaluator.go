package nixeval

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixdaemon"
	"github.com/closured/closured/nixstore/nixeval/jail"
)

// Evaluator is nixstore.Evaluator by Nix in a jail.
type Evaluator struct {
	cfg      Config
	set      packageSet
	programs programs
	slots    chan struct{} // holds an element for each running evaluation

	mu      sync.Mutex // guards fetched
	fetched fetched
}

// fetched is where the flake of the package set was fetched to.
type fetched struct {
	fingerprint string
	source      nixstore.StorePath
}

var _ nixstore.Evaluator = (*Evaluator)(nil)

// New checks cfg and finds the programs of Nix; it starts nothing. Its error
// joins every problem of cfg.
func New(cfg Config) (*Evaluator, error) {
	cfg.setDefaults()
	programs, findErr := findPrograms(&cfg)
	set, setErr := parsePackageSet(cfg.PackageSet)
	if err := errors.Join(cfg.validate(), findErr, setErr, makeCacheDir(&cfg)); err != nil {
		return nil, err
	}
	return &Evaluator{cfg: cfg, set: set, programs: programs, slots: make(chan struct{}, cfg.Concurrency)}, nil
}

func makeCacheDir(cfg *Config) error {
	if cfg.CacheDir == "" {
		return nil
	}
	if err := os.MkdirAll(cfg.CacheDir, 0o700); err != nil {
		return fmt.Errorf("making the cache of evaluations: %w", err)
	}
	if err := os.Chown(cfg.CacheDir, int(cfg.UID), int(cfg.GID)); err != nil {
		return fmt.Errorf("giving the cache of evaluations to its user: %w", err)
	}
	return nil
}

// Evaluate resolves packages, a flake or an expression, as nixstore.Evaluator
// says. It waits until fewer than Config.Concurrency evaluations run. It fails
// with ErrForbidden for a flake on the node's disk outside Config.FlakeDirs.
func (e *Evaluator) Evaluate(ctx context.Context, src nixstore.Source) ([]nixstore.Output, error) {
	job, err := e.jobOf(src)
	if err != nil {
		return nil, err
	}
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	started := time.Now()
	outputs, err := e.evaluate(ctx, job)
	attrs := []slog.Attr{
		slog.String(logkey.Source, string(src.Kind)),
		slog.Float64(logkey.DurationSeconds, time.Since(started).Seconds()),
		slog.Int(logkey.Count, len(outputs)),
	}
	if err != nil {
		attrs = append(attrs, slog.String(logkey.Error, err.Error()))
	}
	e.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "evaluated a source", attrs...)
	return outputs, err
}

func (e *Evaluator) evaluate(ctx context.Context, job *job) ([]nixstore.Output, error) {
	if _, err := nixdaemon.Greet(ctx, e.cfg.Socket); err != nil {
		return nil, err
	}
	if job.needsFetchedSet {
		source, err := e.fetchSet(ctx)
		if err != nil {
			return nil, err
		}
		job.binds = append(job.binds, jail.Bind{From: e.physical(source), To: setDir})
	}
	answer, err := e.run(ctx, job)
	if err != nil {
		return nil, err
	}
	return answer.toOutputs(job)
}

// run runs one job in a jail and gives Nix's answer.
func (e *Evaluator) run(ctx context.Context, job *job) (answer, error) {
	spec, err := e.spec(job)
	if err != nil {
		return answer{}, err
	}
	result, err := jail.Run(ctx, spec, nil, stdoutMax, stderrMax)
	if err != nil {
		if ctx.Err() != nil {
			return answer{}, context.Cause(ctx)
		}
		return answer{}, nixstore.Fail(nixstore.ErrUnavailable, "look at the agent's log; it needs to run privileged",
			"%s cannot be evaluated (%v)", job.what, err)
	}
	if result.Outcome != jail.Exited || result.ExitCode != 0 {
		return answer{}, e.failure(ctx, job, result)
	}
	return parseAnswer(job, result.Stdout)
}

// physical gives where a path of the daemon's store is on the disk.
func (e *Evaluator) physical(p nixstore.StorePath) string {
	return filepath.Join(e.cfg.StoreRoot, p.String())
}

// fetchSet gives the source of the package set's flake, fetching it when it
// changed or was collected.
func (e *Evaluator) fetchSet(ctx context.Context) (nixstore.StorePath, error) {
	now := e.set.fingerprint(e.cfg.Clock())
	e.mu.Lock()
	known := e.fetched
	e.mu.Unlock()
	if known.fingerprint == now {
		if _, err := os.Lstat(e.physical(known.source)); err == nil {
			return known.source, nil
		}
	}
	fetch := e.setJob("the package set", fetchFile, nil)
	if err := e.showSet(fetch); err != nil {
		return nixstore.StorePath{}, err
	}
	answer, err := e.run(ctx, fetch)
	if err != nil {
		return nixstore.StorePath{}, err
	}
	source, err := nixstore.ParseStorePath(answer.Source)
	if err != nil {
		return nixstore.StorePath{}, fmt.Errorf("fetching the package set: %w", err)
	}
	e.mu.Lock()
	e.fetched = fetched{fingerprint: now, source: source}
	e.mu.Unlock()
	return source, nil
}

// sizeText writes a bound for a message: 2 GiB, 512 MiB.
func sizeText(bytes uint64) string {
	for _, unit := range []struct {
		name string
		size uint64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if bytes >= unit.size && bytes%unit.size == 0 {
			return fmt.Sprintf("%d %s", bytes/unit.size, unit.name)
		}
	}
	return fmt.Sprintf("%d bytes", bytes)
}

// durationText writes a bound for a message: 60 s, 500ms.
func durationText(d time.Duration) string {
	if d%time.Second == 0 {
		return fmt.Sprintf("%d s", d/time.Second)
	}
	return d.String()
}

// joinNames writes names for a message, cut after 60 bytes.
func joinNames(names []string) string {
	const limit = 60
	all := strings.Join(names, ", ")
	if len(all) <= limit {
		return all
	}
	return all[:limit] + "…"
}
