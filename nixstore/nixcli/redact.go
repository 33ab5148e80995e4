package nixcli

import (
	"net/url"
	"regexp"
	"strings"
)

const (
	maxMessage = 600     // bytes of a message of Nix that we repeat
	maxRead    = 8 << 10 // bytes of a message of Nix that we look at: its cause may stand last
)

var (
	colour  = regexp.MustCompile(`\x1b\[[0-9;?]*[a-zA-Z]`)
	address = regexp.MustCompile(`[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'"<>]+`)
)

// redact takes credentials out of the URLs in a text: user and password, query
// and fragment. It also takes out terminal colours and control characters, so
// that a builder's words can forge no lines.
func redact(text string) string {
	text = colour.ReplaceAllString(text, "")
	text = strings.Map(func(r rune) rune {
		if r == '\t' || r == '\n' || r == '\r' {
			return ' '
		}
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, text)
	return address.ReplaceAllStringFunc(text, redactURL)
}

// redactURL keeps scheme, host and path of a URL.
func redactURL(s string) string {
	trimmed := strings.TrimRight(s, ".,;:)]}")
	tail := s[len(trimmed):]
	u, err := url.Parse(trimmed)
	if err != nil {
		scheme, _, _ := strings.Cut(s, "://")
		return scheme + "://(unreadable)" + tail
	}
	u.User, u.RawQuery, u.Fragment, u.ForceQuery = nil, "", "", false
	return u.String() + tail
}

// cut shortens a text to n bytes.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}
