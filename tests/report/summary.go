package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action  string  `json:"Action"`
	Package string  `json:"Package,omitempty"`
	Test    string  `json:"Test,omitempty"`
	Output  string  `json:"Output,omitempty"`
	Elapsed float64 `json:"Elapsed,omitempty"` // seconds
}

// testID is a test, or a package when the test is empty.
type testID struct{ pkg, test string }

func (e event) id() testID { return testID{e.Package, e.Test} }

// String gives the short name: the package's last folders and the test.
func (t testID) String() string {
	pkg := strings.TrimPrefix(t.pkg, "github.com/closured/closured/")
	if t.test == "" || t.test == t.pkg {
		return pkg
	}
	return pkg + " " + t.test
}

// results is what became of tests and packages.
type results struct {
	state map[testID]string // the last action: run, pass, fail, skip
	said  map[testID]string
	kids  map[testID]bool // tests that have subtests
	again map[testID]bool // tests that failed, and passed when tried once more
}

func newResults() results {
	return results{map[testID]string{}, map[testID]string{}, map[testID]bool{}, map[testID]bool{}}
}

func summarise(files []string, show io.Writer) error {
	r := newResults()
	for _, name := range files {
		before := len(r.state)
		if err := r.read(name); err != nil {
			return err
		}
		if len(r.state) == before { // the step ended before its first test
			r.state[testID{pkg: filepath.Base(name) + " holds no result"}] = "fail"
		}
	}
	return r.print(show)
}

func (r results) read(name string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(data) {
		var e event
		if json.Unmarshal(line, &e) == nil && e.Package != "" {
			r.add(e)
		}
	}
	return nil
}

// add takes the next event. Of a test that was run twice the last outcome counts.
func (r results) add(e event) {
	id := e.id()
	if id.test != "" && e.Action == "run" && r.state[id] == "fail" {
		r.again[id] = true
	}
	switch e.Action {
	case "output":
		r.said[id] += e.Output
	case "run", "pass", "fail", "skip", "start":
		r.state[id] = e.Action
	}
	for parent := e.Test; strings.Contains(parent, "/"); {
		parent = parent[:strings.LastIndex(parent, "/")]
		r.kids[testID{e.Package, parent}] = true
	}
}

// print lists skips by reason, then what needed a second attempt, then failures,
// then the counts.
func (r results) print(show io.Writer) error {
	var passed int
	var failed []testID
	skips := map[string][]testID{}
	for id, state := range r.state {
		switch {
		case r.hidden(id):
		case state == "pass":
			passed++
		case state == "skip":
			skips[r.reason(id)] = append(skips[r.reason(id)], id)
		default: // fail, or begun and never ended
			failed = append(failed, id)
		}
	}
	var out strings.Builder
	skipped := listSkips(&out, skips)
	r.listIDs(&out, "passed at the second attempt", r.flaky())
	r.listIDs(&out, "failed", failed)
	fmt.Fprintf(&out, "\n%d passed, %d failed, %d skipped\n", passed, len(failed), skipped)
	if _, err := io.WriteString(show, out.String()); err != nil {
		return err
	}
	if len(failed) > 0 || passed == 0 {
		return errors.New("there are failures")
	}
	return nil
}

// flaky gives the tests that passed only at their second attempt.
func (r results) flaky() []testID {
	var ids []testID
	for id := range r.again {
		if r.state[id] == "pass" && !r.kids[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

// listIDs lists tests with what they complained of, so that the end of a long
// log tells enough.
func (r results) listIDs(out *strings.Builder, title string, ids []testID) {
	slices.SortFunc(ids, compareIDs)
	for i, id := range ids {
		if i == 0 {
			fmt.Fprintf(out, "\n%s:\n", title)
		}
		fmt.Fprintf(out, "  %s\n", id)
		for _, m := range complaint.FindAllStringSubmatch(r.said[id], complaintsMax) {
			fmt.Fprintf(out, "    %.300s\n", m[1])
		}
	}
}

// complaint is a line of t.Error and its kind, but not one of the agent's log.
var complaint = regexp.MustCompile(`(?m)^\s*(\w+\.go:\d+: .+)$`)

const complaintsMax = 5

// hidden tells whether id does not count: a package or a parent whose outcome
// its tests tell already.
func (r results) hidden(id testID) bool {
	if id.test != "" && !r.kids[id] {
		return false
	}
	if r.state[id] == "pass" || r.state[id] == "skip" {
		return true
	}
	for other, state := range r.state {
		inside := other.pkg == id.pkg && other != id && (id.test == "" || strings.HasPrefix(other.test, id.test+"/"))
		if inside && state != "pass" && state != "skip" {
			return true
		}
	}
	return false
}

var skipLine = regexp.MustCompile(`(?m)^\s*(?:[\w.]+\.go:\d+: )?(.+)$`)

// reason gives the last words of a skipped test.
func (r results) reason(id testID) string {
	reason := "no reason given"
	for _, m := range skipLine.FindAllStringSubmatch(r.said[id], -1) {
		if !strings.HasPrefix(m[1], "=== ") && !strings.HasPrefix(m[1], "--- ") {
			reason = m[1]
		}
	}
	return reason
}

func listSkips(out *strings.Builder, skips map[string][]testID) (total int) {
	if len(skips) > 0 {
		out.WriteString("\nskipped:\n")
	}
	reasons := make([]string, 0, len(skips))
	for reason := range skips {
		reasons = append(reasons, reason)
	}
	slices.Sort(reasons)
	for _, reason := range reasons {
		ids := skips[reason]
		slices.SortFunc(ids, compareIDs)
		names := make([]string, len(ids))
		for i, id := range ids {
			names[i] = id.String()
		}
		fmt.Fprintf(out, "  %s: %s\n", reason, strings.Join(names, ", "))
		total += len(ids)
	}
	return total
}

func compareIDs(a, b testID) int {
	return cmp.Or(strings.Compare(a.pkg, b.pkg), strings.Compare(a.test, b.test))
}
