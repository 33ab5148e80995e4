package storetest

import (
	"testing"

	"github.com/closured/closured/nixstore"
)

// Harness gives a harness over m, for Run and for tests that serve both a real
// store and this one.
func (m *Memory) Harness() Harness { return memoryHarness{m} }

type memoryHarness struct{ m *Memory }

func (h memoryHarness) Store() nixstore.Store { return h.m }

func (h memoryHarness) AddText(_ testing.TB, name, text string, refs ...nixstore.StorePath) nixstore.StorePath {
	return h.m.AddText(name, text, refs...)
}

func (h memoryHarness) AddBuild(_ testing.TB, b Build) nixstore.Output {
	return h.m.AddRecipe(Recipe{Name: b.Name, Inputs: b.Inputs, Fails: b.Does == Fails, Hangs: b.Does == Hangs})
}

func (h memoryHarness) Root(_ testing.TB, p nixstore.StorePath) (remove func()) {
	return h.m.AddRoot(p)
}

func (h memoryHarness) Collect(tb testing.TB) {
	tb.Helper()
	if err := h.m.Collect(tb.Context()); err != nil {
		tb.Errorf("collecting: %v", err)
	}
}
