package member

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestHostsHaveNumbers(t *testing.T) {
	for n := 1; n <= MaxHosts; n++ {
		assert.Equal(t, n, HostNumber(HostName(n)))
	}
	for _, bad := range []string{"", "host", "host0", "host01", "host245", "host-1", "fabric", "xhost1", "host1x"} {
		assert.Zero(t, HostNumber(bad), bad)
	}
}

func TestNamesOfNamespacesBelongToOneLab(t *testing.T) {
	for _, c := range []struct{ lab, name, want string }{
		{"lab", "baize-lab-host1", "host1"},
		{"lab", "baize-lab-fabric", "fabric"},
		{"lab", "baize-lab-router", "router"},
		{"lab", "baize-lab-x-host1", ""},
		{"lab-x", "baize-lab-x-host1", "host1"},
		{"lab", "baize-lab2-host1", ""},
		{"lab", "baize-lab-c1", ""},
		{"lab", "host1", ""},
	} {
		assert.Equal(t, c.want, FromMachineName(c.lab, c.name), "%s of %s", c.name, c.lab)
	}
}
