package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/closured/closured/driver/policy"
	"github.com/closured/closured/nixstore"
)

// allows tells whether a policy with one pattern allows a reference.
func allows(t *testing.T, pattern, ref string) bool {
	t.Helper()
	p, err := policy.Parse(fmt.Appendf(nil, "rules:\n- {namespaces: ['*'], sources: [flakeRef], flakes: [%q]}\n", pattern))
	if err != nil {
		t.Fatalf("the pattern %q: %v", pattern, err)
	}
	_, err = p.Check("web", nixstore.Source{Kind: nixstore.SourceFlake, Flake: ref})
	return err == nil
}

const commit = "0123456789abcdef0123456789abcdef01234567"

func TestFlakePatternsAllow(t *testing.T) {
	t.Parallel()
	tests := map[string][]string{
		"github:our-org/*": {
			"github:our-org/app", "github:our-org/app#default", "github:our-org/app#packages.x86_64-linux.default",
			"github:our-org/app/main", "github:our-org/app/feature/x", "github:our-org/app/v1.2.3#x", "github:our-org/app?ref=main",
			"github:our-org/app?dir=sub/flake&ref=refs/heads/main#x", "github:our-org/.github",
			"github:our-org/app?narHash=sha256-AAAA%2BBBB%3D#x", "github:our-org/app?#x", "github:our-org/app?ref=release-24.05",
		},
		"github:our-org/app":           {"github:our-org/app", "github:our-org/app/main"},
		"github:our-org/app/main":      {"github:our-org/app/main#x", "github:our-org/app?ref=main"},
		"github:our-org/app/" + commit: {"github:our-org/app/" + commit, "github:our-org/app?rev=" + commit},
		"github:our-org/**": {
			"github:our-org/app", "github:our-org/app/" + commit, "github:our-org/app?rev=" + commit, "github:our-org/app/pull/1/head",
		},
		"github:our-org/app/**":          {"github:our-org/app", "github:our-org/app/" + commit, "github:our-org/app?ref=pull/1/head"},
		"github:*/**":                    {"github:any/thing/" + commit},
		"flake:nixpkgs":                  {"nixpkgs#hello", "flake:nixpkgs#hello", "nixpkgs/nixos-24.05#hello"},
		"git+https://git.our.org/**":     {"git+https://git.our.org/a/b/c#x", "git+https://git.our.org/a?rev=" + commit},
		"git+https://git.our.org/*":      {"git+https://git.our.org/a.git?ref=main"},
		"git+https://*.our.org/**":       {"git+https://git.our.org/a", "git+https://a.b.our.org/c/d"},
		"git+https://git.our.org:8443/*": {"git+https://git.our.org:8443/a"},
		"git+ssh://git@github.com/our-org/*": {
			"git+ssh://git@github.com/our-org/app.git",
		},
		"git+file:///srv/flakes/**":   {"git+file:///srv/flakes/a/b"},
		"path:/srv/flakes/*":          {"path:/srv/flakes/app#x"},
		"https://our.org/dl/*.tar.gz": {"https://our.org/dl/app-1.0.tar.gz#x"},
		"*":                           {"github:x/y", "git+https://u:p@h/../x?host=z&submodules=1", "nixpkgs", "github:o/%2e%2e/x"},
		"sourcehut:~our-org/*":        {"sourcehut:~our-org/app"},
	}
	for pattern, refs := range tests {
		for _, ref := range refs {
			if !allows(t, pattern, ref) {
				t.Errorf("the pattern %q refuses %q", pattern, ref)
			}
		}
	}
}

