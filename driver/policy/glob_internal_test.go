package policy

import (
	"regexp"
	"strings"
	"testing"
)

// FuzzGlob compares glob with a regular expression that says the same.
func FuzzGlob(f *testing.F) {
	f.Add("a*b*c", "axxbxxc")
	f.Add("*a/b*c", "xa/ba/bc")
	f.Add("*", "")
	f.Add("**", "a:b")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		form, err := regexp.Compile(`(?s)\A` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `[^/:@]*`) + `\z`)
		if err != nil || strings.ToValidUTF8(pattern+s, "") != pattern+s {
			return // regexp reads characters, glob bytes
		}
		if got, want := glob(pattern, s), form.MatchString(s); got != want {
			t.Errorf("glob(%q, %q) = %v, want %v", pattern, s, got, want)
		}
	})
}

// FuzzFlakePattern looks for a reference that a confined pattern allows although
// it does not begin as the pattern does.
func FuzzFlakePattern(f *testing.F) {
	f.Add("github:our-org/app?ref=main#x")
	f.Add("github:our-org/../evil/x")
	f.Add("git+https://git.our.org@evil/x")
	f.Fuzz(func(t *testing.T, ref string) {
		for pattern, prefix := range map[string]string{
			"github:our-org/*":           "github:our-org/",
			"git+https://git.our.org/**": "git+https://git.our.org/",
		} {
			p, problem := parsePattern(pattern)
			if problem != "" {
				t.Fatal(problem)
			}
			if p.problem(ref) != "" {
				continue
			}
			place, _, _ := strings.Cut(ref, "#")
			place, query, _ := strings.Cut(place, "?")
			if !strings.HasPrefix(place, prefix) || strings.ContainsAny(place, "%\\ \n") {
				t.Errorf("the pattern %q allows %q", pattern, ref)
			}
			if strings.Contains(place, "/../") || strings.HasSuffix(place, "/..") || strings.Contains(query, "host=") {
				t.Errorf("the pattern %q allows %q", pattern, ref)
			}
		}
	})
}
