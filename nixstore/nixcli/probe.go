package nixcli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixdaemon"
)

const (
	probeTimeout = time.Minute // of the trial build
	readyPoll    = time.Second // between two looks whether the daemon has come up
)

// selfTest is what a self-test found.
type selfTest struct {
	version string // of the daemon
	refused error  // why builds are refused; nil: they are not
}

// SelfTest asks the daemon for its version and builds a trifle in the sandbox,
// without network, so that an operator learns at the start and not from the
// first pod that a node cannot build. Its answer is kept for BuildsRefused and
// Problems. The error is ErrBuild when builds do not work (paths can then still
// be substituted), ErrUnavailable without a daemon, and another one when the
// trial came to nothing: run it again.
func (s *Store) SelfTest(ctx context.Context) error {
	version, err := nixdaemon.Greet(ctx, s.cfg.socket())
	if err != nil {
		return fmt.Errorf("testing Nix: %w", err)
	}
	if !supported(version) {
		return nixstore.Fail(nixstore.ErrUnavailable, "install a newer Nix", "the Nix daemon has version %s, and 2.8 is needed", nixstore.Quote(version))
	}
	found := &selfTest{version: version}
	switch err = s.probe(ctx); {
	case errors.Is(err, nixstore.ErrBuild):
		found.refused = refusal(err)
	case err != nil: // says nothing about builds, such as a collector that took the trial's derivation
		return fmt.Errorf("testing Nix: %w", err)
	}
	s.tested.Store(found)
	return found.refused
}

// refusal says that this node does not build, and why.
func refusal(err error) error {
	failure := nixstore.Fail(nixstore.ErrBuild,
		"give the Nix daemon's container privilege (CAP_SYS_ADMIN and user namespaces), and the group nixbld members or none; or push the path to a binary cache",
		"builds are refused on this node, because a trial build in the sandbox fails")
	if cause, ok := errors.AsType[*nixstore.Failure](err); ok {
		failure.Log = append(failure.Log, cause.Cause)
		failure.Log = append(failure.Log, cause.Log...)
	}
	return failure
}

// BuildsRefused tells why this node does not build; nil when it does, and as
// long as no self-test has ended: Nix itself refuses to build unsandboxed.
func (s *Store) BuildsRefused() error {
	if found := s.tested.Load(); found != nil {
		return found.refused
	}
	return nil
}

// Problems gives what an operator should mend, a sentence each. It starts nothing.
func (s *Store) Problems() []string {
	if err := s.BuildsRefused(); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// Version gives the version of the Nix daemon, "" as long as none has answered
// a self-test.
func (s *Store) Version() string {
	if found := s.tested.Load(); found != nil {
		return found.version
	}
	return ""
}

// testWhenReady runs the self-test as soon as a daemon answers.
func (s *Store) testWhenReady(ctx context.Context) {
	for wait := backoffFirst; sleep(ctx, wait); wait = readyPoll {
		err := s.SelfTest(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			s.log.Info("nix works", slog.String("version", s.Version()), slog.String("storeRoot", s.cfg.StoreRoot))
			return
		case s.tested.Load() != nil:
			s.log.Error("nix cannot build here", slog.Any("error", err))
			return
		}
		s.log.Debug("nix daemon not ready", slog.Any("error", err))
	}
}

// probe builds the same trifle twice, the second time although it is there: a
// build that was done once proves nothing about today.
func (s *Store) probe(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	out, err := s.instantiate(limited, probeExpr())
	if err != nil {
		return err
	}
	outputs := []nixstore.Output{out}
	opts := nixstore.RealiseOptions{Build: true}
	if err := s.nixStore(limited, outputs, opts); err != nil {
		return err
	}
	return s.nixStore(limited, outputs, opts, "--check")
}

// probeExpr is a derivation that needs no other path: buildenv of nothing. Nix
// runs its own builders in the same sandbox as all others.
func probeExpr() string {
	return `let
  probe = derivation {
    name = "closured-probe";
    system = "builtin";
    builder = "builtin:buildenv";
    manifest = "/nonexistent";
    derivations = [ ];
    preferLocalBuild = true;
    allowSubstitutes = false;
  };
` + instantiated("probe")
}

// supported tells whether a version of Nix is at least 2.8. Odd versions of
// forks pass: the protocol has been checked.
func supported(version string) bool {
	fields := strings.SplitN(version, ".", 3)
	if len(fields) < 2 {
		return true
	}
	major, err := strconv.Atoi(fields[0])
	minor, err2 := strconv.Atoi(strings.TrimFunc(fields[1], func(r rune) bool { return r < '0' || r > '9' }))
	if err != nil || err2 != nil {
		return true
	}
	return major > 2 || major == 2 && minor >= 8
}
