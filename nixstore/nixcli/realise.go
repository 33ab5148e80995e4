package nixcli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/closured/closured/nixstore"
)

const (
	watchInterval = 10 * time.Second // between two looks at the daemon during a realisation
	watchMisses   = 2                // looks without an answer that end it
)

// Realise implements nixstore.Realiser by nix-store --realise through the
// daemon. Paths that are valid need no process. Ending ctx kills the client,
// and the daemon then ends the builders. A daemon that stops answering ends the
// realisation with ErrUnavailable within about half a minute.
func (s *Store) Realise(ctx context.Context, outputs []nixstore.Output, opts nixstore.RealiseOptions) error {
	if err := checkFurther(opts.Substituters); err != nil {
		return fmt.Errorf("realising: %w", err)
	}
	missing, err := s.missing(ctx, outputs)
	if err != nil || len(missing) == 0 {
		return err
	}
	refused := s.BuildsRefused()
	if !opts.Build || refused == nil {
		return s.realise(ctx, missing, opts)
	}
	opts.Build = false
	err = s.realise(ctx, missing, opts)
	if errors.Is(err, nixstore.ErrNotFound) {
		return refused // no cache has it, and this node cannot build it
	}
	return err
}

// checkFurther refuses addresses that are none, that would switch signatures off,
// or that hold credentials: Nix keeps addresses in its cache of what caches hold.
func checkFurther(substituters []string) error {
	for _, address := range substituters {
		if err := checkSubstituter(address); err != nil {
			return err
		}
		if u, err := url.Parse(address); err != nil || u.User != nil {
			return invalid("name the password in the file that netrc-file of nix.conf names",
				"the substituter %s has credentials in its address", nixstore.Quote(redact(address)))
		}
	}
	return nil
}

// missing gives the outputs that are not valid yet, without doubles.
func (s *Store) missing(ctx context.Context, outputs []nixstore.Output) ([]nixstore.Output, error) {
	var missing []nixstore.Output
	for _, o := range outputs {
		if o.Path.IsZero() {
			return nil, invalid("", "an output to realise has no path")
		}
		_, err := s.Registration(ctx, o.Path)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("realising %s: %w", o.Path, err)
		}
		if err != nil && !slices.Contains(missing, o) {
			missing = append(missing, o)
		}
	}
	return missing, nil
}

func (s *Store) realise(ctx context.Context, outputs []nixstore.Output, opts nixstore.RealiseOptions) error {
	err := s.ready(ctx)
	if err == nil {
		watched, stop := s.watch(ctx)
		err = s.nixStore(watched, outputs, opts)
		stop()
	}
	var failure *nixstore.Failure
	if err == nil || errors.As(err, &failure) {
		return err // it names its object; its first 200 characters are an event
	}
	return fmt.Errorf("realising %s: %w", outputs[0].Path, err)
}

// racesMax is how often a realisation begins that others disturb in Nix's own memory
// of caches.
const racesMax = 3

// nixStore runs nix-store --realise with further flags.
func (s *Store) nixStore(ctx context.Context, outputs []nixstore.Output, opts nixstore.RealiseOptions, flags ...string) error {
	for try := 1; ; try++ {
		told, err := s.attempt(ctx, outputs, opts, flags)
		if err == nil || !told.raced() || try == racesMax {
			return err
		}
	}
}

// attempt is one run of nixStore, and what it told.
func (s *Store) attempt(ctx context.Context, outputs []nixstore.Output, opts nixstore.RealiseOptions, flags []string) (*account, error) {
	args := append([]string{"--realise", "--log-format", "internal-json"}, flags...)
	for _, o := range outputs {
		args = append(args, wanted(o, opts.Build))
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	told := &account{first: outputs[0].Path.String(), progress: newProgressMeter(opts.Progress), end: end}
	res, err := s.run(ctx, command{program: "nix-store", args: args, env: s.clientEnv(opts.Substituters...), onLine: told.take})
	told.progress.finish()
	if err != nil {
		return told, err
	}
	return told, classify(outputs, res.exit, told)
}

// wanted names an output for nix-store: by its derivation when it may be built.
func wanted(o nixstore.Output, build bool) string {
	if !build || o.Derivation.IsZero() {
		return o.Path.String()
	}
	return o.Derivation.String() + "!" + o.Name
}

// watch gives a context that also ends when the daemon stops answering: a client
// of a stopped daemon would wait for ever. stop waits for the watcher.
func (s *Store) watch(ctx context.Context) (watched context.Context, stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		misses := 0
		for sleep(watched, watchInterval) {
			err := s.Healthy(watched)
			if misses++; err == nil {
				misses = 0
			}
			if misses == watchMisses {
				cancel(err)
			}
		}
	}()
	return watched, func() { cancel(nil); <-done }
}
