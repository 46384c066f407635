//go:build race

package labkit

const race = true
