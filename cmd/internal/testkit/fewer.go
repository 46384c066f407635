package testkit

import "testing"

// Fewer is how often a test repeats itself: a part of n with -short, which is how tests
// run with the race detector. It makes them ten times as slow, and has seen by then who
// shares what.
func Fewer(n, part int) int {
	if testing.Short() {
		return n / part
	}
	return n
}
