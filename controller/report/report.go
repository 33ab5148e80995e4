package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"unicode/utf8"

	"github.com/closured/closured/nixstore"
)

// MessageMax is how much of a termination message kubelet keeps, in bytes
// (Kubernetes, "Customizing the termination message").
const MessageMax = 4096

// failureMax bounds the text of a failure in bytes, so that with JSON's escapes,
// which make six bytes of one at most, it stays below MessageMax.
const failureMax = 600

// Report is what a build pod found.
type Report struct {
	Root         nixstore.StorePath `json:"root,omitzero"`
	System       string             `json:"system,omitempty"`       // Nix system of the closure
	Digest       string             `json:"digest,omitempty"`       // of the image's manifest, "sha256:…"
	ManifestSize int64              `json:"manifestSize,omitempty"` // bytes
	Size         int64              `json:"size,omitempty"`         // sum of the NAR sizes in bytes
	Paths        int                `json:"paths,omitempty"`        // how many store paths
	Node         string             `json:"node,omitempty"`         // where the pod ran
	Failure      string             `json:"error,omitempty"`        // why there is no report; the rest is empty then
}

// Encode gives the bytes of the termination message. A long failure is cut.
func (r Report) Encode() ([]byte, error) {
	r.Failure = clip(r.Failure)
	data, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("writing a report: %w", err)
	}
	if len(data) > MessageMax {
		return nil, fmt.Errorf("writing a report: it has %d bytes, more than the %d that kubelet keeps", len(data), MessageMax)
	}
	return data, nil
}

// Parse reads a termination message. Its error is ErrInvalid when that is no
// report; a report of a failure is no error.
func Parse(message []byte) (Report, error) {
	var r Report
	d := json.NewDecoder(bytes.NewReader(message))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Report{}, wrong("it is no JSON of a report")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Report{}, wrong("something follows it")
	}
	if r.Failure != "" {
		return Report{Failure: clip(r.Failure)}, nil
	}
	if problem := r.problem(); problem != "" {
		return Report{}, wrong(problem)
	}
	return r, nil
}

// problem says what a report lacks, or "".
func (r Report) problem() string {
	const nodeMax = 253 // a DNS subdomain, as names of nodes are
	switch {
	case r.Root.IsZero():
		return "it names no root"
	case r.System == "":
		return "it names no system"
	case !digestForm().MatchString(r.Digest):
		return "it has no digest"
	case r.ManifestSize <= 0, r.Size < 0, r.Paths <= 0, int64(r.Paths) > 1<<31-1:
		return "a number in it cannot be"
	case len(r.Node) > nodeMax:
		return "the node's name is too long"
	}
	return ""
}

func digestForm() *regexp.Regexp { return regexp.MustCompile(`^sha256:[0-9a-f]{64}$`) }

func wrong(problem string) error {
	return nixstore.Fail(nixstore.ErrInvalid, "look at the build pod's log", "the build pod's report cannot be used: %s", problem)
}

// clip bounds a text, at the boundary of a character.
func clip(s string) string {
	if len(s) <= failureMax {
		return s
	}
	n := failureMax
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
