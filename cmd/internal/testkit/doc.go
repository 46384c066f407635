// Package testkit is what the tests on real systems share: waiting for a
// condition, running programs, typing in shells, sending and counting frames, and
// the commands of documentation pages. It knows nothing of Baize, so that every
// package's tests may use it; labkit, below it, has the labs.
package testkit
