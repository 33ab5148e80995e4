package nixcli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/closured/closured/nixstore"
)

// Store is a Nix store and the daemon over it. It implements nixstore.Store.
// Make it with Open; its methods may be called concurrently.
type Store struct {
	cfg    Config
	log    *slog.Logger
	db     database
	tested atomic.Pointer[selfTest] // what the last self-test found; nil: none yet
}

// The contract that the package exists for.
var _ nixstore.Store = (*Store)(nil)

// Open checks cfg, writes nix.conf and finds the programs. It starts nothing
// and does not need the daemon: call Run beside everything else. ErrInvalid
// says what of cfg is wrong, all of it at once.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("opening the Nix store: %w", err)
	}
	s := &Store{cfg: cfg, log: cfg.Log}
	s.db.path = filepath.Join(cfg.StoreRoot, "nix", "var", "nix", "db", "db.sqlite")
	if err := errors.Join(s.findPrograms(), s.makeFolders(), cfg.writeConf(), ctx.Err()); err != nil {
		return nil, fmt.Errorf("opening the Nix store: %w", err)
	}
	return s, nil
}

// Close lets go of the database. The daemon ends with Run's context.
func (s *Store) Close() error { return s.db.close() }

func (s *Store) findPrograms() error {
	programs := []string{"nix-store", "nix-instantiate"}
	if s.cfg.DaemonSocket == "" {
		programs = append(programs, "nix-daemon")
	}
	var problems []error
	for _, program := range programs {
		if _, err := exec.LookPath(filepath.Join(s.cfg.BinDir, program)); err != nil {
			problems = append(problems, nixstore.Fail(nixstore.ErrUnavailable, "install Nix (on Debian: apt-get install nix-bin), or put it in PATH",
				"the program %s is not found", program))
		}
	}
	return errors.Join(problems...)
}

// makeFolders makes the folders of the state directory. The socket's may be
// entered by everybody: evaluators run without privilege.
func (s *Store) makeFolders() error {
	for _, dir := range []string{filepath.Dir(s.cfg.socket()), s.homeDir(), s.tempDir()} {
		if s.cfg.DaemonSocket != "" && dir == filepath.Dir(s.cfg.socket()) {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making the state directory: %w", err)
		}
	}
	return nil
}

// homeDir is where Nix keeps its cache of what binary caches hold.
func (s *Store) homeDir() string { return filepath.Join(s.cfg.StateDir, "cache", "nix-home") }

// tempDir is where builds before Nix 2.30 are done: on the disk that is watched,
// and not on a container's own.
func (s *Store) tempDir() string { return filepath.Join(s.cfg.StateDir, "tmp") }

// Client is what a process needs to be a client of the daemon.
type Client struct {
	Socket    string // path of the daemon's socket; its folder may be bind-mounted, it outlives the daemon
	StoreRoot string // physical root of the store, "/" for the host's
	ConfDir   string // for NIX_CONF_DIR: a nix.conf without secrets, readable by everybody
	BinDir    string // where the programs of Nix are; "": in PATH
}

// Client tells how to reach the daemon.
func (s *Store) Client() Client {
	return Client{Socket: s.cfg.socket(), StoreRoot: s.cfg.StoreRoot, ConfDir: s.cfg.clientConfDir(), BinDir: s.cfg.BinDir}
}

// Remote gives the value of NIX_REMOTE. Without the root a client looks for
// derivations in the host's own /nix/store.
func (c Client) Remote() string {
	if c.StoreRoot == "/" {
		return "unix://" + c.Socket
	}
	return "unix://" + c.Socket + "?root=" + c.StoreRoot
}

// clientEnv is the environment of our own clients. substituters are asked besides
// the configured ones: a client adds them to those of its nix.conf, which is the
// daemon's too, and the daemon takes the sum from a client that it trusts.
func (s *Store) clientEnv(substituters ...string) []string {
	conf := s.overrides()
	if len(substituters) > 0 {
		conf += "extra-substituters = " + strings.Join(substituters, " ") + "\n"
	}
	return s.env("NIX_REMOTE="+s.Client().Remote(), "NIX_CONFIG="+conf)
}

// OperatorSetting gives a setting as Nix has it by the operator's nix.conf alone,
// without ours and those of Config.Options. ErrUnavailable: Nix does not say.
func (s *Store) OperatorSetting(ctx context.Context, name string) (string, error) {
	res, err := s.run(ctx, command{
		program: "nix", args: []string{"--extra-experimental-features", "nix-command", "show-config"},
		env: s.env("NIX_CONF_DIR=" + filepath.Dir(s.cfg.OperatorConf)),
	})
	if err != nil {
		return "", fmt.Errorf("reading the operator's nix.conf: %w", err)
	}
	for line := range strings.Lines(string(res.stdout)) {
		if key, value, ok := strings.Cut(line, " = "); ok && key == name {
			return strings.TrimSpace(value), nil
		}
	}
	return "", nixstore.Fail(nixstore.ErrUnavailable, "run nix show-config with NIX_CONF_DIR="+filepath.Dir(s.cfg.OperatorConf),
		"Nix does not tell its setting %s", nixstore.Quote(name))
}

// overrides are the settings that we send to somebody else's daemon, which has
// read another nix.conf. It heeds them when it trusts us. They travel in the
// environment, not in arguments that everybody can read.
func (s *Store) overrides() string {
	if s.cfg.DaemonSocket == "" {
		return ""
	}
	var text strings.Builder
	for _, o := range s.cfg.ownOptions("") {
		switch o.name {
		case "build-users-group", "allowed-users", "trusted-users", "experimental-features":
			continue // of the daemon's own start; it would complain
		}
		text.WriteString(o.name + " = " + o.value + "\n")
	}
	return text.String()
}

// env is the environment of every program of Nix: nothing of ours leaks in.
func (s *Store) env(more ...string) []string {
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if s.cfg.BinDir != "" {
		path = s.cfg.BinDir + ":" + path
	}
	env := append([]string{
		"PATH=" + path, "HOME=" + s.homeDir(), "TMPDIR=" + s.tempDir(), "LC_ALL=C",
		"NIX_CONF_DIR=" + s.cfg.confDir(),
		"NIX_USER_CONF_FILES=/dev/null", // no settings of a home folder or /etc/xdg
	}, s.cfg.Env...)
	return append(env, more...)
}
