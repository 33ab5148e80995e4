package registry

import (
	"strings"

	"github.com/closured/closured/nixstore"
)

// kind is what a request is about. Its values are labels of metrics.
type kind string

const (
	kindBase      kind = "base"
	kindManifest  kind = "manifests"
	kindBlob      kind = "blobs"
	kindTags      kind = "tags"
	kindReferrers kind = "referrers"
	kindOther     kind = "other" // nothing of the specification
)

// route is a request's path, split but for the name not yet judged.
type route struct {
	kind       kind
	repository string
	reference  string // a tag or digest; empty for tags
}

// isDigest tells whether the reference is meant as a digest: no tag holds a colon.
func (t route) isDigest() bool { return strings.Contains(t.reference, ":") }

// parsePath splits a path as the specification's end points do. A name may hold
// any of their words itself, so that the end decides.
func parsePath(path string) route {
	if path == "/v2" || path == "/v2/" {
		return route{kind: kindBase}
	}
	rest, ok := strings.CutPrefix(path, "/v2/")
	words := strings.Split(rest, "/")
	last := len(words) - 1
	if !ok || last < 2 {
		return route{kind: kindOther}
	}
	t := route{repository: strings.Join(words[:last-1], "/"), reference: words[last], kind: kindOther}
	switch words[last-1] {
	case "manifests":
		t.kind = kindManifest
	case "blobs":
		t.kind = kindBlob
	case "referrers":
		t.kind = kindReferrers
	case "tags":
		if t.reference == "list" {
			t.kind, t.reference = kindTags, ""
		}
	}
	return t
}

// check refuses references that cannot be: a malformed digest is ErrInvalid. A
// malformed tag is merely one that nobody has, ErrNotFound: the conformance suite
// of the specification wants 404 for it.
func (t route) check() error {
	switch {
	case t.kind == kindTags:
		return nil
	case t.isDigest() || t.kind != kindManifest:
		if problem := digestProblem(t.reference); problem != "" {
			return withCode(codeDigestInvalid, nixstore.Fail(nixstore.ErrInvalid, "write it as sha256:<64 hexadecimal digits>",
				"%s is no digest: %s", nixstore.Quote(t.reference), problem))
		}
	case !isTag(t.reference):
		return noTag(t.reference)
	}
	return nil
}

func noTag(tag string) error {
	return withCode(codeManifestUnknown, nixstore.Fail(nixstore.ErrNotFound, "use the tag latest", "there is no tag %s", nixstore.Quote(tag)))
}
