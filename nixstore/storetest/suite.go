package storetest

import (
	"testing"

	"github.com/closured/closured/nixstore"
)

// Harness makes things in a store under test. What it makes has no root.
type Harness interface {
	// Store gives the store under test.
	Store() nixstore.Store
	// AddText makes a valid path: a file whose text holds text and the references.
	AddText(t testing.TB, name, text string, refs ...nixstore.StorePath) nixstore.StorePath
	// AddBuild makes a derivation that is not built, or gives the one made before
	// for an equal b.
	AddBuild(t testing.TB, b Build) nixstore.Output
	// Root keeps p at collections until remove is called.
	Root(t testing.TB, p nixstore.StorePath) (remove func())
	// Collect runs the store's own garbage collector to its end. It may be called
	// from any goroutine.
	Collect(t testing.TB)
}

// Build is a derivation for a Harness to make. Its result is a folder that
// refers to all inputs and nothing else.
type Build struct {
	Name   string
	Inputs []nixstore.Output // derivations that are built before it
	Does   Behaviour
}

// Behaviour is what a builder does.
type Behaviour string

// The behaviours of builders.
const (
	Succeeds Behaviour = ""
	Fails    Behaviour = "fails" // after it has written "this builder fails" to its log
	Hangs    Behaviour = "hangs" // for ten minutes at least
)

// trial is one case: the test and its store.
type trial struct {
	*testing.T
	Harness
}

// Run runs the suite. newHarness makes an empty store for each case and cleans
// up by t.Cleanup.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	t.Helper()
	cases := []struct {
		name string
		run  func(trial)
	}{
		{"a closure holds all that its root refers to, sorted", testClosure},
		{"what is not valid is not found", testNotFound},
		{"a registration stays until the path is collected and realised again", testRegistration},
		{"realising what is valid does nothing", testRealiseValid},
		{"without a build a derivation is only substituted", testSubstituteOnly},
		{"a build realises the output and its inputs", testBuild},
		{"several outputs are realised by one call", testSeveral},
		{"a failing builder is a build error with its log", testBuildFails},
		{"a failing input fails what needs it", testInputFails},
		{"ending the context ends a realisation", testCancel},
		{"a context that has ended realises nothing", testCancelled},
		{"concurrent realisations of one path all succeed", testConcurrent},
		{"progress comes from one goroutine at a time, in stable words", testProgress},
		{"merging depends on the set of roots only", testMerge},
		{"a collection keeps what a root leads to and nothing else", testCollect},
		{"a collection waits for holds, and holds are shared", testBarrier},
		{"a hold ends with its context", testHoldCancelled},
		{"a root made in a hold is seen by each later collection", testRootInHold},
		{"what is valid and rooted in a hold stays through a storm of collections", testStorm},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(trial{t, newHarness(t)}) })
	}
}