func TestFlakePatternsRefuse(t *testing.T) {
	t.Parallel()
	tests := map[string][]string{
		"github:our-org/*": {
			"", "#x", "github:our-org?ref=app", "github:our-org?dir=app", "github:", "github:our-org", "github:our-org/", "github:our-org//app", "github:evil/app", "github:our-org-evil/app",
			"gitlab:our-org/app", "GITHUB:our-org/app", "Github:our-org/app", "github:Our-Org/app",
			// Another place by another spelling.
			"github:our-org/../evil/app", "github:our-org/./app", "github:our-org/..", "github:our-org/app/..", "github:our-org/%2e%2e/app",
			"github:our-org%2fapp", "github:our-org/app%2f..%2f..%2fevil", "github:our-org\\..\\evil/app", "github:our-org/app/../../evil/app",
			"github://our-org/app", "github:/our-org/app", " github:our-org/app", "github:our-org/app ", "github:our-org/app\n",
			"github:our-org/\u2024\u2024/x", "github:our-org/a;host=evil",
			// Another place by a parameter.
			"github:our-org/app?host=evil.example", "github:our-org/app?url=https://evil", "github:our-org/app?owner=evil",
			"github:our-org/app?repo=evil", "github:our-org/app?submodules=1", "github:our-org/app?dir=x&host=evil",
			"github:our-org/app?dir=../../evil", "github:our-org/app?dir=/etc", "github:our-org/app?dir=%2e%2e", "github:our-org/app?dir=",
			"github:our-org/app?dir=a&dir=b", "github:our-org/app?a", "github:our-org/app?&", "github:our-org/app?ref=a?host=evil",
			"github:our-org/app?HOST=evil", "github:our-org/app?ref=main;host=evil",
			"github:our-org/app?narHash=", "github:our-org/app?narHash=x y",
			// Somebody else's commits, which GitHub serves under our name.
			"github:our-org/app/" + commit, "github:our-org/app?rev=" + commit, "github:our-org/app?ref=" + commit, "github:our-org/app/" + commit[:7],
			"github:our-org/app/DEADBEEF", "github:our-org/app/pull/1/head", "github:our-org/app?ref=refs/pull/1/head", "github:our-org/app/refs/pull/1/merge",
			"github:our-org/app?ref=main-0-g" + commit, "github:our-org/app/v1-1-g" + commit[:7], "github:our-org/app/evil:main", "github:our-org/app?ref=evil:main",
			"github:our-org/app?ref=main&rev=" + commit, "github:our-org/app/main@1", "github:our-org/app?ref=main%00", "github:our-org/app?ref=-x/../y",
		},
		"github:our-org/app/main":      {"github:our-org/app/other", "github:our-org/app", "github:our-org/app/main/x", "github:our-org/app?ref=main&rev=" + commit},
		"github:our-org/app/" + commit: {"github:our-org/app/" + strings.Replace(commit, "0", "1", 1), "github:our-org/app/" + commit[:8]},
		"github:our-org/**":            {"github:our-org-evil/app", "github:our-org", "github:our-org/../evil/x", "github:our-org/app?host=evil", "github:evil/our-org/app"},
		// The node's disk is not "every reference": it needs a pattern of its own.
		"*":             {"path:/etc", "PATH:/etc", "/etc", "./x", "~/x", "git+file:///srv/x", "file:///x.tar.gz"},
		"flake:nixpkgs": {"flake:nixpkgs-evil", "nixpkgsevil#x", "/nixpkgs", "nixpkgs/nixos-24.05/" + commit, "path:nixpkgs", "./nixpkgs"},
		"git+https://git.our.org/**": {
			"git+https://git.our.org.evil.example/a", "git+https://git.our.org@evil.example/a", "git+https://git.our.org:x@evil.example/a",
			"git+https://u@git.our.org/a", "git+http://git.our.org/a", "git+https://git.our.org", "git+https://git.our.org/", "git+https://git.our.org/a/../b",
			"git+https://git.our.org:8443/a", "git+https:/git.our.org/a", "git+https:///git.our.org/a", "git+https://evil/git+https://git.our.org/a",
		},
		"git+https://*.our.org/**": {
			"git+https://our.org/a", "git+https://evil.example/.our.org/a", "git+https://evil.example:1@x.our.org/a", "git+https://evil.example#x.our.org/a",
			"git+https://evil.example?x.our.org/a", "git+https://x.our.org.evil.example/a", "git+https://xour.org/a",
		},
		"git+https://git.our.org/*":   {"git+https://git.our.org/a/b", "git+https://git.our.org/a?rev=" + commit, "git+https://git.our.org/a?allRefs=1"},
		"path:/srv/flakes/*":          {"path:/srv/flakes/../../etc", "path:/srv/flakes", "path:/srv/flakes/a/b", "path:srv/flakes/a", "git+file:///srv/flakes/a"},
		"https://our.org/dl/*.tar.gz": {"https://our.org/dl/a/b.tar.gz", "https://evil.example/https://our.org/dl/x.tar.gz", "https://our.org/dl/a.zip"},
	}
	for pattern, refs := range tests {
		for _, ref := range refs {
			if allows(t, pattern, ref) {
				t.Errorf("the pattern %q allows %q", pattern, ref)
			}
		}
	}
}

func TestFlakeRefusalSaysWhy(t *testing.T) {
	t.Parallel()
	p := parse(t, design)
	for ref, want := range map[string]string{
		"github:evil/app":              "no pattern matches",
		"github:our-org/app?host=evil": "parameters",
		"github:our-org/../evil/app":   "written plainly",
		"github:our-org/app/" + commit: "fork",
	} {
		_, err := p.Check("dev-a", nixstore.Source{Kind: nixstore.SourceFlake, Flake: ref})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "operator") {
			t.Errorf("%q is refused with %v, want %q", ref, err, want)
		}
	}
}

func TestFlakePatternsThatAreMalformed(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{
		"", "**", "*/*", "nixpkgs", "*:x/y", "git*:x/y", "GitHub:x/y", "github:", "github:x", "github:*", "github:x/../y", "github:x//y",
		"github:**", "github:x/**/y", "github:x**", "github:x/y?ref=*", "github:x/y#z", "https://*our.org/x", "https://a.*.org/x", "https://*/x",
		"https://our.org*/x", "https://u:p@our.org/x", "https://our.org", "github:x/y z", "github:x/[a-z]", "github:x/%2e", "https://our.org:*/x",
	} {
		_, err := policy.Parse(fmt.Appendf(nil, "rules:\n- {namespaces: ['*'], sources: [flakeRef], flakes: [%q]}\n", pattern))
		if err == nil {
			t.Errorf("the pattern %q is accepted", pattern)
		}
	}
}
