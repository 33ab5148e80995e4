package main

import (
	"os"
	"testing"

	"github.com/closured/closured/nixstore/nixeval/jail"
)

// TestMain is main's first step, for evaluations.
func TestMain(m *testing.M) {
	jail.MaybeChild()
	os.Exit(m.Run())
}
