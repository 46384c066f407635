package ovs_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

func tunnelTo(name, node, remote string) ovs.Port {
	p := own(name, "vxlan", map[string]string{"local_ip": "192.168.1.1", "remote_ip": remote, "key": "flow"})
	p.ExternalIDs[ovs.KeyNode], p.ExternalIDs[ovs.KeyEncap] = node, "vxlan"
	return p
}

func hostPort(name, network string) ovs.Port {
	return ovs.Port{
		Name:        name,
		Type:        "internal",
		ExternalIDs: map[string]string{ovs.KeyOwner: ovs.Owner, ovs.KeyRole: ovs.RoleHost, ovs.KeyNetwork: network},
	}
}

// What a port is stands in its external_ids, whatever it is called.
func TestLookup(t *testing.T) {
	o := observe(
		bridge(),
		tunnelTo("vx-a", "host2", "192.168.1.2"),
		tunnelTo("vx-b", "host3", "192.168.1.3"),
		hostPort("bn-x", "blue"),
		ovs.Port{Name: "eth7"},
	)
	host3 := ovs.TunnelID{Node: "host3", Encap: topology.VXLAN}
	p, ok := o.Tunnels()[host3]
	require.True(t, ok)
	require.Equal(t, "vx-b", p.Name)
	_, ok = o.Tunnels()[ovs.TunnelID{Node: "host3", Encap: topology.GRE}]
	require.False(t, ok)
	p, ok = o.HostPort("blue")
	require.True(t, ok)
	require.Equal(t, "bn-x", p.Name)
	_, ok = o.HostPort("red")
	require.False(t, ok)

	// Of two, the one that forwards.
	dead := ovs.ObservedPort{Port: tunnelTo("vx-0", "host3", "192.168.1.3"), OFPort: -1, Error: "File exists"}
	o.Ports["vx-0"] = dead
	require.Equal(t, "vx-b", o.Tunnels()[host3].Name)
}

// A port and its successor cannot be there at the same time.
func TestDiffDBReplaces(t *testing.T) {
	renamed := func(from, to ovs.Port, also ...ovs.Port) (change, stale ovs.DBChange) {
		change, stale, problems := ovs.DiffDB(
			ovs.State{Bridge: bridge(), Ports: []ovs.Port{to}},
			observe(bridge(), append(also, from)...),
		)
		require.Empty(t, problems)
		return change, stale
	}
	from, to := tunnelTo("vx-old", "old", "192.168.1.2"), tunnelTo("vx-new", "new", "192.168.1.2")
	other := tunnelTo("vx-gone", "gone", "192.168.1.9")
	change, stale := renamed(from, to, other)
	require.Equal(t, ovs.DBChange{AddPorts: []ovs.Port{to}, RemovePorts: []string{"vx-old"}}, change)
	require.Equal(t, ovs.DBChange{RemovePorts: []string{"vx-gone"}}, stale, "the rest is made before it is broken")

	// The usual UDP port is the same, whether it is written down or not.
	from.Options["dst_port"] = "4789"
	change, stale = renamed(from, to)
	require.Equal(t, []string{"vx-old"}, change.RemovePorts)
	require.True(t, stale.Empty())
	from.Options["dst_port"] = "8472"
	change, _ = renamed(from, to)
	require.Empty(t, change.RemovePorts)

	// A peer that is there already gets the address of one that is gone.
	before := tunnelTo("vx-new", "new", "192.168.1.3")
	delete(from.Options, "dst_port")
	change, stale = renamed(from, to, before)
	require.Equal(t, ovs.DBChange{UpdatePorts: []ovs.Port{to}, RemovePorts: []string{"vx-old"}}, change)
	require.True(t, stale.Empty())

	// Two host ports of one network would have the same addresses.
	change, _ = renamed(hostPort("bn-old", "blue"), hostPort("bn-new", "blue"))
	require.Equal(t, []string{"bn-old"}, change.RemovePorts)
}

// A refused change is tried port by port, and a port goes with its successor.
func TestSplit(t *testing.T) {
	old, gone, to := tunnelTo(
		"vx-old",
		"old",
		"192.168.1.2",
	), tunnelTo(
		"vx-gone",
		"gone",
		"192.168.1.9",
	), tunnelTo(
		"vx-new",
		"new",
		"192.168.1.2",
	)
	more, up := tunnelTo("vx-3", "host3", "192.168.1.3"), tunnelTo("vx-4", "host4", "192.168.1.4")
	set := bridge()
	c := ovs.DBChange{
		SetBridge:   &set,
		AddPorts:    []ovs.Port{more, to},
		UpdatePorts: []ovs.Port{up},
		RemovePorts: []string{"vx-gone", "vx-old"},
	}
	require.Equal(t, []ovs.DBChange{
		{
			SetBridge: &set,
		}, {AddPorts: []ovs.Port{more}}, {AddPorts: []ovs.Port{to}, RemovePorts: []string{"vx-old"}}, {UpdatePorts: []ovs.Port{up}}, {RemovePorts: []string{"vx-gone"}},
	}, c.Split(observe(bridge(), old, gone)))
}
