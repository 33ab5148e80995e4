package nixeval_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixeval"
)

// programs makes a folder with programs named as Nix's, for tests that start none.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"nix", "nix-instantiate"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestNewGivesEveryProblem(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(*nixeval.Config)
		words  []string
	}{
		"no socket":               {func(c *nixeval.Config) { c.Socket = "" }, []string{"daemon's socket"}},
		"two problems":            {func(c *nixeval.Config) { c.Socket, c.StoreRoot = "x", "/a/../b" }, []string{"daemon's socket", "store root"}},
		"a socket with a query":   {func(c *nixeval.Config) { c.Socket = "/s?root=/" }, []string{"daemon's socket"}},
		"a relative flake folder": {func(c *nixeval.Config) { c.FlakeDirs = []string{"x"} }, []string{"folder"}},
		"too little memory":       {func(c *nixeval.Config) { c.MemoryBytes = 1 << 20 }, []string{"memory"}},
		"a negative timeout":      {func(c *nixeval.Config) { c.Timeout = -1 }, []string{"negative"}},
		"a setting that gives power": {
			func(c *nixeval.Config) { c.Settings = map[string]string{"restrict-eval": "false"} }, []string{"cannot be changed"},
		},
		"the same with extra-": {
			func(c *nixeval.Config) { c.Settings = map[string]string{"extra-allowed-uris": "http:"} }, []string{"cannot be changed"},
		},
		"a setting of two lines":         {func(c *nixeval.Config) { c.Settings = map[string]string{"cores": "1\nrestrict-eval = false"} }, []string{"malformed"}},
		"no programs":                    {func(c *nixeval.Config) { c.BinDir = "/none" }, []string{"finding Nix"}},
		"a package set that is no flake": {func(c *nixeval.Config) { c.PackageSet = "git+file:///x" }, []string{"package set"}},
		"a package set with attribute":   {func(c *nixeval.Config) { c.PackageSet = "nixpkgs#x" }, []string{"names an attribute"}},
	}
	bin := programs(t)
	for name, test := range tests {
		cfg := nixeval.Config{Socket: "/run/s", BinDir: bin}
		test.change(&cfg)
		_, err := nixeval.New(cfg)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, words := range test.words {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("%s: %q is not in %v", name, words, err)
			}
		}
	}
}

func TestFingerprintsFollowWhatTheyStandFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	set := filepath.Join(dir, "set")
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("v1/default.nix", "1")
	write("v2/default.nix", "2")
	if err := os.Symlink("v1", set); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_000_000, 0)
	e, err := nixeval.New(nixeval.Config{
		Socket: "/run/s", BinDir: programs(t), PackageSet: set, Clock: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := func(src nixstore.Source) string { return e.Fingerprint(src) }
	pkgs := nixstore.Source{Kind: nixstore.SourcePackages, Packages: []string{"a"}}
	first := fingerprint(pkgs)
	if again := fingerprint(pkgs); again != first {
		t.Errorf("nothing changed, but %q became %q", first, again)
	}
	write("v1/default.nix", "1 + 1")
	second := fingerprint(pkgs)
	if second == first {
		t.Error("the file changed, the fingerprint did not")
	}
	if err := os.Remove(set); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("v2", set); err != nil {
		t.Fatal(err)
	}
	if fingerprint(pkgs) == second {
		t.Error("the link changed, the fingerprint did not")
	}
	floating := nixstore.Source{Kind: nixstore.SourceFlake, Flake: "github:a/b"}
	locked := nixstore.Source{Kind: nixstore.SourceFlake, Flake: "github:a/b/0123456789abcdef0123456789abcdef01234567"}
	before, fixed := fingerprint(floating), fingerprint(locked)
	now = now.Add(2 * time.Hour)
	if fingerprint(floating) == before {
		t.Error("two hours later a branch has the same fingerprint")
	}
	if fingerprint(locked) != fixed {
		t.Error("a commit has another fingerprint later")
	}
}

func ExampleEvaluator_Fingerprint() {
	bin, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(bin)
	for _, name := range []string{"nix", "nix-instantiate"} { // nothing here starts them
		if err := os.WriteFile(filepath.Join(bin, name), nil, 0o755); err != nil {
			fmt.Println(err)
			return
		}
	}
	e, err := nixeval.New(nixeval.Config{
		Socket: "/nix/var/nix/daemon-socket/socket", BinDir: bin,
		PackageSet: "github:NixOS/nixpkgs/0123456789abcdef0123456789abcdef01234567",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(e.Fingerprint(nixstore.Source{Kind: nixstore.SourcePackages, Packages: []string{"redis"}}))
	// Output: set locked
}
