package storetest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemoryConforms(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(*testing.T) storetest.Harness { return storetest.NewMemory().Harness() })
}

func TestMemorySubstitutesWhatIsOffered(t *testing.T) {
	t.Parallel()
	m := storetest.NewMemory()
	leaf := m.Offer("leaf")
	root := m.Offer("root", leaf)
	if err := m.Realise(t.Context(), []nixstore.Output{{Path: root}}, nixstore.RealiseOptions{}); err != nil {
		t.Fatal(err)
	}
	c, err := m.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Paths) != 2 || !c.Has(leaf) {
		t.Errorf("the closure is %v", c.Paths)
	}
}

func TestMemoryHookFailsAStep(t *testing.T) {
	t.Parallel()
	m := storetest.NewMemory()
	broken := errors.New("broken")
	out := m.AddRecipe(storetest.Recipe{Name: "out"})
	m.SetHook(func(_ context.Context, s storetest.Step) error {
		if s.Op == "build" && s.Path == out.Path {
			return broken
		}
		return nil
	})
	err := m.Realise(t.Context(), []nixstore.Output{out}, nixstore.RealiseOptions{Build: true})
	if !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
	if n := m.Count("build", out.Path); n != 1 {
		t.Errorf("%d builds were counted", n)
	}
}

func TestMemoryReadsRootsBeforeItDeletes(t *testing.T) {
	t.Parallel()
	m := storetest.NewMemory()
	p := m.AddText("late", "late")
	m.SetHook(func(_ context.Context, s storetest.Step) error {
		if s.Op == "collect" {
			m.AddRoot(p) // too late for this collection
		}
		return nil
	})
	if err := m.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(m.Valid()) != 0 {
		t.Error("the collection saw a root that came after it had read them")
	}
}

func ExampleMemory() {
	m := storetest.NewMemory()
	hello := m.AddRecipe(storetest.Recipe{Name: "hello"})
	_ = m.Realise(context.Background(), []nixstore.Output{hello}, nixstore.RealiseOptions{Build: true})
	fmt.Println(len(m.Valid()), "paths: a derivation and what it built")
	// Output: 2 paths: a derivation and what it built
}
