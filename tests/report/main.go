// Command report runs the steps of `make test`, keeps what they say as the
// events of `go test -json`, and counts them at the end.
//
//	report live FILE                  reads events from stdin, keeps them, shows packages and failures
//	report step FILE NAME COMMAND...  runs a command as one test
//	report skip FILE NAME REASON      records a test that cannot be run here
//	report failed FILE                names what may be tried once more: "PACKAGE<tab>TestA|TestB"
//	report summary FILE...            counts; the last line is "N passed, N failed, N skipped"
//
// A step that fails is recorded and does not end the run: the summary does, by
// exit code 1. FILE is appended to, by one process at a time; what a killed run
// leaves is cut at its last whole line.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

var errUsage = errors.New("use: report live FILE | step FILE NAME COMMAND WORDS | skip FILE NAME REASON | summary FILES")

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errUsage
	}
	switch {
	case args[0] == "summary":
		return summarise(args[1:], os.Stdout)
	case args[0] == "failed" && len(args) == 2:
		return listFailed(args[1], os.Stdout)
	}
	out, err := os.OpenFile(args[1], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	err = errUsage
	switch {
	case args[0] == "live" && len(args) == 2:
		err = live(os.Stdin, out, os.Stdout)
	case args[0] == "step" && len(args) > 3:
		err = step(out, args[2], args[3:])
	case args[0] == "skip" && len(args) == 4:
		fmt.Printf("skip  %s: %s\n", args[2], args[3])
		err = record(out, args[2], "skip", args[3]+"\n", 0)
	}
	return errors.Join(err, out.Close())
}

// live copies events to keep and shows a reader of show how it goes: a line a
// package, and all that a failed test has said.
func live(in io.Reader, keep, show io.Writer) error {
	said := map[testID]string{}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			if _, err := keep.Write(line); err != nil {
				return err
			}
			showLine(line, said, show)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func showLine(line []byte, said map[testID]string, show io.Writer) {
	var e event
	if json.Unmarshal(line, &e) != nil || e.Action == "" {
		_, _ = show.Write(line) // no event: the words of a tool
		return
	}
	id := e.id()
	switch e.Action {
	case "build-output":
		_, _ = io.WriteString(show, e.Output)
	case "output":
		said[id] += e.Output
	case "fail":
		_, _ = io.WriteString(show, said[id])
		if e.Test == "" {
			_, _ = fmt.Fprintf(show, "FAIL  %s\n", e.Package)
		}
		delete(said, id)
	case "pass", "skip":
		if e.Test == "" && e.Action == "pass" {
			_, _ = fmt.Fprintf(show, "ok    %-60s %6.1fs\n", e.Package, e.Elapsed)
		}
		delete(said, id)
	}
}

// step runs a command, shows what it prints when it fails, and records it as
// the one test of a package called name.
func step(keep io.Writer, name string, command []string) error {
	begin := time.Now()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput() //nolint:noctx // the caller's own command, as long as it takes
	action, mark := "pass", "ok   "
	if err != nil {
		action, mark = "fail", "FAIL "
		out = fmt.Appendf(out, "%v\n", err)
		_, _ = os.Stdout.Write(out)
	}
	took := time.Since(begin).Seconds()
	fmt.Printf("%s %-60s %6.1fs\n", mark, name, took)
	return record(keep, name, action, string(out), took)
}

func record(keep io.Writer, name, action, output string, seconds float64) error {
	enc := json.NewEncoder(keep)
	return errors.Join(
		enc.Encode(event{Action: "output", Package: name, Test: name, Output: output}),
		enc.Encode(event{Action: action, Package: name, Test: name, Elapsed: seconds}))
}
