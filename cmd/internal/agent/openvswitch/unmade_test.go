package openvswitch

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/ovstest/ovsfake"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// blind is a database whose ovs-vswitchd makes a port at the next look only: it
// is WaitApplied that has it look.
type blind struct {
	ports
	unmade map[string]bool
	looks  int
	// heals: a look makes the ports.
	heals bool
}

func (b *blind) Observe(ctx context.Context) (ovs.Observed, error) {
	o, err := b.ports.Observe(ctx)
	for name := range b.unmade {
		if p, there := o.Ports[name]; there {
			p.OFPort, p.Error = -1, "could not add network device "+name+" to ofproto (File exists)"
			o.Ports[name] = p
		}
	}
	return o, err
}

func (b *blind) WaitApplied(ctx context.Context) error {
	b.looks++
	if b.heals {
		clear(b.unmade)
	}
	return b.ports.WaitApplied(ctx)
}

// An agent that was killed after it replaced tunnels leaves some that were not
// made, and the next one finds nothing to change. Ports that no look makes are
// looked for once, and again at audits.
func TestUnmadePortsAreLookedForAgain(t *testing.T) {
	w := &world{keys: map[string]topology.KV{}}
	n := walkNetworks[0]
	w.put(n)
	for i, host := range []string{"host1", "host2"} {
		w.put(topology.Node{
			Name: host, ID: host, VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 9, byte(i + 1)})},
			Encapsulations: topology.Encapsulations(),
		})
		w.put(topology.Subnet{Network: n.Name, Prefix: topology.SubnetAt(n, topology.IPv4, uint64(i+1)), Node: host})
	}
	var name string
	pass := func(c *converger, audit bool) outcome {
		t.Helper()
		observed, err := c.db.Observe(t.Context())
		require.NoError(t, err)
		want := w.want()
		for _, p := range want.Ports {
			if p.Role() == ovs.RoleTunnel {
				name = p.Name
			}
		}
		out, err := c.converge(t.Context(), want, observed, audit)
		require.NoError(t, err)
		return out
	}
	f := ovsfake.New()
	first := newConverger(f.Database(), f.Flows(), &flowWatch{})
	pass(&first, false)
	require.NotEmpty(t, name)

	db := &blind{ports: f.Database(), unmade: map[string]bool{name: true}, heals: true}
	next := newConverger(db, f.Flows(), &flowWatch{})
	out := pass(&next, false)
	require.Equal(t, 1, db.looks)
	require.True(t, out.Observed.Ports[name].Live())
	require.Zero(t, out.Changes)
	pass(&next, false)
	require.Equal(t, 1, db.looks, "nothing is unmade")

	db.unmade[name], db.heals = true, false
	for range 3 {
		require.Len(t, portProblems(pass(&next, false)), 1)
	}
	require.Equal(t, 2, db.looks)
	pass(&next, true)
	require.Equal(t, 3, db.looks)
}

// A port says which kind of fault it is when Open vSwitch cannot forward through
// it: that of an endpoint has lost its device.
func TestPortProblems(t *testing.T) {
	port := func(name, role, kind string) ovs.Port {
		return ovs.Port{Name: name, Type: kind, ExternalIDs: map[string]string{
			ovs.KeyOwner: ovs.Owner, ovs.KeyRole: role, ovs.KeyEndpoint: "c1", ovs.KeyNetwork: "blue",
		}}
	}
	for _, c := range []struct {
		port ovs.Port
		code fault.Code
	}{
		{port("bzc1", ovs.RoleEndpoint, ""), fault.EndpointGone},
		{port("vx-host2", ovs.RoleTunnel, "vxlan"), fault.PortDead},
		{port("bn-blue", ovs.RoleHost, "internal"), fault.PortDead},
	} {
		o := outcome{Want: ovs.State{Ports: []ovs.Port{c.port}}}
		o.Observed.Ports = map[string]ovs.ObservedPort{c.port.Name: {Port: c.port, OFPort: -1, Error: "No such device"}}
		got := portProblems(o)
		require.Len(t, got, 1)
		require.Equal(t, c.code, got[0].Code, c.port.Name)
		require.Contains(t, got[0].What, "No such device")
		o.Observed.Ports[c.port.Name] = ovs.ObservedPort{Port: c.port, OFPort: 1}
		require.Empty(t, portProblems(o))
	}
}
