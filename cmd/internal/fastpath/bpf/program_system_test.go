//go:build system

package bpf

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
)

func TestLoad(t *testing.T) {
	c, err := ebpf.NewCollection(spec())
	require.NoErrorf(t, err, "%+v", err)
	c.Close()
}
