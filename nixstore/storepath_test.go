package nixstore_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/closured/closured/nixstore"
)

const goodHash = "0123456789abcdfghijklmnpqrsvwxyz"

func TestParseStorePath(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, path string
		problem    string // part of the text; empty: it parses
	}{
		{"an ordinary path", "/nix/store/" + goodHash + "-hello-2.12.1", ""},
		{"every character of names", "/nix/store/" + goodHash + "-AZaz09+-._?=", ""},
		{"the shortest name", "/nix/store/" + goodHash + "-x", ""},
		{"the longest name", "/nix/store/" + goodHash + "-" + strings.Repeat("n", 211), ""},
		{"a name with a dot in front", "/nix/store/" + goodHash + "-.hidden", ""},
		{"a name of three dots", "/nix/store/" + goodHash + "-...", ""},
		{"a derivation", "/nix/store/" + goodHash + "-hello.drv", ""},

		{"nothing", "", "does not begin with"},
		{"the store itself", "/nix/store", "does not begin with"},
		{"the store with a slash", "/nix/store/", "shorter"},
		{"a relative path", "nix/store/" + goodHash + "-x", "does not begin with"},
		{"a base name", goodHash + "-x", "does not begin with"},
		{"the physical path of a chroot store", "/var/lib/closured/nix/store/" + goodHash + "-x", "does not begin with"},
		{"a space in front", " /nix/store/" + goodHash + "-x", "does not begin with"},
		{"a double slash", "/nix/store//" + goodHash + "-x", "hash"},
		{"something below it", "/nix/store/" + goodHash + "-x/bin/sh", `'/'`},
		{"a slash at the end", "/nix/store/" + goodHash + "-x/", `'/'`},
		{"a way out after the name", "/nix/store/" + goodHash + "-a/../" + goodHash + "-b", `'/'`},
		{"a way out instead of the hash", "/nix/store/../../etc/shadow-0000000000000000000000000", "hash"},
		{"a name of one dot", "/nix/store/" + goodHash + "-.", "dot"},
		{"a name of two dots", "/nix/store/" + goodHash + "-..", "dot"},
		{"one dot before a dash", "/nix/store/" + goodHash + "-.-x", "dot"},
		{"two dots before a dash", "/nix/store/" + goodHash + "-..-x", "dot"},
		{"no name", "/nix/store/" + goodHash + "-", "shorter"},
		{"no dash", "/nix/store/" + goodHash + "xx", "dash"},
		{"a short hash", "/nix/store/" + goodHash[1:] + "-xx", "hash"},
		{"a long hash", "/nix/store/" + goodHash + "0-x", "dash"},
		{"a hash with an e", "/nix/store/e" + goodHash[1:] + "-x", "hash"},
		{"a hash in capitals", "/nix/store/" + strings.ToUpper(goodHash) + "-x", "hash"},
		{"a name that is too long", "/nix/store/" + goodHash + "-" + strings.Repeat("n", 212), "longer"},
		{"a NUL", "/nix/store/" + goodHash + "-x\x00", `'\x00'`},
		{"a line break", "/nix/store/" + goodHash + "-x\n", `'\n'`},
		{"a space", "/nix/store/" + goodHash + "-a b", `' '`},
		{"an output of a derivation", "/nix/store/" + goodHash + "-x.drv!out", `'!'`},
		{"a letter that is not ASCII", "/nix/store/" + goodHash + "-ä", "character"},
		{"a percent sign", "/nix/store/" + goodHash + "-%2e%2e", `'%'`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := nixstore.ParseStorePath(c.path)
			if c.problem == "" {
				checkParsed(t, p, c.path, err)
				return
			}
			if !errors.Is(err, nixstore.ErrInvalid) || !p.IsZero() {
				t.Fatalf("parsed %q as %q, %v", c.path, p, err)
			}
			if !strings.Contains(err.Error(), c.problem) {
				t.Errorf("the text %q lacks %q", err, c.problem)
			}
		})
	}
}

