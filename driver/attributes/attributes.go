package attributes

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/closured/closured/nixstore"
)

// The keys that a pod may set.
const (
	KeyStorePath = "storePath"
	KeyX86       = "x86_64-linux"
	KeyARM       = "aarch64-linux"
	KeyPackages  = "packages"
	KeyFlakeRef  = "flakeRef"
	KeyNixExpr   = "nixExpr"
	KeyImage     = "image"
	KeyWritable  = "writable"
	KeyHostUsers = "hostUsers"
	KeySizeLimit = "sizeLimit"
)

// Reserved is the prefix of the keys that kubelet writes, and overwrites when a
// pod sets them itself, if the CSIDriver object has podInfoOnMount.
const Reserved = "csi.storage.k8s.io/"

// The limits of a request.
const (
	// MaxBytes bounds a volume's keys and values together, without kubelet's own:
	// the limit of a map in the CSI specification ("Size Limits").
	MaxBytes = 4096
	// MaxRoots bounds how many store paths or packages one volume may join.
	MaxRoots = 64
	// maxPackageBytes bounds one dotted attribute name.
	maxPackageBytes = 255
	// maxProblems bounds how many problems one answer tells: it travels in an HTTP/2
	// trailer, and nobody reads more.
	maxProblems = 10
)

// Attributes is a volume's request, checked.
type Attributes struct {
	// Source is what the volume shall show.
	Source nixstore.Source
	// Writable asks for a private writable layer over the closure.
	Writable bool
	// SizeLimitBytes bounds the writable layer; 0: the agent's default.
	SizeLimitBytes int64
	// UserNamespace: the pod says that it has a user namespace (hostUsers: "false").
	UserNamespace bool
	// Pod is who asks.
	Pod Pod
}

// Parse reads a volume context for a node of the given Nix system. Its error
// joins every problem, the most useful first; each is nixstore.ErrInvalid. The
// attributes are the zero value when there is an error.
func Parse(volumeContext map[string]string, system string) (Attributes, error) {
	if err := checkSize(volumeContext); err != nil {
		return Attributes{}, err
	}
	p := &parser{context: volumeContext, system: system, known: knownKeys(system)}
	p.pod() // before the source: an image lives in the pod's namespace
	ofPod := p.problems
	p.problems = nil
	p.unknown()
	p.texts()
	p.source()
	p.options()
	p.problems = append(p.problems, ofPod...) // last: the user can do least about them
	if len(p.problems) > 0 {
		return Attributes{}, errors.Join(p.problems...)
	}
	return p.out, nil
}

// parser is one run of Parse.
type parser struct {
	context  map[string]string
	system   string
	known    []string
	broken   map[string]bool // keys whose value is no proper text; not looked at again
	out      Attributes
	problems []error
}

func (p *parser) fail(next, format string, args ...any) {
	if len(p.problems) < maxProblems {
		p.problems = append(p.problems, nixstore.Fail(nixstore.ErrInvalid, next, format, args...))
	}
}

// value gives key's value; false when it is missing or no proper text.
func (p *parser) value(key string) (string, bool) {
	v, ok := p.context[key]
	return v, ok && !p.broken[key]
}

// knownKeys gives the keys that a pod may set on a node of the given system.
func knownKeys(system string) []string {
	keys := []string{
		KeyStorePath, KeyX86, KeyARM, KeyPackages, KeyFlakeRef, KeyNixExpr,
		KeyImage, KeyWritable, KeyHostUsers, KeySizeLimit,
	}
	if system != "" && !slices.Contains(keys, system) {
		keys = append(keys, system)
	}
	return keys
}

func checkSize(volumeContext map[string]string) error {
	total := 0
	for key, value := range volumeContext {
		if !strings.HasPrefix(key, Reserved) {
			total += len(key) + len(value)
		}
	}
	if total <= MaxBytes {
		return nil
	}
	return nixstore.Fail(nixstore.ErrInvalid, "shorten them; put a long expression into a flake or the package set",
		"the volume's attributes are %d bytes together, more than the %d that CSI allows", total, MaxBytes)
}

// unknown refuses keys that nobody would read: a typing error must not become a
// volume that quietly lacks what was asked.
func (p *parser) unknown() {
	for _, key := range slices.Sorted(maps.Keys(p.context)) {
		if slices.Contains(p.known, key) || strings.HasPrefix(key, Reserved) {
			continue
		}
		p.fail("did you mean "+nixstore.Quote(nearest(key, p.known))+"? The known ones are "+strings.Join(p.known, ", "),
			"there is no volume attribute %s", nixstore.Quote(key))
	}
}

// texts refuses values that are no proper text. Line ends and tabs are fine where
// YAML's block style brings them along: in lists and expressions, and at the ends.
func (p *parser) texts() {
	p.broken = map[string]bool{}
	for _, key := range p.known {
		value, ok := p.context[key]
		if !ok {
			continue
		}
		lines := key != KeyWritable && key != KeyHostUsers && key != KeySizeLimit
		if problem := textProblem(value, lines); problem != "" {
			p.broken[key] = true
			p.fail("remove it", "the attribute %s holds %s", key, problem)
		}
	}
}

// textProblem says what a value holds that no text should, or "".
func textProblem(s string, lines bool) string {
	if !utf8.ValidString(s) {
		return "bytes that are not UTF-8"
	}
	for _, r := range s {
		switch {
		case r == 0:
			return "a NUL character"
		case lines && (r == '\n' || r == '\r' || r == '\t'):
		case r < ' ', r >= 0x7f && r <= 0x9f:
			return "the control character " + nixstore.Quote(string(r))
		}
	}
	return ""
}

func (p *parser) options() {
	p.out.Writable = p.boolean(KeyWritable, false)
	p.out.UserNamespace = !p.boolean(KeyHostUsers, true)
	if p.out.Writable && p.out.UserNamespace {
		// overlayfs cannot be mounted with mapped ids, and a hard link view must
		// never be written to: it shares its inodes with the store.
		p.fail("use one of the two", `writable: "true" and hostUsers: "false" do not go together`)
	}
	limit, ok := p.value(KeySizeLimit)
	if !ok {
		return
	}
	if !p.out.Writable {
		p.fail(`set writable: "true", or remove it`, "the attribute sizeLimit bounds a writable layer, and the volume has none")
	}
	size, problem := parseSize(limit)
	if problem != "" {
		p.fail("write a size such as 500Mi or 10Gi", "sizeLimit %s %s", nixstore.Quote(limit), problem)
	}
	p.out.SizeLimitBytes = size
}

// boolean reads exactly "true" or "false", as Kubernetes does; absent is def.
func (p *parser) boolean(key string, def bool) bool {
	value, ok := p.value(key)
	switch {
	case !ok:
		return def
	case value == "true":
		return true
	case value == "false":
		return false
	}
	p.fail(`write "true" or "false", in quotes`, "the attribute %s is %s", key, nixstore.Quote(value))
	return def
}
