//go:build !race

package labkit

const race = false
