//go:build privileged

package nixeval_test

import (
	"context"
	"errors"
	"fmt"
	"net"
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

// secret is in files of the host that expressions try to read. It must appear
// in no message.
const secret = "canary-4711"

// escapes are expressions that reach for the host. %[1]s is a folder with a
// file named secret, %[2]s the address of a web server, %[3]s somebody else's
// store path.
func escapes() map[string]string {
	return map[string]string{
		"readFile of shadow":                  `builtins.readFile /etc/shadow`,
		"readFile of passwd":                  `builtins.readFile "/etc/passwd"`,
		"readFile of a host file":             `builtins.readFile "%[1]s/secret"`,
		"readDir of the root":                 `builtins.readDir "/"`,
		"readDir of the state directory":      `builtins.readDir "%[1]s"`,
		"readFile of the process":             `builtins.readFile "/proc/self/environ"`,
		"readFile of the evaluator's conf":    `builtins.readFile "/etc/nix/nix.conf"`,
		"pathExists tells of the host":        `if builtins.pathExists "%[1]s/secret" then throw "it exists" else abort "refused"`,
		"a way out of the search path":        `builtins.readFile <nixpkgs/../../etc/passwd>`,
		"a way out of our own folder":         `builtins.readFile <eval/../etc/passwd>`,
		"a search path of its own":            `builtins.readFile (builtins.findFile [ { prefix = "x"; path = "%[1]s"; } ] "x/secret")`,
		"the environment":                     `throw "HOME=${builtins.getEnv "HOME"} PATH=${builtins.getEnv "PATH"}"`,
		"fetchurl of a file":                  `builtins.readFile (builtins.fetchurl "file://%[1]s/secret")`,
		"fetchurl of a server":                `builtins.readFile (builtins.fetchurl "%[2]s/x")`,
		"fetchTarball of a file":              `import (builtins.fetchTarball "file://%[1]s/secret.tar.gz")`,
		"fetchTarball of a server":            `import (builtins.fetchTarball "%[2]s/x.tar.gz")`,
		"fetchGit of a folder":                `builtins.fetchGit "%[1]s"`,
		"fetchGit of a file URL":              `builtins.fetchGit { url = "file://%[1]s"; }`,
		"fetchGit with an option":             `builtins.fetchGit { url = "--upload-pack=touch /tmp/x"; }`,
		"fetchMercurial":                      `builtins.fetchMercurial "%[1]s"`,
		"fetchTree of a path":                 `(builtins.fetchTree { type = "path"; path = "%[1]s"; }).outPath`,
		"fetchTree of the store in the jail":  `throw (builtins.readFile (builtins.fetchTree { type = "path"; path = "/store%[3]s"; }).outPath)`,
		"getFlake of the store in the jail":   `throw (builtins.readFile (builtins.getFlake "path:/store/nix/store").outPath)`,
		"fetchTree of a server":               `(builtins.fetchTree { type = "tarball"; url = "%[2]s/x.tar.gz"; }).outPath`,
		"getFlake of a folder":                `(builtins.getFlake "path:%[1]s").x`,
		"getFlake of a server":                `(builtins.getFlake "%[2]s/x.tar.gz").x`,
		"fetchClosure":                        `builtins.fetchClosure { fromStore = "%[2]s"; fromPath = %[3]s; }`,
		"a path as text":                      `"${/. + "%[1]s/secret"}"`,
		"a path literal as source":            `derivation { name = "x"; system = "x86_64-linux"; builder = "/bin/sh"; src = /. + "%[1]s/secret"; }`,
		"toPath":                              `builtins.readFile (builtins.toPath "%[1]s/secret")`,
		"filterSource":                        `builtins.filterSource (p: t: true) (/. + "%[1]s")`,
		"builtins.path":                       `builtins.path { path = "%[1]s"; name = "x"; }`,
		"hashFile":                            `throw (builtins.hashFile "sha256" "%[1]s/secret")`,
		"import of the host":                  `import (/. + "%[1]s/secret")`,
		"import of etc":                       `import /etc`,
		"scopedImport of the host":            `builtins.scopedImport { } (/. + "%[1]s/secret")`,
		"storePath of somebody else's":        `builtins.readFile (builtins.storePath "%[3]s")`,
		"reading somebody else's store path":  `builtins.readFile "%[3]s"`,
		"reading it where the jail has it":    `builtins.readFile "/store%[3]s"`,
		"reading it physically":               `builtins.readFile "%[1]s%[3]s"`,
		"listing the store":                   `builtins.readDir "/nix/store"`,
		"listing the store physically":        `builtins.readDir "/store/nix/store"`,
		"reading it by its context":           `builtins.readFile (builtins.appendContext "%[3]s" { "%[3]s" = { path = true; }; })`,
		"exec":                                `builtins.exec [ "/bin/sh" "-c" "cat %[1]s/secret" ]`,
		"native code":                         `builtins.importNative "%[1]s/secret" "x"`,
		"the daemon's socket as a file":       `builtins.readFile "/run/nix-daemon.sock"`,
		"a device":                            `builtins.readFile "/dev/zero"`,
		"a link in the package set, followed": `builtins.readFile <nixpkgs/link>`,
		"a link to a folder":                  `builtins.readDir <nixpkgs/folder>`,
		"a package that names a foreign path": `{ type = "derivation"; name = "x"; drvPath = "%[3]s"; outPath = "%[3]s"; outputName = "out"; }`,
		"a foreign path with its context":     `{ type = "derivation"; name = "x"; drvPath = "%[3]s"; outPath = builtins.appendContext "%[3]s" { "%[3]s" = { path = true; }; }; outputName = "out"; }`,
	}
}

func TestFault34EvaluationReadsTheHost(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.write(t, "host/secret", secret)
	n.write(t, "set/default.nix", testSet)
	host := filepath.Join(n.dir, "host")
	for link, target := range map[string]string{"link": filepath.Join(host, "secret"), "folder": host} {
		if err := os.Symlink(target, filepath.Join(n.dir, "set", link)); err != nil {
			t.Fatal(err)
		}
	}
	var visits atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visits.Add(1) }))
	t.Cleanup(server.Close)
	t.Cleanup(func() {
		if n := visits.Load(); n != 0 {
			t.Errorf("the web server had %d visits", n)
		}
	})
	foreign := nixtest.Run(t, n.dir, "nix-store", "--add", n.write(t, "host/private", secret))[0]
	for _, store := range []bool{false, true} { // with the store in the jail, and without
		e := n.evaluator(t, func(c *nixeval.Config) { c.PackageSet, c.AllowIFD = filepath.Join(n.dir, "set"), store })
		for name, template := range escapes() {
			t.Run(fmt.Sprintf("%s, store in the jail: %v", name, store), func(t *testing.T) {
				t.Parallel()
				outputs, err := e.Evaluate(t.Context(), expr(fill(template, host, server.URL, foreign)))
				if !errors.Is(err, nixstore.ErrEvaluation) {
					t.Fatalf("got %v and %v, want that it is refused", outputs, err)
				}
				checkSilent(t, err)
			})
		}
	}
}

