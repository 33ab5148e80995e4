package nixeval

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/closured/closured/internal/redact"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixdaemon"
	"github.com/closured/closured/nixstore/nixeval/jail"
)

// failure says why a job gave no answer.
func (e *Evaluator) failure(ctx context.Context, j *job, r jail.Result) error {
	message := errorLine(string(r.Stderr))
	switch {
	case r.Outcome == jail.Deadline:
		if _, err := nixdaemon.Greet(ctx, e.cfg.Socket); err != nil {
			return err
		}
		return nixstore.Fail(nixstore.ErrEvaluation, "look for an endless loop, or ask the operator for a longer limit",
			"%s takes longer than %s to evaluate", j.what, durationText(e.cfg.Timeout))
	case r.Outcome == jail.OutOfMemory || meansMemory(string(r.Stderr)):
		return nixstore.Fail(nixstore.ErrEvaluation, "look for an endless list or string, or ask the operator for a higher limit",
			"%s needs more than %s of memory to evaluate", j.what, sizeText(e.cfg.MemoryBytes))
	case r.Outcome == jail.OutputLimit:
		return nixstore.Fail(nixstore.ErrEvaluation, "name derivations only",
			"%s gives more than %s of text", j.what, sizeText(stdoutMax))
	case r.Outcome == jail.Signaled && message == "":
		return nixstore.Fail(nixstore.ErrEvaluation, "look for endless recursion",
			"%s crashes the evaluator (%v)", j.what, r.Signal)
	}
	if strings.Contains(message, "cannot connect to") || strings.Contains(message, "unexpected end-of-file") {
		if _, err := nixdaemon.Greet(ctx, e.cfg.Socket); err != nil { // anybody can throw these words
			return err
		}
	}
	if message == "" && len(r.Stderr) == stderrMax {
		message = "its message is longer than " + sizeText(stderrMax)
	}
	if message == "" {
		message = fmt.Sprintf("Nix ended with exit code %d and said nothing", r.ExitCode)
	}
	return explain(j, message)
}

// hint says what a message of Nix means and what to do.
type hint struct {
	sign    string // part of the message
	network bool   // only for evaluations with network
	kind    error
	cause   string // after the object; %s is the quoted part of the message, empty: the message itself
	next    string
}

// hints are tried in order. The signs are those of Nix 2.8 to 2.34.
func hints() []hint {
	return []hint{
		{"access to URI", false, nixstore.ErrEvaluation, "may not fetch %s while it is evaluated", "fetch it in a derivation with a hash, or put it into the package set"},
		{"is forbidden in restricted mode", false, nixstore.ErrEvaluation, "may not read %s", "use the files of the package set only"},
		{"is forbidden in pure ev", false, nixstore.ErrEvaluation, "may not read %s", "use the files of the flake and its inputs only"},
		{"allow-import-from-derivation", false, nixstore.ErrEvaluation, "has to build %s before it can go on (import from derivation)", "import files of the package set, or ask the operator to allow it"},
		{"during evaluation because", false, nixstore.ErrEvaluation, "has to build %s before it can go on (import from derivation)", "import files of the package set, or ask the operator to allow it"},
		{"experimental Nix feature", false, nixstore.ErrEvaluation, "may not use %s while it is evaluated", "use what stable Nix has, without fetchTree and getFlake"},
		{"in pure eval", false, nixstore.ErrEvaluation, "", "lock what is fetched with a hash, in the flake's inputs"},
		{"unlocked flake reference", false, nixstore.ErrEvaluation, "", "name it in the flake's inputs"},
		{"stack overflow", false, nixstore.ErrEvaluation, "", "look for a value or function that refers to itself"},
		{"infinite recursion", false, nixstore.ErrEvaluation, "", "look for a value that refers to itself"},
		{"syntax error", false, nixstore.ErrEvaluation, "", "correct the expression"},
		{"search path", false, nixstore.ErrEvaluation, "names %s, which is not there", "use <nixpkgs> or <pkgs>, the operator's package set"},
		{"does not provide attribute", false, nixstore.ErrNotFound, "", "name a package of the flake, as in <flake>#<package>"},
		{"cannot find flake", false, nixstore.ErrNotFound, "", "write the reference in full, such as github:<owner>/<repository>"},
		{"HTTP error 404", true, nixstore.ErrNotFound, "", "check the reference; private sources need the operator's access-tokens"},
		{"unable to download", true, nixstore.ErrUnavailable, "", "check the node's network; the agent tries again by itself"},
		{"Couldn't resolve host", true, nixstore.ErrUnavailable, "", "check the node's network; the agent tries again by itself"},
	}
}

const messageMax = 120 // bytes, so that object, message and next step fit in 200

func explain(j *job, message string) error {
	for _, h := range hints() {
		if !strings.Contains(message, h.sign) || h.network && !j.network {
			continue
		}
		if h.cause == "" {
			return nixstore.Fail(h.kind, h.next, "%s: %s", j.what, cutText(message, messageMax))
		}
		return nixstore.Fail(h.kind, h.next, "%s "+h.cause, j.what, nixstore.Quote(quoted(message)))
	}
	return nixstore.Fail(nixstore.ErrEvaluation, "evaluate it with nix-instantiate or nix eval to see where it fails",
		"%s: %s", j.what, cutText(message, messageMax))
}

// quoted gives the first thing between quotation marks of a message.
func quoted(message string) string {
	_, rest, ok := strings.Cut(message, "'")
	if !ok {
		return message
	}
	inside, _, ok := strings.Cut(rest, "'")
	if !ok {
		return message
	}
	return inside
}

// meansMemory knows what Nix and its collector say when an allocation fails.
func meansMemory(stderr string) bool {
	for _, sign := range []string{
		"error: out of memory", "std::bad_alloc", "Out of Memory", "Failed to expand heap", "Too many heap sections",
		"Insufficient memory", "Cannot allocate memory",
	} {
		if strings.Contains(stderr, sign) {
			return true
		}
	}
	return false
}

// errorLine gives the line of Nix's last error, without colours, place and
// credentials: the lines around it quote files, and it may quote an address.
func errorLine(stderr string) string {
	lines := strings.Split(ansi().ReplaceAllString(stderr, ""), "\n")
	for _, line := range slices.Backward(lines) {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "error:")
		text, _, _ = strings.Cut(text, ", at /") // a place, which Nix mostly puts on other lines
		if text = strings.TrimSpace(text); ok && text != "" {
			return strings.NewReplacer(evalDir+"/"+sourceFile, "the expression", "«none»:0: ", "").Replace(redact.New().Text(text))
		}
	}
	return ""
}

// ansi matches escape sequences of terminals, ECMA-48 section 5.4.
func ansi() *regexp.Regexp { return regexp.MustCompile("\x1b\\[[0-?]*[ -/]*[@-~]") }

// cutText makes foreign text fit for one line of a message.
func cutText(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
