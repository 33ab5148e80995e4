package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
)

// defaultEvery is how often the file is read. Two reads in a row must agree, so
// that a change holds after two seconds.
const defaultEvery = time.Second

// FileConfig says which file to follow.
type FileConfig struct {
	// Path is the policy file; required. It may be a link, as in a ConfigMap's volume.
	Path string
	// Log tells of each change, and of files that are broken; nil: nobody hears.
	Log *slog.Logger
	// Registerer gets closured_policy_problem; nil: no metric.
	Registerer prometheus.Registerer
	// Every is how often the file is read; 0: each second.
	Every time.Duration
}

// File is the policy of a file that may change. Its methods may be called
// concurrently; Run must be called once for changes to be seen.
type File struct {
	cfg     FileConfig
	policy  atomic.Pointer[Policy]
	problem atomic.Pointer[error] // why the file on disk is not what holds; nil: it is

	// Of Run alone:
	loaded []byte  // the content that was judged last
	seen   reading // what the last reading found
}

// reading is what one look at the file found.
type reading struct {
	data []byte
	err  error
}

// Open reads the policy of path, with the defaults of FileConfig.
func Open(path string) (*File, error) { return OpenFile(FileConfig{Path: path}) }

// OpenFile reads a policy file. A file that is missing or broken now is an error:
// an agent must not start with other rules than its operator wrote.
func OpenFile(cfg FileConfig) (*File, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Every <= 0 {
		cfg.Every = defaultEvery
	}
	f := &File{cfg: cfg}
	first := f.read()
	if first.err != nil {
		return nil, first.err
	}
	p, err := Parse(first.data)
	if err != nil {
		return nil, fmt.Errorf("reading the policy file %s: %w", cfg.Path, err)
	}
	f.policy.Store(p)
	f.loaded, f.seen = first.data, first
	if err := f.register(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *File) register() error {
	if f.cfg.Registerer == nil {
		return nil
	}
	gauge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "closured_policy_problem",
		Help: "1 while the policy file is missing or broken and the rules read before still hold, else 0.",
	}, func() float64 {
		if f.Problem() != nil {
			return 1
		}
		return 0
	})
	if err := f.cfg.Registerer.Register(gauge); err != nil {
		return fmt.Errorf("registering the metrics of the policy: %w", err)
	}
	return nil
}

// Check is Policy.Check of the policy that holds now. It takes no lock.
func (f *File) Check(namespace string, src nixstore.Source) (Decision, error) {
	return f.policy.Load().Check(namespace, src)
}

// Problem says why the file on disk is not what holds, or nil.
func (f *File) Problem() error {
	if problem := f.problem.Load(); problem != nil {
		return *problem
	}
	return nil
}

// Run follows the file until ctx ends; then it gives nil. A file that is missing
// or broken leaves the rules as they are. The content is compared, not the time of
// the change: a ConfigMap's volume swaps links, and clocks jump.
func (f *File) Run(ctx context.Context) error {
	ticker := time.NewTicker(f.cfg.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			f.look()
		}
	}
}

// look reads the file, and takes it over when it is new and was the same the last
// time. A file that is being written, by whatever is not a ConfigMap, may be cut
// in the middle of a rule and be valid all the same: without its last line,
// "build: false", a rule allows more.
func (f *File) look() {
	before := f.seen
	f.seen = f.read()
	if !f.seen.equal(before) {
		return
	}
	switch {
	case f.seen.err != nil:
		f.keep(f.seen.err)
	case bytes.Equal(f.seen.data, f.loaded):
		f.sound()
	default:
		f.take(f.seen.data)
	}
}

// take judges new content, once.
func (f *File) take(data []byte) {
	p, err := Parse(data)
	if err != nil {
		f.keep(fmt.Errorf("reading the policy file %s: %w", f.cfg.Path, err))
		return
	}
	f.policy.Store(p)
	f.loaded = data
	f.problem.Store(nil)
	f.cfg.Log.Info("policy reloaded", slog.String(logkey.Path, f.cfg.Path), slog.Int(logkey.Count, len(p.rules)))
}

// keep notes a problem, and logs it when it is a new one.
func (f *File) keep(problem error) {
	if old := f.Problem(); old != nil && old.Error() == problem.Error() {
		return
	}
	f.problem.Store(&problem)
	f.cfg.Log.Error("policy file is unusable, the rules read before still hold",
		slog.String(logkey.Path, f.cfg.Path), slog.String(logkey.Error, problem.Error()))
}

// sound notes that the file is again what holds.
func (f *File) sound() {
	if f.problem.Swap(nil) != nil {
		f.cfg.Log.Info("policy file is usable again", slog.String(logkey.Path, f.cfg.Path))
	}
}

func (f *File) read() reading {
	data, err := readFile(f.cfg.Path)
	if err != nil {
		return reading{err: fmt.Errorf("reading the policy file: %w", err)}
	}
	return reading{data: data}
}

func (r reading) equal(s reading) bool {
	if r.err != nil || s.err != nil {
		return r.err != nil && s.err != nil && r.err.Error() == s.err.Error()
	}
	return bytes.Equal(r.data, s.data)
}

// readFile reads a regular file of bounded size. O_NONBLOCK: opening a FIFO must
// not hang the agent.
func readFile(path string) (data []byte, err error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nixstore.Fail(nixstore.ErrInvalid, next, "%s is no regular file", nixstore.Quote(path))
	}
	return io.ReadAll(io.LimitReader(file, maxBytes+1))
}
