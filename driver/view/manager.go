package view

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

// Mode is the kind of view that a node's pods get by default.
type Mode string

// The modes of a node.
const (
	ModeRedirect Mode = "redirect" // redirect overlays; hard links only for user namespaces
	ModeHardLink Mode = "hardlink" // hard link views for all: the redirect overlay fails here
)

// Folders below the state directory, and the source of our mounts in mountinfo.
const (
	viewsDir    = "views"     // the private tmpfs: meta layers and mount points
	linksDir    = "linkviews" // hard link views
	writableDir = "writable"  // private layers of writable volumes
	selfTestDir = ".selftest" // exists during New
	mountSource = "closured"
)

// defaultIdle is how long a view that nobody uses stays.
const defaultIdle = 30 * time.Second

// Closures reads closures. It must be safe for concurrent use.
type Closures interface {
	Closure(ctx context.Context, root nixstore.StorePath) (nixstore.Closure, error)
}

// Config says where views live and what they show.
type Config struct {
	// StateDir is the state directory of the node, an absolute path without ':', ','
	// and '\', which overlayfs takes for itself. It is made when missing.
	StateDir string
	// StoreDir is the physical folder that holds the store paths, under the same rules.
	// For hard link views it must lie under the same mount as StateDir.
	StoreDir string
	// Closures tells what belongs to a root. It is asked once for each new view.
	Closures Closures
	// Log; nil: discard.
	Log *slog.Logger
	// IdleTime is how long a view that nobody uses stays; 0: 30 s.
	IdleTime time.Duration
	// ForceHardLinks makes hard link views for everybody, as if the self-test had failed.
	ForceHardLinks bool
}

// Manager makes and keeps the views of one node. There must be only one Manager
// for a state directory at a time; the caller holds a lock on it.
type Manager struct {
	cfg    Config
	log    *slog.Logger
	mode   Mode
	reason string // why the mode is not ModeRedirect

	views   string // <StateDir>/views, on the private tmpfs
	links   string // <StateDir>/linkviews
	layers  string // <StateDir>/writable
	linkDev uint64 // st_dev of links

	classic bool                    // the kernel has no open_tree or mount_setattr
	linkat  linkFunc                // unix.Linkat; tests put a small link limit here
	before  func(step string) error // tests fail a Mount at a step; nil: nobody does

	calls sync.WaitGroup // running Mounts; Close waits for them

	mu      sync.Mutex          // guards all below
	closed  bool                // Close was called
	serial  uint64              // last number given to a directory below views
	shown   map[viewKey]*view   // views that are made or being made
	holds   map[string]hold     // by a target's real path: who uses which view
	targets map[string]struct{} // real paths of targets that a call works on
}

// New clears away what an earlier life left, mounts the private tmpfs, and tries
// whether this kernel can do redirect overlays. Mounts of volumes are left alone.
// It takes milliseconds. Its errors are of the environment, except for ErrInvalid
// when cfg is wrong.
func New(ctx context.Context, cfg Config) (*Manager, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if cfg.IdleTime == 0 {
		cfg.IdleTime = defaultIdle
	}
	m := &Manager{
		cfg:     cfg,
		log:     log,
		mode:    ModeRedirect,
		linkat:  unix.Linkat,
		shown:   make(map[viewKey]*view),
		holds:   make(map[string]hold),
		targets: make(map[string]struct{}),
	}
	if err := m.start(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Manager) start(ctx context.Context) error {
	if err := m.makeDirs(); err != nil {
		return err
	}
	if err := m.mountPrivate(); err != nil {
		return err
	}
	m.classic = !hasMountAPI()
	m.chooseMode(ctx)
	if err := m.adoptLinkViews(); err != nil {
		return errors.Join(err, detachAll(m.views))
	}
	return nil
}

// chooseMode runs the self-test and remembers what came of it.
func (m *Manager) chooseMode(ctx context.Context) {
	if m.cfg.ForceHardLinks {
		m.mode, m.reason = ModeHardLink, "hard link views are forced by the configuration"
		return
	}
	if err := m.selfTest(ctx); err != nil {
		m.mode, m.reason = ModeHardLink, err.Error()
		m.log.Warn("redirect overlay does not work here, using hard link views, which a privileged pod could make writable",
			slog.String("reason", m.reason))
		return
	}
	m.log.Info("redirect overlay works", slog.Bool("classicMounts", m.classic))
}

func (c Config) validate() error {
	return errors.Join(
		checkLayerPath("StateDir", c.StateDir),
		checkLayerPath("StoreDir", c.StoreDir),
		invalidIf(c.Closures == nil, "give one", "view.Config.Closures is missing"),
		invalidIf(c.IdleTime < 0, "use 0 for the default", "view.Config.IdleTime is negative"),
	)
}

// checkLayerPath refuses paths that cannot be written into overlayfs's options
// (Documentation/filesystems/overlayfs.rst, "Multiple lower layers").
func checkLayerPath(field, path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
		return invalid("give a clean absolute path", "view.Config.%s %s is not absolute and clean", field, nixstore.Quote(path))
	}
	return invalidIf(strings.ContainsAny(path, ":,\\\x00"), "use a folder without these characters",
		"view.Config.%s %s holds a colon, a comma, a backslash or a NUL, which overlayfs cannot take", field, nixstore.Quote(path))
}

func invalid(next, format string, args ...any) error {
	return nixstore.Fail(nixstore.ErrInvalid, next, format, args...)
}

func invalidIf(bad bool, next, format string, args ...any) error {
	if !bad {
		return nil
	}
	return invalid(next, format, args...)
}

// Mode gives the kind of view that pods get by default and, when it is not the
// redirect overlay, the reason.
func (m *Manager) Mode() (mode Mode, reason string) { return m.mode, m.reason }

// Count gives the number of live views: in use, or idle for less than IdleTime.
func (m *Manager) Count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, v := range m.shown {
		if v.isReady() {
			n++
		}
	}
	return n
}

// Run drops views that nobody has used for IdleTime, until ctx ends. It never
// unmounts a volume. Errors of dropping are logged and tried again.
func (m *Manager) Run(ctx context.Context) error {
	m.emptyTrash(ctx)
	tick := time.NewTicker(max(m.cfg.IdleTime/4, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			m.dropIdle(now)
		}
	}
}

// Close waits for running Mounts and takes down everything that no volume uses:
// unused hard link views, and all helper mounts below the state directory. Live
// volumes stay readable. After it Mount fails with ErrUnavailable, while Unmount
// goes on to work. Only the first call does anything.
func (m *Manager) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	m.mu.Unlock()
	m.calls.Wait()

	var errs []error
	for _, v := range m.takeAll() {
		closeFD(v.source)
		if v.refs == 0 && v.key.kind == KindHardLink {
			errs = append(errs, m.discardLinks(v.links))
		}
	}
	return errors.Join(append(errs, detachAll(m.views))...)
}

// takeAll gives all views and forgets them.
func (m *Manager) takeAll() []*view {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.Collect(maps.Values(m.shown))
	clear(m.shown)
	clear(m.holds)
	return all
}

// step lets a test fail a Mount at a named step.
func (m *Manager) step(name string) error {
	if m.before == nil {
		return nil
	}
	if err := m.before(name); err != nil {
		return fmt.Errorf("at step %s: %w", name, err)
	}
	return nil
}
