package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/closured/closured/nixstore/binarycache"
)

// genkeyName is the command that makes the key of an installation's caches.
const genkeyName = "genkey"

// genkeyCommand prints a new secret key for what nodes serve each other, in Nix's
// format. It gives the exit code.
func genkeyCommand(args []string) int {
	if err := genkey(args, os.Stdout); err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "closured-controller: %v\n", err)
		return exitUsage
	}
	return 0
}

func genkey(args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("use: closured-controller genkey NAME, such as closured-1")
	}
	key, err := binarycache.GenerateKey(args[0])
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, key.Secret())
	return err
}
