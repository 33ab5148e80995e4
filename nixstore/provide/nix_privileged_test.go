//go:build privileged

package provide_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixcli"
	"github.com/closured/closured/nixstore/pins"
	"github.com/closured/closured/nixstore/provide"
	"github.com/closured/closured/nixstore/storetest"
)

// nixRig is a provider over real Nix in a chroot store.
type nixRig struct {
	dir   string
	store *nixcli.Store
	eval  *storetest.Evaluator
	pins  *pins.Pins
	*provide.Provider
}

func newNixRig(tb testing.TB) *nixRig {
	tb.Helper()
	nixtest.Require(tb)
	r := &nixRig{dir: nixtest.StateDir(tb), eval: &storetest.Evaluator{}}
	var err error
	r.store, err = nixcli.Open(tb.Context(), nixcli.Config{
		StateDir: r.dir, OperatorConf: "/nonexistent", Options: map[string]string{"substituters": ""},
	})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.store.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, r.store.Close()); err != nil {
			tb.Error(err)
		}
	})
	for deadline := time.Now().Add(time.Minute); r.store.Version() == ""; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatal("the daemon does not come up")
		}
	}
	if r.pins, err = pins.Open(filepath.Join(r.dir, "nix/var/nix/gcroots/closured")); err != nil {
		tb.Fatal(err)
	}
	r.Provider, err = provide.New(provide.Config{Store: r.store, Pins: r.pins, Evaluator: r.eval})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(r.Close)
	return r
}

// define makes a package that Nix instantiates at each evaluation.
func (r *nixRig) define(t *testing.T, name string) {
	t.Helper()
	expr := fmt.Sprintf(`let d = derivation { name = %q; system = builtins.currentSystem;
		builder = "${%s}/bin/busybox"; args = [ "sh" "-c" "export PATH=\${builder%%/*}; mkdir $out; echo $name > $out/$name" ];
		}; in map builtins.unsafeDiscardStringContext [ d.drvPath d.outPath ]`, name, nixtest.Busybox(t))
	r.eval.Define(name, func() []nixstore.Output {
		var paths []nixstore.StorePath
		var told strings.Builder
		for range 10 { // a collection may end an evaluation
			cmd := nixtest.Command(t, r.dir, "nix-instantiate", "--eval", "--strict", "--json", "--read-write-mode", "-E", expr)
			cmd.Stderr = &told
			out, err := cmd.Output()
			if err == nil && json.Unmarshal(out, &paths) == nil && len(paths) == 2 {
				return []nixstore.Output{{Path: paths[1], Derivation: paths[0], Name: "out"}}
			}
		}
		t.Errorf("evaluating %s: %s", name, told.String())
		return nil
	})
}

// live provides a package to a volume, looks at it for a while, and releases it.
func (r *nixRig) live(t *testing.T, n int, name string) {
	t.Helper()
	got, err := r.Provide(t.Context(), build(n, packages(name)))
	for ; errors.Is(err, nixstore.ErrUnavailable); got, err = r.Provide(t.Context(), build(n, packages(name))) {
		t.Logf("as kubelet would, again: %v", err)
	}
	if err != nil {
		t.Errorf("volume %d: %v", n, err)
		return
	}
	file := filepath.Join(r.dir, got.Root.String(), name)
	for range 5 {
		text, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(text)) != name {
			t.Errorf("volume %d lost its closure: %q, %v", n, text, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if reg, err := r.store.Registration(t.Context(), got.Root); err != nil || reg != got.Registration {
		t.Errorf("volume %d was given registration %d; now it is %d, %v", n, got.Registration, reg, err)
	}
	if err := r.Release(t.Context(), volume(n)); err != nil {
		t.Error(err)
	}
}

// TestFault17RealCollectionsWhileProviding lets Nix's own collector run without a
// pause beside volumes that come and go.
func TestFault17RealCollectionsWhileProviding(t *testing.T) {
	r := newNixRig(t)
	for n := range 5 {
		r.define(t, fmt.Sprintf("package-%d", n))
	}
	stop := make(chan struct{})
	var collector, volumes sync.WaitGroup
	collections := 0
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if out, err := nixtest.Command(t, r.dir, "nix-store", "--gc").CombinedOutput(); err != nil {
				t.Errorf("collecting: %v\n%s", err, out)
			}
			collections++
		}
	})
	for n := range 8 {
		volumes.Go(func() {
			for round := range 6 {
				r.live(t, n, fmt.Sprintf("package-%d", (n+round)%5))
			}
		})
	}
	volumes.Wait()
	close(stop)
	collector.Wait()
	t.Logf("%+v beside %d collections", r.Stats(), collections)
	if n := r.pins.Count(); n != 0 {
		t.Errorf("%d pins are left", n)
	}
}

// TestFault02FiftyPodsAreOneBuildOfRealNix counts what Nix was asked for.
func TestFault02FiftyPodsAreOneBuildOfRealNix(t *testing.T) {
	r := newNixRig(t)
	r.define(t, "cold")
	var all sync.WaitGroup
	for n := range 50 {
		all.Go(func() {
			if _, err := r.Provide(t.Context(), build(n, packages("cold"))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if s := r.Stats(); s.Evaluations != 1 || s.Realisations != 1 {
		t.Errorf("the counters are %+v, want one evaluation and one realisation", s)
	}
}

func BenchmarkWarmProvide(b *testing.B) {
	r := newNixRig(b)
	p := nixstore.MustParseStorePath(nixtest.TextClosure(b, r.dir, 1500, "warm"))
	n := 0
	for b.Loop() {
		n++
		if _, err := r.Provide(b.Context(), build(n, storePaths(p))); err != nil {
			b.Fatal(err)
		}
	}
}
