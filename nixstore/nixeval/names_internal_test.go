package nixeval

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/nixstore"
)

func TestPackageNames(t *testing.T) {
	t.Parallel()
	good := map[string][]string{
		"redis":                  {"redis"},
		"python3Packages.numpy":  {"python3Packages", "numpy"},
		"_7zz":                   {"_7zz"},
		"3proxy":                 {"3proxy"},
		"gtk+":                   {"gtk+"},
		"a'":                     {"a'"},
		strings.Repeat("a", 128): {strings.Repeat("a", 128)},
	}
	for name, want := range good {
		got, err := parseNames([]string{name})
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if diff := cmp.Diff([][]string{want}, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", name, diff)
		}
	}
	bad := []string{
		"", ".", "a.", ".a", "a..b", "-a", "--option", "a.-b", "a b", "a\x00", "a\n", "a/b", "../a", "${a}", `a"`, "a;b",
		"ä", "a#b", "+a", "'a", strings.Repeat("a", 129), "<nixpkgs>",
	}
	for _, name := range bad {
		if got, err := parseNames([]string{name}); !errors.Is(err, nixstore.ErrInvalid) {
			t.Errorf("%q: got %v, %v, want %v", name, got, err, nixstore.ErrInvalid)
		}
	}
	if _, err := parseNames(nil); !errors.Is(err, nixstore.ErrInvalid) {
		t.Errorf("no names: %v", err)
	}
	if _, err := parseNames(make([]string, 65)); !errors.Is(err, nixstore.ErrInvalid) {
		t.Errorf("65 names: %v", err)
	}
}

func FuzzPackageNames(f *testing.F) {
	for _, seed := range []string{"redis", "a.b", "-a", "a..b", "\x00", "a'b+c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		parsed, err := parseNames([]string{name})
		if err != nil {
			if !errors.Is(err, nixstore.ErrInvalid) {
				t.Errorf("%q: %v is not %v", name, err, nixstore.ErrInvalid)
			}
			return
		}
		if got := strings.Join(parsed[0], "."); got != name {
			t.Errorf("%q became %q", name, got)
		}
		if strings.ContainsAny(name, " \t\n\x00\"$\\/#;<>") || name[0] == '-' || len(name) > nameMax {
			t.Errorf("%q was accepted", name)
		}
	})
}

func TestNearestName(t *testing.T) {
	t.Parallel()
	names := []string{"redis", "curl", "jq", "hello", "hallo", "python3"}
	for want, found := range map[string]string{
		"reddis": "redis", "Redis": "redis", "crul": "curl", "hillo": "hallo", "python": "python3", "postgresql": "",
	} {
		if got := nearest(want, names); got != found {
			t.Errorf("nearest(%q) is %q, want %q", want, got, found)
		}
	}
}
