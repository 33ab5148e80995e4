//go:build privileged

package nixcli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixcli"
	"github.com/closured/closured/nixstore/storetest"
)

func TestStoreConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		t.Helper()
		dir := nixtest.StateDir(t)
		store := open(t, offline(dir))
		// A collection of the suite must not hit the trial build of the start.
		eventually(t, "the self-test ended", func() bool { return store.Version() != "" })
		return &harness{store: store, dir: dir}
	})
}

// harness makes things in a store by a Nix that is no client of its daemon, as
// an operator with a shell would.
type harness struct {
	store *nixcli.Store
	dir   string
	roots atomic.Int64 // links made so far
}

func (h *harness) Store() nixstore.Store { return h.store }

func (h *harness) AddText(tb testing.TB, name, text string, refs ...nixstore.StorePath) nixstore.StorePath {
	tb.Helper()
	var words []string
	for _, ref := range refs {
		words = append(words, `(builtins.appendContext "`+ref.String()+`" { "`+ref.String()+`" = { path = true; }; })`)
	}
	return h.evaluate(tb, `[ (builtins.toFile "`+name+`" (toString ([ "`+text+`" ] ++ [ `+strings.Join(words, " ")+` ]))) ]`)[0]
}

func (h *harness) AddBuild(tb testing.TB, b storetest.Build) nixstore.Output {
	tb.Helper()
	script := map[storetest.Behaviour]string{
		storetest.Succeeds: `mkdir $out; echo $inputs > $out/$name`,
		storetest.Fails:    `echo this builder fails; exit 1`,
		storetest.Hangs:    `sleep 600`,
	}[b.Does]
	var inputs []string
	for _, in := range b.Inputs {
		inputs = append(inputs, `(builtins.appendContext "`+in.Path.String()+`" { "`+in.Derivation.String()+`" = { outputs = [ "out" ]; }; })`)
	}
	paths := h.evaluate(tb, `let d = derivation {
		name = "`+b.Name+`"; system = builtins.currentSystem;
		inputs = [ `+strings.Join(inputs, " ")+` ];
		builder = "${`+nixtest.Busybox(tb)+`}/bin/busybox";
		args = [ "sh" "-c" ''export PATH=''${builder%/*}; `+script+`'' ];
	}; in [ d.drvPath d.outPath ]`)
	return nixstore.Output{Path: paths[1], Derivation: paths[0], Name: "out"}
}

// evaluate gives the store paths that a list of strings evaluates to. A
// collection may take a path while it is being written: then it tries again.
func (h *harness) evaluate(tb testing.TB, list string) []nixstore.StorePath {
	tb.Helper()
	var paths []nixstore.StorePath
	var told strings.Builder
	for range 10 {
		cmd := nixtest.Command(tb, h.dir, "nix-instantiate", "--eval", "--strict", "--json", "--read-write-mode",
			"-E", `map builtins.unsafeDiscardStringContext (`+list+`)`)
		cmd.Stderr = &told
		out, err := cmd.Output()
		if err != nil {
			continue
		}
		if err := json.Unmarshal(out, &paths); err != nil {
			tb.Fatal(err)
		}
		return paths
	}
	tb.Fatalf("evaluating %s:\n%s", list, told.String())
	return nil
}

func (h *harness) Root(tb testing.TB, p nixstore.StorePath) (remove func()) {
	tb.Helper()
	dir := filepath.Join(h.dir, "nix", "var", "nix", "gcroots", "suite")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	link := filepath.Join(dir, strconv.FormatInt(h.roots.Add(1), 10))
	if err := os.Symlink(p.String(), link); err != nil {
		tb.Fatal(err)
	}
	return func() {
		if err := os.Remove(link); err != nil {
			tb.Errorf("removing a root: %v", err)
		}
	}
}

func (h *harness) Collect(tb testing.TB) {
	tb.Helper()
	if out, err := nixtest.Command(tb, h.dir, "nix-store", "--gc").CombinedOutput(); err != nil {
		tb.Errorf("collecting: %v\n%s", err, out)
	}
}