// checkParsed is what holds for each path that is accepted.
func checkParsed(t *testing.T, p nixstore.StorePath, text string, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if p.IsZero() || p.String() != text || p.String() != nixstore.Dir+"/"+p.BaseName() || p.BaseName() != p.Hash()+"-"+p.Name() {
		t.Errorf("%q parsed as %q, %q, %q, %q", text, p, p.BaseName(), p.Hash(), p.Name())
	}
	// It stays directly below whatever folder it is joined to, without being cleaned.
	joined := "/state/nix/store/" + p.BaseName()
	if filepath.Clean(joined) != joined || filepath.Dir(joined) != "/state/nix/store" || !filepath.IsLocal(p.BaseName()) {
		t.Errorf("%q leaves its folder: %q", text, filepath.Clean(joined))
	}
	// Nix's own programs take arguments that begin with a dash as options.
	if strings.HasPrefix(p.BaseName(), "-") || strings.ContainsAny(p.BaseName(), "\x00\n /") {
		t.Errorf("%q is dangerous as an argument", text)
	}
}

func TestTheZeroStorePathIsNoPath(t *testing.T) {
	t.Parallel()
	var zero nixstore.StorePath
	if !zero.IsZero() || zero.String() != "" || zero.Hash() != "" || zero.Name() != "" || zero.IsDerivation() {
		t.Errorf("zero is %q, %q, %q", zero, zero.Hash(), zero.Name())
	}
}

func TestMustParseStorePathPanics(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	nixstore.MustParseStorePath("/etc/passwd")
}

func TestStorePathsInJSON(t *testing.T) {
	t.Parallel()
	want := nixstore.MustParseStorePath("/nix/store/" + goodHash + "-x.drv")
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got nixstore.StorePath
	if err := json.Unmarshal(data, &got); err != nil || got != want || !got.IsDerivation() {
		t.Errorf("%s came back as %q, %v", data, got, err)
	}
	if err := json.Unmarshal([]byte(`"/etc/passwd"`), &got); !errors.Is(err, nixstore.ErrInvalid) || got != want {
		t.Errorf("got %q, %v", got, err)
	}
}

func addPaths(f *testing.F) {
	f.Helper()
	for _, s := range []string{
		"/nix/store/" + goodHash + "-hello", "/nix/store/" + goodHash + "-a/../" + goodHash + "-b",
		"/nix/store/..", "/nix/store/" + goodHash + "-..", goodHash + "-x", goodHash + "-\x00", "", "-",
		"/nix/store/" + goodHash + "-" + strings.Repeat("n", 212),
	} {
		f.Add(s)
	}
}

func FuzzParseStorePath(f *testing.F) {
	addPaths(f)
	f.Fuzz(func(t *testing.T, s string) {
		p, err := nixstore.ParseStorePath(s)
		if err == nil {
			checkParsed(t, p, s, nil)
			return
		}
		checkRefused(t, p, err)
	})
}

func FuzzParseBaseName(f *testing.F) {
	addPaths(f)
	f.Fuzz(func(t *testing.T, s string) {
		p, err := nixstore.ParseBaseName(s)
		other, otherErr := nixstore.ParseStorePath(nixstore.Dir + "/" + s)
		if p != other || (err == nil) != (otherErr == nil) {
			t.Errorf("%q is %q, %v as a base name, and %q, %v as a path", s, p, err, other, otherErr)
		}
		if err == nil {
			checkParsed(t, p, nixstore.Dir+"/"+s, nil)
			return
		}
		checkRefused(t, p, err)
	})
}

// checkRefused wants an error that a hostile value cannot blow up or break.
func checkRefused(t *testing.T, p nixstore.StorePath, err error) {
	t.Helper()
	if !errors.Is(err, nixstore.ErrInvalid) || !p.IsZero() {
		t.Errorf("refused with %q and %v", p, err)
	}
	if text := err.Error(); len(text) > 700 || strings.ContainsAny(text, "\n\r\x00\x1b") {
		t.Errorf("the text has %d bytes: %q", len(text), text)
	}
}

func ExampleParseStorePath() {
	p, err := nixstore.ParseStorePath("/nix/store/0123456789abcdfghijklmnpqrsvwxyz-hello-2.12.1")
	fmt.Println(p.Name(), err)
	_, err = nixstore.ParseStorePath("/nix/store/0123456789abcdfghijklmnpqrsvwxyz-hello/bin")
	fmt.Println(errors.Is(err, nixstore.ErrInvalid))
	// Output:
	// hello-2.12.1 <nil>
	// true
}
