package main

import (
	"bytes"
	"testing"

	"github.com/closured/closured/nixstore/binarycache"
)

// TestGenkey: what is printed is a key of its own that agents read.
func TestGenkey(t *testing.T) {
	t.Parallel()
	var first, second bytes.Buffer
	must(t, genkey([]string{"closured-1"}, &first))
	must(t, genkey([]string{"closured-1"}, &second))
	key, err := binarycache.ParseSecretKey(first.String())
	if err != nil || key.Name() != "closured-1" {
		t.Errorf("the key is %v (%v)", key, err)
	}
	if first.String() == second.String() {
		t.Error("two keys are the same")
	}
	for _, args := range [][]string{nil, {"a", "b"}, {""}, {"a:b"}} {
		if err := genkey(args, &first); err == nil {
			t.Errorf("genkey %q works", args)
		}
	}
}
