// Command closured-controller builds what NixImage objects describe. It parses
// flags, puts the parts together and waits for a signal; everything else is in the
// packages that it imports.
//
// It has a second life: `closured-controller report` is the container of the build
// pods that it makes. That reads the volume of its pod, and tells the controller
// what is in it by the termination message.
//
// `closured-controller genkey NAME` prints a key for the binary caches of an
// installation, once, when that is made.
//
// All may be killed at any moment: see package controller.
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

	"github.com/closured/closured/controller/buildjob"
	"github.com/closured/closured/internal/logkey"
)

// version is set by the linker.
var version = "devel"

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	os.Exit(program(os.Args[1:]))
}

func program(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(args) > 0 && args[0] == buildjob.Command {
		return reportCommand(ctx, args[1:])
	}
	if len(args) > 0 && args[0] == genkeyName {
		return genkeyCommand(args[1:])
	}
	return command(ctx, args)
}

func command(ctx context.Context, args []string) int {
	cfg, err := parseFlags(args, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		_, _ = fmt.Fprintf(os.Stderr, "closured-controller: %v\n", err)
		return exitUsage
	case cfg.version:
		_, _ = fmt.Println("closured-controller", version)
		return 0
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: cfg.logLevel}))
	if err := run(ctx, cfg, log); err != nil {
		log.Error("the controller ends", slog.String(logkey.Error, err.Error()))
		return exitFailure
	}
	return 0
}
