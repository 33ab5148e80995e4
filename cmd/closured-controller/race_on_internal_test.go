//go:build race

package main

// raced: the race detector is on, which multiplies memory.
const raced = true
