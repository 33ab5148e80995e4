package attributes

import (
	"fmt"
	"strings"
)

const (
	labelMax     = 63  // RFC 1123 label, as Kubernetes checks names of namespaces
	subdomainMax = 253 // RFC 1123 subdomain, as Kubernetes checks names of objects
)

// isLabel tells whether s is a DNS label: lower-case letters, digits and inner dashes.
func isLabel(s string) bool { return len(s) <= labelMax && isDashed(s) }

// isSubdomain tells whether s is a DNS subdomain: parts joined by dots. Kubernetes
// does not bound the single part here.
func isSubdomain(s string) bool {
	if len(s) > subdomainMax {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if !isDashed(part) {
			return false
		}
	}
	return true
}

func isDashed(s string) bool {
	if s == "" || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if !isLower(s[i]) && !isDigit(s[i]) && s[i] != '-' {
			return false
		}
	}
	return true
}

// packageProblem says why a word is no dotted attribute name, or "". The grammar
// is that of Nix identifiers (libexpr/lexer.l), and a leading digit besides, since
// the names of a package set may be strings.
func packageProblem(word string) string {
	if len(word) > maxPackageBytes {
		return fmt.Sprintf("it is longer than %d bytes", maxPackageBytes)
	}
	for part := range strings.SplitSeq(word, ".") {
		if part == "" {
			return "a part between its dots is empty"
		}
		if !isLetter(part[0]) && !isDigit(part[0]) && part[0] != '_' {
			return "a part begins with neither a letter, a digit nor _"
		}
		for i := range len(part) {
			if !isLetter(part[i]) && !isDigit(part[i]) && strings.IndexByte("_'-", part[i]) < 0 {
				return "it holds other characters than letters, digits, _, ' and -"
			}
		}
	}
	return ""
}

// flakeProblem says why ref is no flake reference, or "". It checks the form only:
// one spelling, no spaces, no relative path, nothing that looks like an option.
func flakeProblem(ref string) string {
	for i := range len(ref) {
		if ref[i] <= ' ' || ref[i] >= 0x7f || strings.IndexByte("\\`<>|{}", ref[i]) >= 0 {
			return "it holds a space or a character that is none of a URL"
		}
	}
	place, attribute, _ := strings.Cut(ref, "#")
	switch {
	case place == "":
		return "nothing stands before the #"
	case place[0] == '-' || strings.HasPrefix(attribute, "-"):
		return "a part begins with a dash"
	case strings.ContainsAny(attribute, "#?"):
		return "a # or ? stands in its attribute"
	case strings.Count(place, "?") > 1:
		return "it has two queries"
	case strings.ContainsAny(place, `"'`):
		return "a quote stands before the #"
	}
	return schemeProblem(place)
}

// schemeProblem wants a scheme, or a name of a flake registry. A path has no
// meaning here: which machine's would it be?
func schemeProblem(place string) string {
	place, _, _ = strings.Cut(place, "?")
	scheme, rest, found := strings.Cut(place, ":")
	if !found {
		if !isLetter(place[0]) {
			return "it is a path, or has no scheme"
		}
		scheme, _, _ = strings.Cut(place, "/")
		rest = scheme
	}
	if rest == "" {
		return "nothing stands after its scheme"
	}
	for i := range len(scheme) {
		if !isLetter(scheme[i]) && (i == 0 || !isDigit(scheme[i]) && strings.IndexByte("+-._", scheme[i]) < 0) {
			return "its scheme is malformed"
		}
	}
	if scheme == "" {
		return "its scheme is empty"
	}
	return ""
}

func isLower(c byte) bool  { return c >= 'a' && c <= 'z' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isLetter(c byte) bool { return isLower(c) || c >= 'A' && c <= 'Z' }