// fill puts the places into an escape.
func fill(template, host, server, foreign string) string {
	return strings.NewReplacer("%[1]s", host, "%[2]s", server, "%[3]s", foreign).Replace(template)
}

// checkSilent looks for content of the host in a refusal.
func checkSilent(t *testing.T, err error) {
	t.Helper()
	t.Log(err)
	for _, words := range []string{secret, "it exists", "root:", "HOME=/", "PATH=/"} {
		if strings.Contains(err.Error(), words) {
			t.Errorf("the message holds %q: %v", words, err)
		}
	}
}

// TestFault34WhatIsNoEscape holds what expressions may do: it must stay so, or
// the tests of escapes show nothing.
func TestFault34WhatIsNoEscape(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.write(t, "set/default.nix", testSet)
	n.write(t, "set/data", "of the package set")
	e := n.evaluator(t, func(c *nixeval.Config) { c.PackageSet = filepath.Join(n.dir, "set") })
	for name, text := range map[string]string{
		"time and system":          `pkgs: builtins.seq builtins.currentTime (if builtins.currentSystem == "" then null else pkgs.hello)`,
		"the environment is empty": `pkgs: if builtins.getEnv "HOME" + builtins.getEnv "PATH" + builtins.getEnv "NIX_REMOTE" == "" then pkgs.hello else null`,
		"files of the package set": `pkgs: if builtins.readFile <nixpkgs/data> == "of the package set" then pkgs.hello else null`,
		// Builders are sandboxed by the daemon, whatever a derivation asks.
		"a derivation that asks for no sandbox": `derivation { name = "hello-1.0"; system = "x86_64-linux"; builder = "/bin/sh"; __noChroot = true; __impure = true; }`,
	} {
		outputs, err := e.Evaluate(t.Context(), expr(text))
		if strings.Contains(name, "no sandbox") && err != nil && strings.Contains(err.Error(), "impure") {
			continue // Nix 2.8 and later refuse __impure when its feature is off
		}
		if err != nil || shown(outputs) != "hello-1.0!out" {
			t.Errorf("%s: %s, %v", name, shown(outputs), err)
		}
	}
}

