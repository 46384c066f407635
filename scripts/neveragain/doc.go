// Package neveragain has what users of other overlays ran into and what was found in
// Baize, with the tests that show what becomes of each here (rows.yaml). Its own tests
// compare that with the tree and with docs/reliability.md; with BAIZE_NEVER_AGAIN set its
// test executable runs all those tests and counts: scripts/never-again.sh.
package neveragain
