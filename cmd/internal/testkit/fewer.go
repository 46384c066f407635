package testkit

import (
	"os"
	"testing"
)

// Fewer is how often a test repeats itself: a part of n with -short, which is how tests
// run with the race detector. It makes them ten times as slow, and has seen by then who
// shares what.
func Fewer(n, part int) int {
	if testing.Short() {
		return n / part
	}
	return n
}

// wholeVar is set where tests that take long are to do all that they can.
const wholeVar = "BAIZE_TEST_WHOLE"

// Some is how often a test that takes long repeats itself: a part of n, but where
// BAIZE_TEST_WHOLE is set all of it, as 'make never-again' does.
func Some(n, part int) int {
	if os.Getenv(wholeVar) == "" {
		return n / part
	}
	return n
}
