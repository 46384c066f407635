//go:build system

package flannel

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

// 'baize lab up --flannel', with the last host running flannel: every path is
// proven, and again after the death of ovs-vswitchd, which in the userspace
// datapath takes the host's own port along.
func TestLab(t *testing.T) {
	t.Parallel()
	for _, transport := range []topology.Transport{topology.VXLAN, topology.Route} {
		t.Run(string(transport), func(t *testing.T) {
			t.Parallel()
			l := labkit.Up(t, lab.Config{
				Transport: transport, Foreign: lab.Foreign{Flannel: true, Flanneld: peer(t)},
				Networks: []lab.NetworkSpec{
					{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16"), netip.MustParsePrefix("fd00:77::/48")}},
				},
			})
			assert.Equal(t, "host3", l.FlannelHost())
			assert.Len(t, l.Proof.Paths, 12, "three containers, both ways, both families")
			s, err := l.Status()
			require.NoError(t, err)
			assert.Empty(t, s.Problems)

			require.NoError(t, l.Host("host1").Kill(t.Context(), lab.ServiceVswitchd, unix.SIGKILL))
			require.NoError(t, l.Host("host1").AwaitService(t.Context(), lab.ServiceVswitchd))
			_, err = l.Prove(t.Context())
			assert.NoError(t, err, "after the death of ovs-vswitchd")
		})
	}
}
