// Command demo shows the agent at work on one machine, with no Kubernetes: it
// publishes packages through the CSI socket as kubelet would, runs redis-server
// in a root that has nothing but that volume, and then pulls the same closure as
// an image and runs redis-server out of that.
//
// It is started by `make demo`, as root. Everything happens below one folder in
// /tmp and is taken away at the end, also after an error or Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/closured/closured/tests/agent"
)

func main() {
	var cfg agent.Config
	packages := flag.String("packages", "redis curl jq", "what to publish")
	flag.StringVar(&cfg.Binary, "binary", "", "closured; default: $CLOSURED_BIN, else built")
	flag.StringVar(&cfg.PackageSet, "package-set", "", "folder of the package set; default: the program's")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, cfg, *packages)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case interrupted && !errors.Is(err, errLeftOver):
		fmt.Println("\ninterrupted; everything was taken away")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// errLeftOver: something could not be taken away.
var errLeftOver = errors.New("left over")

// run is the demo; what it starts and mounts is gone when it returns.
func run(ctx context.Context, cfg agent.Config, packages string) (err error) {
	a, err := agent.New(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tearDown(a)) }()

	heading("The agent")
	begin := time.Now()
	if err := a.Start(ctx); err != nil {
		return err
	}
	line("ready after", "%s", since(begin))
	line("package set", "%s", cfg.PackageSet)

	volume := agent.Packages(1, packages)
	if err := publish(ctx, a, volume, packages); err != nil {
		return err
	}
	if err := describe(a, volume); err != nil {
		return err
	}
	if err := useVolume(ctx, a, volume); err != nil {
		return err
	}
	if err := useImage(ctx, a, packages); err != nil {
		return err
	}
	return leave(ctx, a, volume)
}

// leave unpublishes, and shows that nothing stays.
func leave(ctx context.Context, a *agent.Agent, volume agent.Volume) error {
	heading("Leaving")
	begin := time.Now()
	if err := a.Unpublish(ctx, volume); err != nil {
		return fmt.Errorf("unpublishing: %w", err)
	}
	line("unpublished", "in %s", since(begin))
	volumes, err := a.Volumes()
	if err != nil {
		return err
	}
	pins, err := a.Pins()
	if err != nil {
		return err
	}
	line("left over", "%d mounts, %d pins", len(volumes), len(pins))
	if len(volumes)+len(pins) > 0 {
		return errors.New("the agent left something behind")
	}
	return nil
}

// tearDown works without the context of the demo, which Ctrl-C has ended.
func tearDown(a *agent.Agent) error {
	stopped := a.Stop()
	if stopped != nil {
		fmt.Fprintf(os.Stderr, "the agent's log:\n%s\n", a.Log())
	}
	closed := a.Close()
	points, err := agent.MountsBelow(a.Dir())
	if err == nil && len(points) > 0 {
		err = fmt.Errorf("still mounted: %q", points)
	}
	if err := errors.Join(stopped, closed, err); err != nil {
		return fmt.Errorf("%w: %w", errLeftOver, err)
	}
	return nil
}

func heading(text string) { fmt.Printf("\n%s\n", text) }

// line prints one fact.
func line(name, format string, args ...any) {
	fmt.Printf("  %-18s %s\n", name, fmt.Sprintf(format, args...))
}

// since gives a time as a person reads it, three digits at most.
func since(begin time.Time) string {
	d := time.Since(begin)
	switch {
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}
