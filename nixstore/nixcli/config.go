package nixcli

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/closured/closured/nixstore"
)

// Config says which store to use and how. StateDir is required; the zero value
// of every other field is its default.
type Config struct {
	// StateDir is where nix.conf, the daemon's socket and Nix's caches are: an
	// absolute path of at most about 80 bytes.
	StateDir string
	// StoreRoot is the folder below which nix/store and nix/var are, or "/" for
	// the host's own store. Default: StateDir.
	StoreRoot string
	// BinDir holds the programs of Nix. Default: they are looked up in PATH.
	BinDir string
	// DaemonSocket is the socket of somebody else's daemon over StoreRoot.
	// Default: a daemon of our own, which Store.Run supervises.
	DaemonSocket string
	// Substituters and TrustedPublicKeys replace those of the operator's
	// nix.conf when they are not empty.
	Substituters, TrustedPublicKeys []string
	// Options are further lines of nix.conf by name. What keeps the store
	// trustworthy cannot be changed (see hardOptions).
	Options map[string]string
	// OperatorConf is the nix.conf of the machine, read by Nix when it exists.
	// Default: /etc/nix/nix.conf.
	OperatorConf string
	// Env are further environment variables of the daemon, as "NAME=value": it
	// gets no other but PATH, HOME and Nix's own. Proxies are named here.
	Env []string
	// Log gets what an operator must know. Default: nowhere.
	Log *slog.Logger
}

// socketPathMax is the longest path of a unix socket, in bytes, unix(7).
const socketPathMax = 107

// withDefaults fills what is zero and gives every problem of what is not.
func (c Config) withDefaults() (Config, error) {
	if c.StoreRoot == "" {
		c.StoreRoot = c.StateDir
	}
	if c.OperatorConf == "" {
		c.OperatorConf = "/etc/nix/nix.conf"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	problems := []error{
		absolute("the state directory", c.StateDir), absolute("the store root", c.StoreRoot),
		absolute("the operator's nix.conf", c.OperatorConf),
	}
	if c.BinDir != "" {
		problems = append(problems, absolute("the folder of Nix's programs", c.BinDir))
	}
	if c.DaemonSocket != "" {
		problems = append(problems, absolute("the daemon's socket", c.DaemonSocket))
	}
	if n := len(c.socket()); n > socketPathMax {
		problems = append(problems, invalid("use a shorter state directory",
			"the socket path %s has %d bytes, and unix sockets end at %d", nixstore.Quote(c.socket()), n, socketPathMax))
	}
	for _, u := range c.Substituters {
		problems = append(problems, checkSubstituter(u))
	}
	for _, k := range c.TrustedPublicKeys {
		problems = append(problems, checkKey(k))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Options)) {
		problems = append(problems, checkOption(name, c.Options[name]))
	}
	return c, errors.Join(problems...)
}

// socket gives the path of the daemon's socket.
func (c Config) socket() string {
	if c.DaemonSocket != "" {
		return c.DaemonSocket
	}
	return filepath.Join(c.StateDir, "run", "nix", "socket")
}

func invalid(next, format string, args ...any) error {
	return nixstore.Fail(nixstore.ErrInvalid, next, format, args...)
}

// absolute refuses paths that would mean something else in nix.conf or in the
// address of a store.
func absolute(what, path string) error {
	if !filepath.IsAbs(path) || strings.ContainsAny(path, "\n\x00?&#%") {
		return invalid("give an absolute path", "%s %s is not an absolute path without newlines and any of ?&#%%", what, nixstore.Quote(path))
	}
	return nil
}

func checkSubstituter(address string) error {
	if address == "" || strings.ContainsFunc(address, isSpaceOrControl) {
		return invalid("give one URL for each", "the substituter %s is empty or holds white space", nixstore.Quote(redact(address)))
	}
	u, err := url.Parse(address)
	if err != nil {
		return invalid("give a URL such as https://cache.nixos.org", "the substituter %s is no URL", nixstore.Quote(redact(address)))
	}
	if u.Query().Has("trusted") {
		return invalid("remove it, and name the cache's key as a trusted public key",
			"the substituter %s has the parameter \"trusted\", which switches signatures off", nixstore.Quote(redact(address)))
	}
	return nil
}

func checkKey(key string) error {
	name, value, ok := strings.Cut(key, ":")
	if !ok || name == "" || value == "" || strings.ContainsFunc(key, isSpaceOrControl) {
		return invalid("write it as <name>:<base64>", "%s is not a public key", nixstore.Quote(key))
	}
	return nil
}

func isSpaceOrControl(r rune) bool { return r <= ' ' || r == 0x7f }

// ParseOption parses "name=value" as a line of nix.conf, and refuses what
// Config.Options refuses. Its errors are ErrInvalid.
func ParseOption(s string) (name, value string, err error) {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return "", "", invalid("write name=value", "the Nix option %s has no \"=\"", nixstore.Quote(s))
	}
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	if err := checkOption(name, value); err != nil {
		return "", "", fmt.Errorf("reading a Nix option: %w", err)
	}
	return name, value, nil
}
