package nixeval

import (
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/closured/closured/nixstore"
)

// Config says what to evaluate with. Socket is required; the zero value of
// every other field is its default.
type Config struct {
	// Socket is the Nix daemon's socket, an absolute path. UID must be allowed to
	// connect, and should not be a trusted user of the daemon.
	Socket string
	// StoreRoot is the folder that holds the daemon's nix/store. Default: "/".
	StoreRoot string
	// BinDir holds nix and nix-instantiate. Default: they are looked up in PATH.
	BinDir string

	// PackageSet is a path to a Nix file or folder (it begins with "/" or "."), or
	// a flake reference. A folder may read its own files, a file nothing else.
	// Default: none, and sources that need one fail.
	PackageSet string
	// FlakeDirs are folders of the node below which the flakes of users may lie.
	// Default: none, because a flake's words then read the node's disk.
	FlakeDirs []string
	// CacheDir keeps what the flake of PackageSet fetched, between evaluations. It
	// is made, and given to UID. No user's expression sees it. Default: nothing is kept.
	CacheDir string
	// AllowIFD lets an evaluation build what it imports.
	AllowIFD bool
	// Settings are further lines of the evaluator's nix.conf by name, such as
	// proxies or access-tokens. What keeps evaluations powerless cannot be changed.
	Settings map[string]string
	// Env are further variables of evaluations with network, as "NAME=value":
	// proxies are named here.
	Env []string

	// MemoryBytes bounds the address space of an evaluation. Default: 2 GiB.
	MemoryBytes uint64
	// Timeout bounds the wall clock of an evaluation. Default: 60 s.
	Timeout time.Duration
	// Concurrency is how many evaluations run at a time. Default: the number of CPUs.
	Concurrency int
	// UID and GID are the user of evaluations. Default: 65534, nobody.
	UID, GID uint32

	// Clock gives the time for Fingerprint. Default: time.Now.
	Clock func() time.Time
	// Log gets one line an evaluation. Default: nowhere.
	Log *slog.Logger
}

const (
	defaultMemoryBytes = 2 << 30
	minMemoryBytes     = 64 << 20 // less than the programs and libraries of Nix map
	defaultTimeout     = 60 * time.Second
	nobody             = 65534
)

func (c *Config) setDefaults() {
	if c.StoreRoot == "" {
		c.StoreRoot = "/"
	}
	if c.MemoryBytes == 0 {
		c.MemoryBytes = defaultMemoryBytes
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Concurrency == 0 {
		c.Concurrency = runtime.NumCPU()
	}
	if c.UID == 0 {
		c.UID = nobody
	}
	if c.GID == 0 {
		c.GID = nobody
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

func (c *Config) validate() error {
	var errs []error
	bad := func(next, format string, args ...any) {
		errs = append(errs, nixstore.Fail(nixstore.ErrInvalid, next, format, args...))
	}
	for what, path := range map[string]string{"daemon's socket": c.Socket, "store root": c.StoreRoot} {
		// The path becomes part of a URI and of nothing else that could quote it.
		if !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.ContainsAny(path, "?&#% \n\x00") {
			bad("use a clean absolute path without spaces or any of ?&#%", "the %s %s cannot be used", what, nixstore.Quote(path))
		}
	}
	for _, dir := range append(slices.Clone(c.FlakeDirs), c.CacheDir) {
		if dir != "" && (!filepath.IsAbs(dir) || filepath.Clean(dir) != dir) {
			bad("use a clean absolute path", "the folder %s cannot be used", nixstore.Quote(dir))
		}
	}
	if c.MemoryBytes < minMemoryBytes {
		bad("allow 64 MiB at least", "%d bytes of memory are too few for an evaluation", c.MemoryBytes)
	}
	if c.Timeout < 0 || c.Concurrency < 0 {
		bad("use positive values", "the timeout %v or the concurrency %d is negative", c.Timeout, c.Concurrency)
	}
	for name, value := range c.Settings {
		if fixedSettings().has(name) {
			bad("remove it", "the setting %s of evaluations cannot be changed", nixstore.Quote(name))
		}
		if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || strings.ContainsAny(value, "\n\r\x00") {
			bad("use one line of nix.conf", "the setting %s of evaluations is malformed", nixstore.Quote(name))
		}
	}
	return errors.Join(errs...)
}

// findPrograms gives the folder that holds Nix's programs.
func (c *Config) findPrograms() (string, error) {
	if c.BinDir != "" {
		return filepath.Abs(c.BinDir)
	}
	program, err := exec.LookPath("nix-instantiate")
	if err != nil {
		return "", fmt.Errorf("finding Nix: %w", err)
	}
	return filepath.Dir(program), nil
}
