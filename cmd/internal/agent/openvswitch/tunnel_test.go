package openvswitch

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

func TestFirstTunnel(t *testing.T) {
	observed := func(types ...string) ovs.Observed {
		o := ovs.Observed{Ports: map[string]ovs.ObservedPort{}}
		for i, typ := range types {
			p := ovs.ObservedPort{}
			p.Type, p.ExternalIDs = typ, map[string]string{ovs.KeyRole: ovs.RoleTunnel}
			if typ == "internal" {
				p.ExternalIDs = nil
			}
			o.Ports[string(rune('a'+i))] = p
		}
		return o
	}
	for _, c := range []struct {
		before, after []string
		want          bool
	}{
		{nil, nil, false},
		{nil, []string{"internal"}, false},
		{nil, []string{"vxlan"}, true},
		{[]string{"vxlan"}, []string{"vxlan", "vxlan"}, false},
		{[]string{"vxlan"}, []string{"vxlan", "gre"}, true},
		{[]string{"vxlan"}, nil, false},
	} {
		assert.Equal(t, c.want, firstTunnel(observed(c.before...), observed(c.after...)), "%v, %v", c.before, c.after)
	}
}

// givenTo notes which neighbours the userspace datapath is given.
type givenTo struct {
	FlowTables
	given []string
}

func (g *givenTo) NeighSet(_ context.Context, bridge string, a netip.Addr, mac net.HardwareAddr) error {
	g.given = append(g.given, bridge+" "+a.String()+" "+mac.String())
	return nil
}

type allOnLink struct{}

func (allOnLink) OnLink(netip.Addr) bool { return true }

// A neighbour is given once, and again where something about it is new: a pass for an
// endpoint costs nothing for each of a thousand peers.
func TestNeighboursAreGivenOnce(t *testing.T) {
	g := &givenTo{}
	p := &Part{flows: g, host: allOnLink{}, log: logrus.NewEntry(logrus.New())}
	remote := netip.MustParseAddr("192.0.2.2")
	pass := func(mac, bridge string, ofport int) []string {
		port := ovs.ObservedPort{OFPort: ofport, Status: map[string]string{"tunnel_egress_iface": bridge}}
		port.Name, port.ExternalIDs = "vx-host2", map[string]string{
			ovs.KeyOwner: ovs.Owner, ovs.KeyRole: ovs.RoleTunnel, ovs.KeyNode: "host2", ovs.KeyEncap: "vxlan",
		}
		g.given = nil
		p.setNeighbours(t.Context(), Outcome{
			Observed: ovs.Observed{Ports: map[string]ovs.ObservedPort{port.Name: port}},
			View: topology.View{Networks: []topology.NetworkView{{Peers: []topology.Peer{
				{Node: "host2", Encap: "vxlan", Remote: remote, RemoteMAC: mac},
			}}}},
		})
		return g.given
	}
	const one, other = "02:00:00:00:00:01", "02:00:00:00:00:02"
	assert.Equal(t, []string{"br-phy 192.0.2.2 " + one}, pass(one, "br-phy", 1))
	assert.Empty(t, pass(one, "br-phy", 1))
	assert.Len(t, pass(other, "br-phy", 1), 1, "another link address")
	assert.Len(t, pass(other, "br-phy", 2), 1, "another port")
	assert.Len(t, pass(other, "br-ex", 2), 1, "another bridge")
	assert.Empty(t, pass(other, "br-ex", 2))
	p.totals.Lost++
	assert.Len(t, pass(other, "br-ex", 2), 1, "another ovs-vswitchd")
}