func TestFault34FlakesReadTheHost(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.write(t, "host/secret", secret)
	host := filepath.Join(n.dir, "host")
	foreign := nixtest.Run(t, n.dir, "nix-store", "--add", n.write(t, "host/private", secret))[0]
	var b strings.Builder
	names := map[string]string{}
	for name, template := range escapes() {
		if strings.Contains(template, "<") {
			continue // a flake has no search path
		}
		attr := fmt.Sprintf("escape%d", len(names))
		names[attr] = name
		fmt.Fprintf(&b, "%s = %s;\n", attr, fill(template, host, "http://127.0.0.1:1", foreign))
	}
	n.write(t, "flakes/a/flake.nix", "{ outputs = { self }: {\n"+b.String()+"}; }")
	e := n.evaluator(t, func(c *nixeval.Config) { c.FlakeDirs = []string{filepath.Join(n.dir, "flakes")} })
	for attr, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outputs, err := e.Evaluate(t.Context(), flake(filepath.Join(n.dir, "flakes/a")+"#"+attr))
			if !errors.Is(err, nixstore.ErrEvaluation) {
				t.Fatalf("got %v and %v, want that it is refused", outputs, err)
			}
			checkSilent(t, err)
		})
	}
}

const importsBuilt = `
let built = derivation {
  name = "built"; system = "builtin"; builder = "builtin:buildenv";
  derivations = [ ]; manifest = "/dummy";
}; in pkgs: builtins.seq (builtins.readDir built) pkgs.hello`

func TestFault35ImportFromDerivation(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	_, err := n.evaluator(t, nil).Evaluate(t.Context(), expr(importsBuilt))
	if !errors.Is(err, nixstore.ErrEvaluation) || !strings.Contains(err.Error(), "import from derivation") {
		t.Errorf("got %v, want that it is refused as import from derivation", err)
	}
	allowed := n.evaluator(t, func(c *nixeval.Config) { c.AllowIFD = true })
	outputs, err := allowed.Evaluate(t.Context(), expr(importsBuilt))
	if err != nil || shown(outputs) != "hello-1.0!out" {
		t.Errorf("when it is allowed: %s, %v", shown(outputs), err)
	}
}

