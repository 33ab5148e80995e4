package nixcli_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixcli"
)

func TestOpenRefusesAConfigThatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*nixcli.Config)
		want   string
	}{
		"a relative state directory":        {func(c *nixcli.Config) { c.StateDir = "state" }, "absolute"},
		"a state directory with a question": {func(c *nixcli.Config) { c.StateDir = "/a?b" }, "absolute"},
		"a socket path that is too long":    {func(c *nixcli.Config) { c.StateDir = "/" + strings.Repeat("d", 100) }, "unix sockets end at 107"},
		"a substituter with white space":    {func(c *nixcli.Config) { c.Substituters = []string{"http://a http://b"} }, "white space"},
		"a substituter with a newline":      {func(c *nixcli.Config) { c.Substituters = []string{"http://a\nrequire-sigs = false"} }, "white space"},
		"a substituter that is its own key": {func(c *nixcli.Config) { c.Substituters = []string{"http://a?trusted=true"} }, "switches signatures off"},
		"a key without a name":              {func(c *nixcli.Config) { c.TrustedPublicKeys = []string{"AAAA"} }, "not a public key"},
		"an option that unsigns":            {option("require-sigs", "false"), "cannot be changed"},
		"an option that unsandboxes":        {option("sandbox", "false"), "cannot be changed"},
		"the option's older name":           {option("build-use-sandbox", "false"), "cannot be changed"},
		"an option that trusts more":        {option("extra-trusted-users", "nobody"), "cannot be changed"},
		"an option that lets everybody in":  {option("allowed-users", "x"), "cannot be changed"},
		"an option that lets flakes choose": {option("accept-flake-config", "true"), "cannot be changed"},
		"an option with a newline":          {option("timeout", "1\nsandbox = false"), "newline"},
		"an option that is no name":         {option("!include", "/x"), "not the name"},
		"an option that begins with a dash": {option("-x", "1"), "not the name"},
		"substituters that need no key":     {option("extra-substituters", "http://a?priority=1&trusted=1"), "switches signatures off"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := nixcli.Config{StateDir: "/nonexistent/state"}
			c.change(&cfg)
			_, err := nixcli.Open(t.Context(), cfg)
			if !errors.Is(err, nixstore.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Open gave %v, want ErrInvalid with %q", err, c.want)
			}
		})
	}
}

func option(name, value string) func(*nixcli.Config) {
	return func(c *nixcli.Config) { c.Options = map[string]string{name: value} }
}

func TestOpenTellsEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	_, err := nixcli.Open(t.Context(), nixcli.Config{StateDir: "rel", TrustedPublicKeys: []string{"bad"}, Options: map[string]string{"sandbox": "x"}})
	for _, want := range []string{"state directory", "public key", "sandbox"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want it to tell of %s too", err, want)
		}
	}
}

func TestParseOption(t *testing.T) {
	t.Parallel()
	name, value, err := nixcli.ParseOption("access-tokens = github.com=abc")
	if name != "access-tokens" || value != "github.com=abc" || err != nil {
		t.Errorf("ParseOption gave %q, %q, %v", name, value, err)
	}
	for _, bad := range []string{"", "timeout", "=1", "sandbox=false", "Timeout=1"} {
		if _, _, err := nixcli.ParseOption(bad); !errors.Is(err, nixstore.ErrInvalid) {
			t.Errorf("ParseOption(%q) gave %v, want ErrInvalid", bad, err)
		}
	}
}

func FuzzParseOption(f *testing.F) {
	for _, s := range []string{"a=b", "timeout = 1", "sandbox=0", "x=\n", "extra-sandbox=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, value, err := nixcli.ParseOption(s)
		if err != nil {
			return
		}
		fixed := strings.TrimPrefix(name, "extra-") == "sandbox"
		if fixed || strings.ContainsAny(name+value, "\n\r\x00") || strings.ContainsAny(name, " !=#") {
			t.Errorf("ParseOption(%q) took %q = %q", s, name, value)
		}
	})
}

// fakePrograms makes a folder of programs that exist and are never run.
func fakePrograms(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"nix-store", "nix-instantiate", "nix-daemon"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/false\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestNixConfHoldsWhatMustHoldLast(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store, err := nixcli.Open(t.Context(), nixcli.Config{
		StateDir: dir, BinDir: fakePrograms(t), OperatorConf: "/operator.conf",
		Substituters: []string{"https://user:secret@cache.example"}, TrustedPublicKeys: []string{"k:AAAA"},
		Options: map[string]string{"timeout": "5"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	file := filepath.Join(dir, "etc", "nix", "nix.conf")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	order := []string{
		"stalled-download-timeout = 30", "timeout = 7200", "!include /operator.conf", "min-free = 0", "substituters = https://user:secret@cache.example",
		"trusted-public-keys = k:AAAA", "timeout = 5", "require-sigs = true", "sandbox = true", "sandbox-fallback = false", "allowed-users = *", "trusted-users = root",
	}
	rest := string(data)
	for _, line := range order {
		_, after, found := strings.Cut(rest, line+"\n")
		if !found {
			t.Fatalf("nix.conf lacks %q, or has it too early:\n%s", line, data)
		}
		rest = after
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the mode of nix.conf is %v, want 0600: it may hold tokens", info.Mode())
	}
	client, err := os.ReadFile(filepath.Join(store.Client().ConfDir, "nix.conf"))
	if err != nil || strings.Contains(string(client), "secret") {
		t.Errorf("the clients' nix.conf holds a secret (%v):\n%s", err, client)
	}
}

func TestRemoteNamesTheRootOfAChrootStore(t *testing.T) {
	t.Parallel()
	for root, want := range map[string]string{"/": "unix:///s", "/var/x": "unix:///s?root=/var/x"} {
		if got := (nixcli.Client{Socket: "/s", StoreRoot: root}).Remote(); got != want {
			t.Errorf("with the root %s Remote is %s, want %s", root, got, want)
		}
	}
}

func TestOpenWithoutNixSaysSo(t *testing.T) {
	t.Parallel()
	_, err := nixcli.Open(t.Context(), nixcli.Config{StateDir: t.TempDir(), BinDir: t.TempDir()})
	if !errors.Is(err, nixstore.ErrUnavailable) || !strings.Contains(err.Error(), "install Nix") {
		t.Errorf("Open gave %v", err)
	}
}
