package closureimage

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/closured/closured/internal/ociindex"
	"github.com/closured/closured/nixstore"
)

// formatVersion changes with every change of the bytes of layers, configurations
// or manifests, also when an update of the compressor brings it about: it is part
// of each name in the cache, so that nothing old is served as something new.
const formatVersion = 1

// Making identifies how images are made of closures: when it is equal, and closures,
// forms and settings are, digests are too.
func Making(c Compression) string { return strconv.Itoa(formatVersion) + " " + c.String() }

// Form says where in the image the closure stands.
type Form int

// The forms of an image.
const (
	Root   Form = iota // an ordinary image with the closure at /nix
	Volume             // the contents of /nix at the image's root, for Kubernetes image volumes
)

// folder gives the parent of store and var in the tar, with a slash at its end.
func (f Form) folder() string {
	if f == Volume {
		return ""
	}
	return "nix/"
}

// Settings are the parts of an image's configuration that a user may choose
// (OCI image specification 1.1, "config"). The zero value is fine.
type Settings struct {
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	Env          []string          `json:"env,omitempty"`          // NAME=value; replaces PATH and SSL_CERT_FILE of the image's own
	ExposedPorts []string          `json:"exposedPorts,omitempty"` // port or port/tcp, port/udp, port/sctp
	User         string            `json:"user,omitempty"`         // user, uid, user:group or uid:gid
	WorkingDir   string            `json:"workingDir,omitempty"`   // absolute
	Labels       map[string]string `json:"labels,omitempty"`
}

// Spec names an image.
type Spec struct {
	Root         nixstore.StorePath
	Registration int64  // of the root, see nixstore.Closure
	System       string // Nix system, such as "aarch64-linux"; empty: this program's
	Form         Form
	Settings     Settings
}

// settingsMax bounds what users add to a configuration, in bytes of JSON, so that
// an image's file stays small and manifests below what clients accept.
const settingsMax = 32 << 10

// normalise fills in defaults and checks. Its errors are ErrInvalid.
func (s Spec) normalise() (Spec, error) {
	if s.System == "" {
		s.System = nixstore.System()
	}
	if s.Root.IsZero() {
		return s, nixstore.Fail(nixstore.ErrInvalid, "name a store path", "an image needs a root")
	}
	if s.Form != Root && s.Form != Volume {
		return s, nixstore.Fail(nixstore.ErrInvalid, "", "there is no image form %d", s.Form)
	}
	if _, err := ociindex.Platform(s.System); err != nil {
		return s, err
	}
	return s, s.Settings.check()
}

// key identifies the image in the cache.
func (s Spec) key(c Compression) (key, error) {
	// JSON sorts the labels, and check has refused what it would write ambiguously.
	settings, err := json.Marshal(s.Settings)
	if err != nil {
		return key{}, fmt.Errorf("naming the image of %s: %w", s.Root, err)
	}
	return sha256.Sum256(fmt.Appendf(nil, "image %d %s %s %d %q %q\n%s",
		formatVersion, c, s.Root, s.Registration, s.System, s.Form.folder(), settings)), nil
}

// check refuses what no runtime could use, and what JSON cannot say exactly.
func (s Settings) check() error {
	size := len(s.User) + len(s.WorkingDir)
	words := []string{s.User, s.WorkingDir}
	for _, list := range [][]string{s.Entrypoint, s.Cmd, s.Env, s.ExposedPorts} {
		words = append(words, list...)
	}
	for k, v := range s.Labels {
		words = append(words, k, v)
		if k == "" {
			return refused("a label has no name", "")
		}
	}
	for _, w := range words {
		size += len(w)
		if !utf8.ValidString(w) || strings.ContainsRune(w, 0) {
			return refused("a value is not valid UTF-8 or holds a NUL", w)
		}
	}
	if size > settingsMax {
		return refused(fmt.Sprintf("it has more than %d bytes", settingsMax), "")
	}
	return s.checkFields()
}

func (s Settings) checkFields() error {
	for _, e := range s.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return refused("a variable is not written NAME=value", e)
		}
	}
	for _, p := range s.ExposedPorts {
		if !isPort(p) {
			return refused("a port is not written as 80, 80/tcp, 80/udp or 80/sctp", p)
		}
	}
	if s.WorkingDir != "" && s.WorkingDir[0] != '/' {
		return refused("the working directory is not absolute", s.WorkingDir)
	}
	return nil
}

func refused(problem, value string) error {
	if value != "" {
		problem += ": " + nixstore.Quote(value)
	}
	return nixstore.Fail(nixstore.ErrInvalid, "correct the image's configuration", "in the image's configuration %s", problem)
}

// isPort checks the grammar of the keys of ExposedPorts.
func isPort(s string) bool {
	number, proto, with := strings.Cut(s, "/")
	if with && !slices.Contains([]string{"tcp", "udp", "sctp"}, proto) {
		return false
	}
	n, err := strconv.ParseUint(number, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == number
}
