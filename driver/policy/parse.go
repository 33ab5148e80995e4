package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/closured/closured/internal/redact"
	"github.com/closured/closured/nixstore"
)

// The limits of a policy file.
const (
	maxBytes    = 1 << 20 // as much as a ConfigMap holds
	maxRules    = 1000
	maxProblems = 20
)

// next is the next step of whoever wrote a malformed policy.
const next = "correct the policy file; the README shows one"

// Parse reads a policy. Its error joins every problem, with the number of the rule
// (from 1); each is nixstore.ErrInvalid. Nothing is guessed: what is unknown,
// missing or of the wrong type is refused, since it would weaken the policy.
func Parse(data []byte) (*Policy, error) {
	r := &reader{}
	rules := r.document(data)
	p := &Policy{name: "the policy", redact: redact.New()}
	for i, raw := range rules {
		p.rules = append(p.rules, r.rule(i+1, raw))
	}
	if len(r.problems) > 0 {
		return nil, errors.Join(r.problems...)
	}
	return p, nil
}

// reader gathers the problems of one run of Parse.
type reader struct {
	problems []error
}

func (r *reader) fail(format string, args ...any) {
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, nixstore.Fail(nixstore.ErrInvalid, next, format, args...))
	}
}

func (r *reader) failRule(number int, format string, args ...any) {
	r.fail("rule %d of the policy: %s", number, fmt.Sprintf(format, args...))
}

// document gives the rules of the file, each still raw.
func (r *reader) document(data []byte) []json.RawMessage {
	if len(data) > maxBytes {
		r.fail("the policy has %d bytes, more than %d", len(data), maxBytes)
		return nil
	}
	if hasSecondDocument(data) {
		// The YAML reader would take the first and drop the others without a word.
		r.fail("the policy has more than one YAML document")
		return nil
	}
	text, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		r.fail("the policy is no YAML: %s", oneLine(err))
		return nil
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(text, &doc); err != nil || doc == nil {
		r.fail("the policy is no map with the key rules")
		return nil
	}
	r.unknown("the policy", doc, []string{"rules"})
	var rules []json.RawMessage
	if err := json.Unmarshal(doc["rules"], &rules); err != nil || rules == nil {
		r.fail("the policy has no list of rules; an empty one, rules: [], refuses everything")
		return nil
	}
	if len(rules) > maxRules {
		r.fail("the policy has %d rules, more than %d", len(rules), maxRules)
		return nil
	}
	return rules
}

// hasSecondDocument tells whether a document begins after there was content.
func hasSecondDocument(data []byte) bool {
	content := false
	for line := range bytes.Lines(data) {
		line = bytes.TrimRight(line, " \t\r\n")
		rest, mark := bytes.CutPrefix(line, []byte("---"))
		mark = mark && (len(rest) == 0 || rest[0] == ' ' || rest[0] == '\t')
		if mark && content {
			return true
		}
		content = content || mark || len(line) > 0 && line[0] != '#' && line[0] != '%'
	}
	return false
}

// rule reads rule number, and adds its problems.
func (r *reader) rule(number int, raw json.RawMessage) rule {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		r.failRule(number, "it is no map")
		return rule{}
	}
	r.unknown(fmt.Sprintf("rule %d of the policy", number), fields, []string{"namespaces", "sources", "flakes", "build"})
	out := rule{build: true}
	out.namespaces = r.namespaces(number, fields)
	out.sources = r.sources(number, fields)
	out.flakes = r.flakes(number, fields, slices.Contains(out.sources, nixstore.SourceFlake))
	if build, ok := fields["build"]; ok {
		switch string(build) {
		case "true":
		case "false":
			out.build = false
		default:
			r.failRule(number, "build is %s, neither true nor false", nixstore.Quote(string(build)))
		}
	}
	return out
}

func (r *reader) namespaces(number int, fields map[string]json.RawMessage) []string {
	list, ok := r.strings(number, "namespaces", fields)
	if ok && len(list) == 0 {
		r.failRule(number, "it has no namespaces; all are written [\"*\"]")
	}
	for _, pattern := range list {
		if pattern == "" || strings.Trim(pattern, "abcdefghijklmnopqrstuvwxyz0123456789-*") != "" {
			r.failRule(number, "the namespace pattern %s holds more than lower-case letters, digits, - and *", nixstore.Quote(pattern))
		}
	}
	return list
}

func (r *reader) sources(number int, fields map[string]json.RawMessage) []nixstore.SourceKind {
	list, _ := r.strings(number, "sources", fields)
	var out []nixstore.SourceKind
	for _, word := range list {
		kind := nixstore.SourceKind(word)
		switch {
		case slices.Contains(kinds(), kind):
			out = append(out, kind)
		case strings.HasSuffix(word, "-linux"):
			r.failRule(number, "the source %s is part of storePath: write that", nixstore.Quote(word))
		default:
			r.failRule(number, "there is no source %s, only %s", nixstore.Quote(word), listing(kinds()))
		}
	}
	return out
}

// flakes reads the patterns. flakeRef without patterns could mean all or none, so
// it is neither.
func (r *reader) flakes(number int, fields map[string]json.RawMessage, wanted bool) []flakePattern {
	if _, ok := fields["flakes"]; !ok {
		if wanted {
			r.failRule(number, "it allows flakeRef, but has no flakes; all are written [\"*\"]")
		}
		return nil
	}
	list, ok := r.strings(number, "flakes", fields)
	if ok && !wanted {
		r.failRule(number, "it has flakes, but its sources lack flakeRef")
	}
	if ok && wanted && len(list) == 0 {
		r.failRule(number, "it allows flakeRef, but its flakes are empty; all are written [\"*\"]")
	}
	var out []flakePattern
	for _, text := range list {
		pattern, problem := parsePattern(text)
		if problem != "" {
			r.failRule(number, "the flake pattern %s is malformed: %s", nixstore.Quote(text), problem)
		}
		out = append(out, pattern)
	}
	return out
}

// strings reads a list of strings, which must be there.
func (r *reader) strings(number int, name string, fields map[string]json.RawMessage) ([]string, bool) {
	raw, ok := fields[name]
	if !ok {
		r.failRule(number, "it has no %s", name)
		return nil, false
	}
	var list []*string // pointers tell null from ""
	if err := json.Unmarshal(raw, &list); err != nil || list == nil || slices.Contains(list, nil) {
		r.failRule(number, "%s is no list of strings", name)
		return nil, false
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = *s
	}
	return out, true
}

// unknown refuses fields that nobody would read: a misspelt "build: false" must
// not become a rule that builds.
func (r *reader) unknown(where string, fields map[string]json.RawMessage, known []string) {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(known, name) {
			r.fail("%s: there is no field %s, only %s", where, nixstore.Quote(name), strings.Join(known, ", "))
		}
	}
}

// oneLine gives a foreign error in one line of bounded length.
func oneLine(err error) string {
	const most = 200
	text := strings.Join(strings.Fields(err.Error()), " ")
	return strconv.Quote(text[:min(most, len(text))])
}
