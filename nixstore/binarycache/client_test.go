package binarycache_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/binarycache"
)

func TestSubstitutersOfAddresses(t *testing.T) {
	t.Parallel()
	got, err := binarycache.Substituters([]string{"10.0.0.1:5959", "[fd00::1]:80", "node-a.example:1"})
	want := []string{"http://10.0.0.1:5959?priority=20", "http://[fd00::1]:80?priority=20", "http://node-a.example:1?priority=20"}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, bad := range []string{
		"", "host", "host:", "host:0", "host:70000", ":80", "user@host:80", "a b:80", "host?trusted=1:80", "host/x:80",
		"[fe80::1%eth0]:80", "[host]:80x", "-x:80", ".:80", "a\nb:80",
	} {
		if _, err := binarycache.Substituters([]string{"10.0.0.1:5959", bad}); !errors.Is(err, nixstore.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestNetrcKnowsEachHostOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	operator := filepath.Join(dir, "operator")
	netrc := binarycache.Netrc{Path: filepath.Join(dir, "netrc"), Operators: []string{operator, filepath.Join(dir, "missing")}, Key: mustKey(t, "install-1")}
	for _, theirs := range []string{"", "machine cache.example login me password mine"} {
		if theirs != "" {
			if err := os.WriteFile(operator, []byte(theirs), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := netrc.Write([]string{"10.0.0.2:1", "10.0.0.1:1", "10.0.0.2:2", "[fd00::1]:1"}); err != nil {
			t.Fatal(err)
		}
		password := passwordOf(t, netrc.Key)
		want := theirs
		for _, host := range []string{"10.0.0.1", "10.0.0.2", "fd00::1"} {
			want += " machine " + host + " login closured password " + password
		}
		got, err := os.ReadFile(netrc.Path)
		if diff := cmp.Diff(strings.Fields(want), strings.Fields(string(got))); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
	}
	info, err := os.Stat(netrc.Path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may read it: %v, %v", info, err)
	}
	if err := netrc.Write([]string{"[fd00::1]:1", "10.0.0.2:1", "10.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	if again, err := os.Stat(netrc.Path); err != nil || !os.SameFile(info, again) {
		t.Errorf("an equal file was written again: %v", err)
	}
	if err := netrc.Write([]string{"a b:1"}); !errors.Is(err, nixstore.ErrInvalid) {
		t.Errorf("a malformed address: %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("something was left: %v", entries)
	}
	netrc.Key = binarycache.SecretKey{}
	if err := netrc.Write([]string{"10.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(netrc.Path); strings.Contains(string(got), "10.0.0.1") {
		t.Errorf("without a key: %q", got)
	}
}

// One word in netrc, nix.conf and a URL, or nothing.
func FuzzSubstituters(f *testing.F) {
	for _, s := range []string{"10.0.0.1:80", "[::1]:80", "a:1", "a\nb:1", "a b:1", "a?b:1", "[::ffff:1.2.3.4]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := binarycache.Substituters([]string{s})
		if err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "netrc")
		if err := (binarycache.Netrc{Path: path, Key: mustKey(t, "k")}).Write([]string{s}); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil || len(strings.Fields(string(text))) != 6 || len(strings.Fields(got[0])) != 1 || strings.ContainsAny(s, "/?#@%\\") {
			t.Errorf("%q gives %q and %q, %v", s, got, text, err)
		}
	})
}

func ExampleSubstituters() {
	from, err := binarycache.Substituters([]string{"10.244.1.7:5959"})
	fmt.Println(from, err)
	// Output: [http://10.244.1.7:5959?priority=20] <nil>
}
