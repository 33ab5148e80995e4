// Command closured is the node agent: a CSI driver that gives pods Nix closures
// as volumes. It parses flags, puts the parts together and waits for a signal;
// everything else is in the packages that it imports.
//
// Stopping it never unmounts a volume. Killing it at any moment loses nothing:
// the next start reads the pins and the mount table.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/closured/closured/nixstore/nixeval/jail"
)

// version is set by the linker.
var version = "devel"

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	jail.MaybeChild()
	os.Exit(command(os.Args[1:]))
}

func command(args []string) int {
	cfg, err := parseFlags(args, defaultNodeName(), os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		_, _ = fmt.Fprintf(os.Stderr, "closured: %v\n", err)
		return exitUsage
	case cfg.version:
		_, _ = fmt.Println("closured", version)
		return 0
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: cfg.logLevel}))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, cfg, log); err != nil {
		log.Error("the agent ends", slog.String("error", err.Error()))
		return exitFailure
	}
	return 0
}