func TestFault36EvaluationZoo(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	small := n.evaluator(t, func(c *nixeval.Config) { c.Timeout = 10 * time.Second })
	tests := map[string]struct{ text, words string }{
		"infinite recursion":          {`let x = x; in x`, "infinite recursion"},
		"deep recursion":              {`let f = x: 1 + f (x + 1); in f 1`, "stack overflow"},
		"recursion of data":           {`let s = { inherit s; n = s.n + 1; }; in s.n`, "infinite recursion"},
		"a list of 100 GB":            {`builtins.length (builtins.genList (x: x) 12500000000)`, "needs more than 512 MiB of memory"},
		"a string of 100 GB":          {`let f = n: s: if n == 0 then s else f (n - 1) (s + s); in builtins.stringLength (f 37 "x")`, "needs more than 512 MiB of memory"},
		"a list that grows":           {`builtins.foldl' (a: x: a ++ [ x a ]) [ ] (builtins.genList (x: x) 1000000)`, "needs more than 512 MiB of memory"},
		"a loop that needs no memory": {`let l = builtins.genList (x: x) 100000; in builtins.foldl' (a: x: builtins.foldl' (b: y: y) 0 l) 0 l`, "takes longer than 10 s"},
		"huge output":                 {`let d = derivation { name = "x"; system = "s"; builder = "b"; }; f = n: s: if n == 0 then s else f (n - 1) (s + s); in d // { type = "derivation"; outputName = f 23 "x"; }`, "not that of its derivation"},
		"a huge message":              {`let f = n: s: if n == 0 then s else f (n - 1) (s + s); in throw (f 23 "x")`, "longer than 64 KiB"},
		"a flood of traces":           {`builtins.foldl' (a: x: builtins.trace "y" a) (throw "the end") (builtins.genList (x: x) 200000)`, "the expression"},
		"many derivations":            {`builtins.genList (n: derivation { name = "x${toString n}"; system = "s"; builder = "b"; }) 1100`, "gives 1100 derivations"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := small.Evaluate(t.Context(), expr(test.text))
			if !errors.Is(err, nixstore.ErrEvaluation) || !strings.Contains(err.Error(), test.words) {
				t.Errorf("got %.300v, want %v with %q", err, nixstore.ErrEvaluation, test.words)
			}
			if err != nil && len(err.Error()) > 400 {
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestFault36AnotherEvaluationGoesOnMeanwhile(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	e := n.evaluator(t, func(c *nixeval.Config) { c.Concurrency = 2 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	endless := make(chan error, 1)
	go func() {
		_, err := e.Evaluate(ctx, expr(`let l = builtins.genList (x: x) 1000000; in builtins.foldl' (a: x: builtins.foldl' (b: y: y) 0 l) 0 l`))
		endless <- err
	}()
	outputs, err := e.Evaluate(t.Context(), packages("hello"))
	if err != nil || shown(outputs) != "hello-1.0!out" {
		t.Errorf("beside an endless one: %s, %v", shown(outputs), err)
	}
	select {
	case err := <-endless:
		t.Fatalf("the endless one ended with %v", err)
	default:
	}
	cancel()
	if err := <-endless; !errors.Is(err, context.Canceled) {
		t.Errorf("when its caller left: %v", err)
	}
}

func TestAFullHouseWaitsAsLongAsItsCaller(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	e := n.evaluator(t, func(c *nixeval.Config) { c.Concurrency = 1 })
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan error, 1)
	go func() {
		_, err := e.Evaluate(ctx, expr(`let l = builtins.genList (x: x) 1000000; in builtins.foldl' (a: x: builtins.foldl' (b: y: y) 0 l) 0 l`))
		started <- err
	}()
	defer func() { cancel(); <-started }()
	for range 10 { // until the endless one has the only place
		short, stop := context.WithTimeout(t.Context(), 2*time.Second)
		_, err := e.Evaluate(short, packages("hello"))
		stop()
		if errors.Is(err, context.DeadlineExceeded) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("no evaluation waited")
}

func TestADaemonThatDoesNotAnswerIsUnavailable(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	silent, err := net.Listen("unix", filepath.Join(dir, "silent"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, socket := range map[string]string{"nobody": filepath.Join(dir, "none"), "somebody silent": filepath.Join(dir, "silent")} {
		e, err := nixeval.New(nixeval.Config{Socket: socket, StoreRoot: dir, PackageSet: "/etc"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Evaluate(t.Context(), packages("hello")); !errors.Is(err, nixstore.ErrUnavailable) {
			t.Errorf("%s: got %v, want %v", name, err, nixstore.ErrUnavailable)
		}
	}
}
