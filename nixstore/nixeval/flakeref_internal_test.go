package nixeval

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/nixstore"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

func TestFlakeReferences(t *testing.T) {
	t.Parallel()
	tests := map[string]flakeRef{
		"github:NixOS/nixpkgs#hello":              {ref: "github:NixOS/nixpkgs", attr: "hello"},
		"github:NixOS/nixpkgs/nixos-24.05":        {ref: "github:NixOS/nixpkgs/nixos-24.05"},
		"github:NixOS/nixpkgs/" + commit + "#a.b": {ref: "github:NixOS/nixpkgs/" + commit, attr: "a.b", locked: true},
		"github:o/r?rev=" + commit:                {ref: "github:o/r?rev=" + commit, locked: true},
		"github:o/r?dir=x/" + commit:              {ref: "github:o/r?dir=x/" + commit},
		"git+https://h/x.git?ref=main#p":          {ref: "git+https://h/x.git?ref=main", attr: "p"},
		"https://h/" + commit:                     {ref: "https://h/" + commit},
		"https://h/x.tar.gz?narHash=sha256-x":     {ref: "https://h/x.tar.gz?narHash=sha256-x", locked: true},
		"nixpkgs#hello":                           {ref: "nixpkgs", attr: "hello"},
		"nixpkgs/nixos-24.05#hello":               {ref: "nixpkgs/nixos-24.05", attr: "hello"},
		"flake:nixpkgs":                           {ref: "flake:nixpkgs"},
		"path:/srv/a#b":                           {ref: "path:/srv/a", attr: "b", dir: "/srv/a"},
		"/srv/a":                                  {ref: "/srv/a", dir: "/srv/a"},
		"path:/srv/a?narHash=sha256-x":            {ref: "path:/srv/a?narHash=sha256-x", dir: "/srv/a", query: "narHash=sha256-x", locked: true},
	}
	for text, want := range tests {
		got, err := parseFlakeRef(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(flakeRef{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

func TestMalformedFlakeReferences(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "#hello", "-x", "--option", "a b", "a\nb", "a\x00", "\x7f", "ä", strings.Repeat("a", 4097),
		".", "./x", "../x", "~/x", "path:x", "path:./x", "path:", "/", "//srv", "/srv/../etc", "/srv/", "path:///etc", "/srv/%2e%2e/etc", "path:/srv?dir=..",
		"path:/srv?x=%zz", "file:///etc/passwd", "git+file:///srv/x", "git+ssh://git@h/x", "ssh://h/x", "hg+https://h/x", "tarball+file:///x",
		"https:///x", "https://", "https:x", "git+https://", "github:", "github:-x/y", "https://user:pass@h/x", "git+https://token@h/x",
		"nixpkgs#a b", "nixpkgs#a^out", "nixpkgs#$(x)", "nixpkgs#a;b", "nixpkgs/../x", "nix.pkgs", "9nix", "ext::sh -c x", "git+ext::sh",
		"git+https://h:x/y", "http://[::1",
	} {
		got, err := parseFlakeRef(text)
		if !errors.Is(err, nixstore.ErrInvalid) {
			t.Errorf("%q: got %+v, %v, want %v", text, got, err, nixstore.ErrInvalid)
		}
		if err != nil && (strings.Contains(err.Error(), "pass") && strings.Contains(text, "pass@") && strings.Contains(err.Error(), "user:pass") || strings.Contains(err.Error(), "token")) {
			t.Errorf("%q: the message holds the credentials: %v", text, err)
		}
	}
}

func FuzzFlakeReferences(f *testing.F) {
	for _, seed := range []string{
		"github:NixOS/nixpkgs#hello", "path:/srv/a#b", "/srv/a?x=y", "nixpkgs", "git+https://h/x?rev=" + commit, "-", "https://u:p@h/x", "path:/a/../b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseFlakeRef(text)
		if err != nil {
			if !errors.Is(err, nixstore.ErrInvalid) {
				t.Errorf("%q: %v is not %v", text, err, nixstore.ErrInvalid)
			}
			return
		}
		arg := got.inJail("/flake")
		if arg == "" || arg[0] == '-' || strings.ContainsAny(arg, " \x00\n") {
			t.Errorf("%q gives the argument %q", text, arg)
		}
		if got.dir != "" && (!filepath.IsAbs(got.dir) || filepath.Clean(got.dir) != got.dir || !strings.HasPrefix(arg, "path:/flake")) {
			t.Errorf("%q: folder %q, argument %q", text, got.dir, arg)
		}
		if got.dir == "" && (strings.HasPrefix(arg, "path:") || strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, ".") || strings.HasPrefix(arg, "file:")) {
			t.Errorf("%q is a path that was not noticed", text)
		}
	})
}
