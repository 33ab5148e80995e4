// Package redact takes secrets out of what is about to be logged or shown:
// credentials in URLs, tokens in texts, and tokens in a volume's context.
//
// It is the second line of defence. The first is not to put secrets into texts;
// this one covers what comes from elsewhere, such as the messages of Nix, and
// what a user wrote in the wrong place. It knows the common forms of secrets,
// not all of them.
//
// All functions are pure, keep their arguments as they are, and may be called
// concurrently.
package redact

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Mask stands where a secret stood.
const Mask = "[redacted]"

// maxValueBytes bounds one value of Context; a hostile volume must not fill the
// node's disk with log lines.
const maxValueBytes = 256

// maxScanBytes bounds what Context searches for secrets. Longer values are named
// by their digest: no valid volume has one (CSI caps a map at 4 KiB).
const maxScanBytes = 4096

// contextPrefix is the prefix of the keys that kubelet writes itself.
const contextPrefix = "csi.storage.k8s.io/"

// rule replaces one form of secret.
type rule struct {
	form *regexp.Regexp
	by   string
}

// rules gives the forms of secrets, compiled, in the order in which they apply.
func rules() []rule {
	const words = `(?:access[_-]?tokens?|refresh[_-]?token|id[_-]?token|private[_-]?token|oauth[_-]?token|` +
		`auth[_-]?token|token|passwd|password|secret|client[_-]?secret|api[_-]?key|x-amz-signature|x-amz-security-token|` +
		`x-amz-credential|sig|signature|credential)`
	return []rule{
		// PEM blocks, as a private key pasted into an attribute.
		{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)`), Mask},
		// scheme://user:password@host and scheme://token@host; greedy up to the last @ before the path.
		{regexp.MustCompile(`(\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/?#"'<>]*@`), "${1}" + Mask + "@"},
		// Authorization headers: "Bearer …", "Basic …".
		{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}`), "${1} " + Mask},
		// JSON web tokens: header and payload are base64url of JSON objects.
		{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?`), Mask},
		// Tokens that carry their kind in a prefix: GitHub, GitLab, Slack, AWS key ids.
		{regexp.MustCompile(`\b(?:gh[opusr]_[A-Za-z0-9]{10,}|github_pat_[A-Za-z0-9_]{10,}|glpat-[A-Za-z0-9_-]{10,}|` +
			`xox[abprs]-[A-Za-z0-9-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{12,})`), Mask},
		// nix.conf: access-tokens = host=token host=token, to the end of the line.
		{regexp.MustCompile(`(?i)(\baccess-tokens\s*[= ]\s*)[^\n"']+`), "${1}" + Mask},
		// JSON and YAML members: "token": "…".
		{regexp.MustCompile(`(?i)("` + words + `"\s*:\s*")(?:[^"\\]|\\.)*"`), "${1}" + Mask + `"`},
		// name=value, as in a query or an environment, and netrc's "password value".
		{regexp.MustCompile(`(?i)((?:^|[?&;\s,_-])` + words + `\s*[=:]\s*)[^\s&"',;#]+`), "${1}" + Mask},
		{regexp.MustCompile(`(?i)(\blogin\s+\S+\s+password\s+)\S+`), "${1}" + Mask},
	}
}

// Redactor holds the compiled forms of secrets. Its zero value is not usable;
// New makes one. It never changes, and may be shared between goroutines.
type Redactor struct {
	rules []rule
}

// New compiles the forms of secrets. It costs some hundred microseconds: make one
// for each component, not for each text.
func New() *Redactor { return &Redactor{rules: rules()} }

// Text gives s with its secrets masked.
func (r *Redactor) Text(s string) string {
	for _, rule := range r.rules {
		s = rule.form.ReplaceAllString(s, rule.by)
	}
	return s
}

// Error gives the text of err, masked, or "" for nil.
func (r *Redactor) Error(err error) string {
	if err == nil {
		return ""
	}
	return r.Text(err.Error())
}

// Context gives a copy of a volume's context that can be logged: kubelet's
// tokens are masked, expressions are named by size and hash only, and long
// values are cut.
//
// The service account tokens of a CSI driver travel in the volume context, where
// protosanitizer does not look (CVE-2023-2878, CVE-2024-3744).
func (r *Redactor) Context(context map[string]string) map[string]string {
	if context == nil {
		return nil
	}
	out := make(map[string]string, len(context))
	for key, value := range context {
		out[r.contextKey(key)] = r.contextValue(key, value)
	}
	return out
}

func (r *Redactor) contextKey(key string) string {
	if len(key) > maxScanBytes {
		return Digest(key)
	}
	return cut(r.Text(key))
}

func (r *Redactor) contextValue(key, value string) string {
	lower := strings.ToLower(key)
	switch {
	case strings.HasPrefix(lower, contextPrefix) && strings.Contains(lower, "token"), isSecretName(lower):
		return Mask
	case lower == "nixexpr", len(value) > maxScanBytes:
		return Digest(value)
	}
	return cut(r.Text(value))
}

// isSecretName tells whether a key, in lower case, says that its value is secret.
func isSecretName(key string) bool {
	for _, word := range []string{"token", "password", "passwd", "secret", "credential", "apikey", "api-key", "api_key", "privatekey"} {
		if strings.Contains(key, word) {
			return true
		}
	}
	return false
}

// Digest names a text without showing it: its size and the first 12 digits of
// its SHA-256, enough to tell whether two log lines speak of the same text.
func Digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return fmt.Sprintf("(%d bytes, sha256 %s)", len(text), hex.EncodeToString(sum[:6]))
}

// cut bounds a value to maxValueBytes, at a character's border.
func cut(s string) string {
	if len(s) <= maxValueBytes {
		return s
	}
	end := maxValueBytes
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return fmt.Sprintf("%s… (%d bytes)", s[:end], len(s))
}
