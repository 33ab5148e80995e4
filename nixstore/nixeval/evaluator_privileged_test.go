//go:build privileged

package nixeval_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixeval"
)

func TestSourcesGiveTheirOutputsInOrder(t *testing.T) {
	t.Parallel()
	e := newNode(t).evaluator(t, nil)
	tests := map[string]struct {
		src  nixstore.Source
		want string
	}{
		"one package": {packages("hello"), "hello-1.0!out"},
		"several packages, in the order of the names": {packages("redis", "hello", "curl"), "redis-7.0!out hello-1.0!out curl-8.0!bin"},
		"a nested name":                             {packages("python3Packages.numpy"), "numpy-1.0!out"},
		"an output of a package":                    {packages("curl.dev"), "curl-8.0!dev"},
		"a name in another case, at each level":     {packages("Hello", "PYTHON3packages.pyyaml"), "hello-1.0!out pyyaml-6.0!out"},
		"a package that looks at its configuration": {packages("configured"), "hello-1.0!out"},
		"an expression by <nixpkgs>":                {expr(`(import <nixpkgs> { system = builtins.currentSystem; config = { }; }).hello`), "hello-1.0!out"},
		"a list":                                    {expr(`with import <pkgs> { system = "x86_64-linux"; config = { }; }; [ redis curl.dev ]`), "redis-7.0!out curl-8.0!dev"},
		"a function of the package set":             {expr(`pkgs: pkgs.redis`), "redis-7.0!out"},
		"a function of some packages":               {expr(`{ redis, hello }: [ hello redis ]`), "hello-1.0!out redis-7.0!out"},
		"a function of pkgs":                        {expr(`{ pkgs, lib ? null }: pkgs.hello`), "hello-1.0!out"},
		"an expression that needs no package set":   {expr(`derivation { name = "own"; system = "x86_64-linux"; builder = "/bin/sh"; }`), "own!out"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outputs, err := e.Evaluate(t.Context(), test.src)
			if err != nil {
				t.Fatal(err)
			}
			if got := shown(outputs); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestADerivationIsInTheStoreAfterwards(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	outputs, err := n.evaluator(t, nil).Evaluate(t.Context(), packages("redis"))
	if err != nil {
		t.Fatal(err)
	}
	got := nixtest.Run(t, n.dir, "nix-store", "-q", "--outputs", outputs[0].Derivation.String())
	if len(got) != 1 || got[0] != outputs[0].Path.String() {
		t.Errorf("the store says its output is %v, the evaluation %s", got, outputs[0].Path)
	}
}

func TestWrongSourcesSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	e := newNode(t).evaluator(t, nil)
	tests := map[string]struct {
		src   nixstore.Source
		kind  error
		words string
	}{
		"a misspelt name":                {packages("hello", "reddis"), nixstore.ErrNotFound, `no package "reddis"; next: perhaps "redis" is meant`},
		"a misspelt nested name":         {packages("python3Packages.nunpy"), nixstore.ErrNotFound, `perhaps "numpy"`},
		"a name below something else":    {packages("number.x"), nixstore.ErrNotFound, `no package "number.x"`},
		"a set":                          {packages("python3Packages"), nixstore.ErrEvaluation, `package "python3Packages" is a set and no derivation`},
		"a number":                       {packages("number"), nixstore.ErrEvaluation, "is a number and no"},
		"a list of packages":             {packages("list"), nixstore.ErrEvaluation, "is a list and no"},
		"a package that throws":          {packages("broken"), nixstore.ErrEvaluation, "this package is broken"},
		"a set that poses as derivation": {packages("fake"), nixstore.ErrEvaluation, "its outPath is not that of its derivation"},
		"an option":                      {packages("--option"), nixstore.ErrInvalid, "begins with a dash"},
		"an expression for a number":     {expr("1 + 1"), nixstore.ErrEvaluation, "the expression is a number and no derivation"},
		"a list with a string":           {expr(`[ "a" ]`), nixstore.ErrEvaluation, "a list with a string"},
		"an empty list":                  {expr("[ ]"), nixstore.ErrEvaluation, "an empty list"},
		"a function to a function":       {expr("a: b: a"), nixstore.ErrEvaluation, "is a function"},
		"a syntax error":                 {expr("{ a = ; }"), nixstore.ErrEvaluation, "syntax error, unexpected ';'"},
		"an undefined variable":          {expr("hello"), nixstore.ErrEvaluation, "undefined variable 'hello'"},
		"a throw":                        {expr(`throw "own words"`), nixstore.ErrEvaluation, "own words"},
		"an unknown channel":             {expr("import <nixos> { }"), nixstore.ErrEvaluation, `names "nixos", which is not there`},
		"a kind that is not evaluated":   {nixstore.Source{Kind: nixstore.SourceImage, Image: "a/b"}, nixstore.ErrInvalid, "not evaluated"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outputs, err := e.Evaluate(t.Context(), test.src)
			if !errors.Is(err, test.kind) {
				t.Fatalf("got %v and %v, want the kind %v", shown(outputs), err, test.kind)
			}
			if !strings.Contains(err.Error(), test.words) {
				t.Errorf("got %q, want in it %q", err, test.words)
			}
		})
	}
}

func TestAFolderReadsItsOwnFiles(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.write(t, "set/default.nix", `{ system, ... }: { own = import ./own.nix { inherit system; }; out = import ../pkgs.nix; link = import ./link.nix; }`)
	n.write(t, "set/own.nix", `{ system }: derivation { name = "own"; inherit system; builder = "/bin/sh"; src = ./data; here = ./.; }`)
	n.write(t, "set/data", "data")
	if err := os.Symlink(n.write(t, "outside.nix", `throw "read outside"`), filepath.Join(n.dir, "set", "link.nix")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("set", filepath.Join(n.dir, "current")); err != nil {
		t.Fatal(err)
	}
	e := n.evaluator(t, func(c *nixeval.Config) { c.PackageSet = filepath.Join(n.dir, "current") })
	outputs, err := e.Evaluate(t.Context(), packages("own"))
	if err != nil || shown(outputs) != "own!out" {
		t.Errorf("own files: %s, %v", shown(outputs), err)
	}
	for _, name := range []string{"out", "link"} {
		_, err := e.Evaluate(t.Context(), packages(name))
		if !errors.Is(err, nixstore.ErrEvaluation) || strings.Contains(err.Error(), "read outside") {
			t.Errorf("%s: %v, want that it is refused", name, err)
		}
	}
}

const testFlake = `{
  nixConfig.extra-substituters = "http://127.0.0.1:1";
  outputs = { self }:
    let make = name: derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; src = ./flake.nix; };
    in {
      packages.x86_64-linux = { default = make "default"; hello = make "hello"; };
      packages.aarch64-linux = { default = make "default"; hello = make "hello"; };
      legacyPackages.x86_64-linux = { legacy = make "legacy"; deep.down = make "down"; };
      legacyPackages.aarch64-linux = { legacy = make "legacy"; deep.down = make "down"; };
      secret = builtins.readFile /etc/passwd;
      env = builtins.getEnv "HOME";
      value = 1;
    };
}`

func TestFlakes(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.write(t, "flakes/a/flake.nix", testFlake)
	n.write(t, "flakes/sub/below/flake.nix", testFlake)
	n.write(t, "flakes/sub/flake.nix", testFlake)
	n.write(t, "flakes/none/x", "")
	dir := filepath.Join(n.dir, "flakes")
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	e := n.evaluator(t, func(c *nixeval.Config) { c.FlakeDirs = []string{dir, filepath.Join(n.dir, "nix")} })
	good := map[string]string{
		"path:" + dir + "/a":                   "default!out",
		dir + "/a#hello":                       "hello!out",
		"path:" + dir + "/a#legacy":            "legacy!out",
		"path:" + dir + "/a#deep.down":         "down!out",
		"path:" + dir + "/sub/below":           "default!out",
		dir + "/a#packages.x86_64-linux.hello": "hello!out",
	}
	for ref, want := range good {
		outputs, err := e.Evaluate(t.Context(), flake(ref))
		if err != nil || shown(outputs) != want {
			t.Errorf("%s: got %q, %v, want %s", ref, shown(outputs), err, want)
		}
	}
	bad := map[string]struct {
		kind  error
		words string
	}{
		dir + "/a#nope":            {nixstore.ErrNotFound, "does not provide attribute"},
		dir + "/a#value":           {nixstore.ErrEvaluation, "is a number and no derivation"},
		dir + "/a#env":             {nixstore.ErrEvaluation, "is a string and no derivation"},
		dir + "/a#secret":          {nixstore.ErrEvaluation, `may not read "/etc`},
		dir + "/link":              {nixstore.ErrNotFound, "symbolic link"},
		dir + "/none":              {nixstore.ErrNotFound, "no flake.nix"},
		dir + "/../etc":            {nixstore.ErrInvalid, "not clean"},
		n.dir + "/nix/store/x":     {nixstore.ErrForbidden, "on the node's disk"},
		"path:/etc":                {nixstore.ErrForbidden, "on the node's disk"},
		dir + "/sub?dir=../a":      {nixstore.ErrInvalid, "no parameter"},
		"git+file://" + dir + "/a": {nixstore.ErrInvalid, "cannot be fetched here"},
		"nixpkgs/../x":             {nixstore.ErrInvalid, "no scheme"},
	}
	for ref, want := range bad {
		_, err := e.Evaluate(t.Context(), flake(ref))
		if !errors.Is(err, want.kind) || !strings.Contains(err.Error(), want.words) {
			t.Errorf("%s: got %v, want %v with %q", ref, err, want.kind, want.words)
		}
	}
}

func TestAFlakeAsPackageSet(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.write(t, "flake/flake.nix", testFlake)
	n.write(t, "flake/default.nix", `{ system }: { plain = derivation { name = "plain"; inherit system; builder = "/bin/sh"; }; }`)
	e := n.evaluator(t, func(c *nixeval.Config) { c.PackageSet = "path:" + filepath.Join(n.dir, "flake") })
	tests := map[string]nixstore.Source{
		"legacy!out": packages("legacy"), "hello!out": packages("hello"), "down!out": packages("deep.down"),
		"plain!out": expr(`(import <nixpkgs> { system = "x86_64-linux"; }).plain`),
	}
	for want, src := range tests {
		outputs, err := e.Evaluate(t.Context(), src)
		if err != nil || shown(outputs) != want {
			t.Errorf("got %q, %v, want %s", shown(outputs), err, want)
		}
	}
	if _, err := e.Evaluate(t.Context(), packages("legaci")); !errors.Is(err, nixstore.ErrNotFound) || !strings.Contains(err.Error(), `"legacy"`) {
		t.Errorf("a misspelt name: %v", err)
	}
}

// serveFlake serves testFlake as a tarball and counts how often it is fetched.
func serveFlake(t *testing.T) (address string, visits *atomic.Int64) {
	t.Helper()
	var data bytes.Buffer
	packed := gzip.NewWriter(&data)
	archive := tar.NewWriter(packed)
	for name, text := range map[string]string{
		"flake/flake.nix":   testFlake,
		"flake/default.nix": `{ system }: { plain = derivation { name = "plain"; inherit system; builder = "/bin/sh"; }; }`,
	} {
		header := tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}
		if err := archive.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), packed.Close()); err != nil {
		t.Fatal(err)
	}
	visits = new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/flake.tar.gz") {
			http.NotFound(w, r)
			return
		}
		visits.Add(1)
		http.ServeContent(w, r, "flake.tar.gz", time.Unix(1, 0), bytes.NewReader(data.Bytes()))
	}))
	t.Cleanup(server.Close)
	return server.URL, visits
}

