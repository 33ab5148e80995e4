package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// final are the words of failures that are never tried again: a data race is a
// fault however seldom it shows, and a panic keeps later tests from running.
var final = []string{"WARNING: DATA RACE", "panic: "}

// listFailed prints a line for each package with tests that failed and may be
// tried once more, alone: machines under load have hiccups, and a test that
// fails twice is broken. The summary names those that needed it.
func listFailed(file string, show io.Writer) error {
	r := newResults()
	if err := r.read(file); err != nil {
		return err
	}
	failed := map[string]map[string]bool{} // tests without subtests, by package
	for id, state := range r.state {
		if state != "fail" && state != "run" || id.test == "" {
			continue
		}
		if failed[id.pkg] == nil {
			failed[id.pkg] = map[string]bool{}
		}
		top, _, _ := strings.Cut(id.test, "/")
		failed[id.pkg][top] = true
	}
	for _, pkg := range slices.Sorted(maps.Keys(failed)) {
		if r.isFinal(pkg) {
			continue
		}
		tests := slices.Sorted(maps.Keys(failed[pkg]))
		if _, err := fmt.Fprintf(show, "%s\t%s\n", pkg, strings.Join(tests, "|")); err != nil {
			return err
		}
	}
	return nil
}

// isFinal tells whether a package's failure stands as it is: for one of its
// words, or since a test began and never ended, so that others never ran.
func (r results) isFinal(pkg string) bool {
	for id, state := range r.state {
		if id.pkg != pkg {
			continue
		}
		said := func(word string) bool { return strings.Contains(r.said[id], word) }
		if state == "run" || slices.ContainsFunc(final, said) {
			return true
		}
	}
	return false
}
