//go:build kernel

package kerneltest

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

// The probes of the agents go through the kernel's tunnels as frames of endpoints do:
// they find what passes, and in which direction nothing does.
func TestProbes(t *testing.T) {
	t.Parallel()
	c := lab.Config{Hosts: 2, NoProof: true, Env: []string{"BAIZE_PROBE_INTERVAL=2s"}}
	transports := append(topology.Encapsulations(), topology.Route)
	for i, tr := range transports {
		c.Networks = append(c.Networks, spec(tr, i+1))
	}
	l := labkit.Up(t, c)
	states := func(host string) map[topology.Transport]api.Probed {
		out := map[topology.Transport]api.Probed{}
		for _, p := range l.AgentStatus(host).Peers {
			if p.Probed != nil {
				out[p.Encap] = *p.Probed
			}
		}
		return out
	}
	well := func() {
		l.Await("every way is well", func() (bool, string) {
			saw := map[string]map[topology.Transport]api.Probed{"host1": states("host1"), "host2": states("host2")}
			for _, all := range saw {
				for _, tr := range transports {
					p := all[tr]
					if p.State != api.StateOK || p.Passes != topology.MTU(tr, topology.IPv4, 1500) {
						return false, fmt.Sprintf("%+v", saw)
					}
				}
			}
			return true, ""
		})
	}
	well()
	require.Contains(t, l.Must("host1", "ovs-ofctl", "-O", "OpenFlow14", "dump-meters", "br-baize"), "meter=controller")
	for _, tr := range transports {
		t.Run("capture of "+string(tr), func(t *testing.T) { captures(t, l.In(t), tr) })
	}

	l.Must("host1", "nft", "add table netdev trouble; "+
		"add chain netdev trouble out { type filter hook egress device eth0 priority 0; }; "+
		"add rule netdev trouble out udp dport 6081 drop; add rule netdev trouble out ip protocol gre ip length > 1400 drop")
	l.Await("the trouble is named", func() (bool, string) {
		one, two := states("host1"), states("host2")
		return one[topology.Geneve].State == api.StateDeaf && two[topology.Geneve].State == api.StateSilent &&
			one[topology.GRE].State == api.StateNarrow && one[topology.GRE].Passes == 1358 &&
			one[topology.VXLAN].State == api.StateOK && one[topology.Route].State == api.StateOK, fmt.Sprintf("%+v %+v", one, two)
	})
	l.Must("host1", "nft", "delete", "table", "netdev", "trouble")
	well()
}