func TestARemoteFlakeIsFetched(t *testing.T) {
	t.Parallel()
	e := newNode(t).evaluator(t, nil)
	address, visits := serveFlake(t)
	outputs, err := e.Evaluate(t.Context(), flake(address+"/flake.tar.gz#hello"))
	if err != nil || shown(outputs) != "hello!out" || visits.Load() == 0 {
		t.Errorf("got %q, %v after %d visits", shown(outputs), err, visits.Load())
	}
	_, err = e.Evaluate(t.Context(), flake(address+"/none.tar.gz#hello"))
	if !errors.Is(err, nixstore.ErrNotFound) {
		t.Errorf("a flake that is not there: %v, want %v", err, nixstore.ErrNotFound)
	}
	_, err = e.Evaluate(t.Context(), flake("http://127.0.0.1:1/flake.tar.gz#hello"))
	if !errors.Is(err, nixstore.ErrUnavailable) {
		t.Errorf("a server that is not there: %v, want %v", err, nixstore.ErrUnavailable)
	}
}

func TestARemotePackageSetIsFetchedOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	address, visits := serveFlake(t)
	e := n.evaluator(t, func(c *nixeval.Config) {
		c.PackageSet, c.CacheDir = address+"/flake.tar.gz", filepath.Join(n.dir, "cache")
	})
	for _, test := range []struct {
		src  nixstore.Source
		want string
	}{
		{packages("legacy"), "legacy!out"},
		{packages("hello"), "hello!out"},
		{expr(`(import <nixpkgs> { system = builtins.currentSystem; }).plain`), "plain!out"},
		{expr(`pkgs: pkgs.plain`), "plain!out"},
	} {
		outputs, err := e.Evaluate(t.Context(), test.src)
		if err != nil || shown(outputs) != test.want {
			t.Errorf("got %q, %v, want %s", shown(outputs), err, test.want)
		}
	}
	if got := visits.Load(); got != 1 {
		t.Errorf("the package set was fetched %d times, want 1", got)
	}
	_, err := e.Evaluate(t.Context(), expr(`builtins.readDir "/cache"`))
	if !errors.Is(err, nixstore.ErrEvaluation) {
		t.Errorf("the cache is seen: %v", err)
	}
}
