package vswitch_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/ovstest"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology"
)

// converge applies both changes of a difference, as the agent does, and returns
// what is there then.
func converge(t *testing.T, c *vswitch.Client, ports ...ovs.Port) ovs.Observed {
	t.Helper()
	change, stale, problems := ovs.DiffDB(ovs.State{Bridge: *bridge(), Ports: ports}, observe(t, c))
	require.Empty(t, problems)
	apply(t, c, change)
	between := observe(t, c)
	for _, p := range ports {
		require.True(t, between.Ports[p.Name].Live(), "before anything was removed: %+v", between.Ports[p.Name])
	}
	apply(t, c, stale)
	return observe(t, c)
}

// A peer that is renamed under the same address, a scheme of names that
// changes with an upgrade, and a peer that takes over another's address. Open
// vSwitch refuses a second tunnel of the same ends and key with "File exists".
func TestReplaceTunnels(t *testing.T) {
	for _, typ := range []string{"vxlan", "gre", "geneve"} {
		t.Run(typ, func(t *testing.T) {
			o := ovstest.Start(t)
			c := connect(t, o)
			ends := []string{"192.0.2.2", "192.0.2.3", "192.0.2.4"}
			make3 := func(names ...string) []ovs.Port {
				out := make([]ovs.Port, len(names))
				for i, n := range names {
					out[i] = tunnel(n, typ, ends[i])
				}
				return out
			}
			converge(t, c, make3("old-aaaa", "old-bbbb", "old-cccc")...)

			// That it has to be one transaction is no superstition.
			apply(t, c, ovs.DBChange{AddPorts: []ovs.Port{tunnel("second", typ, ends[0])}})
			require.False(t, observe(t, c).Ports["second"].Live())
			apply(t, c, ovs.DBChange{RemovePorts: []string{"second"}})

			got := converge(t, c, make3("new-a", "new-b", "new-c")...)
			require.Len(t, got.Ports, 3)

			// new-a is gone, and new-b has its address.
			b := tunnel("new-b", typ, ends[0])
			got = converge(t, c, b, tunnel("new-c", typ, ends[2]))
			require.Len(t, got.Ports, 2)
			require.Equal(t, ends[0], got.Ports["new-b"].Options["remote_ip"])

			// Two peers exchange their addresses.
			got = converge(t, c, tunnel("new-b", typ, ends[2]), tunnel("new-c", typ, ends[0]))
			require.Len(t, got.Ports, 2)
		})
	}
}

// A host port whose name changes is replaced by one of the same addresses.
func TestReplaceHostPort(t *testing.T) {
	c := connect(t, ovstest.Start(t))
	host := func(name string) ovs.Port {
		return ovs.Port{
			Name:        name,
			Type:        "internal",
			ExternalIDs: map[string]string{ovs.KeyOwner: ovs.Owner, ovs.KeyRole: ovs.RoleHost, ovs.KeyNetwork: "blue"},
		}
	}
	converge(t, c, host("bn-old"))
	got := converge(t, c, host("bn-new"))
	require.Len(t, got.Ports, 1)
	p, ok := got.HostPort("blue")
	require.True(t, ok && p.Live())
}

// Whoever replaced tunnels may not live to see what came of it, or may lose
// patience: the next one that looks has them made all the same.
func TestReplacedTunnelsAreMadeByTheNext(t *testing.T) {
	replace := ovs.DBChange{RemovePorts: []string{"old-a", "old-b"}}
	for i, name := range []string{"new-a", "new-b"} {
		replace.AddPorts = append(replace.AddPorts, tunnel(name, "vxlan", []string{"192.0.2.2", "192.0.2.3"}[i]))
	}
	begin := func(t *testing.T) *ovstest.OVS {
		t.Helper()
		o := ovstest.Start(t)
		apply(t, connect(t, o), ovs.DBChange{SetBridge: bridge(), AddPorts: []ovs.Port{
			tunnel("old-a", "vxlan", "192.0.2.2"), tunnel("old-b", "vxlan", "192.0.2.3"),
		}})
		return o
	}
	live := func(t *testing.T, c *vswitch.Client) {
		t.Helper()
		require.NoError(t, c.WaitApplied(t.Context()))
		for _, p := range replace.AddPorts {
			got := observe(t, c).Ports[p.Name]
			require.True(t, got.Live(), "%+v", got)
		}
	}
	t.Run("the one before was killed", func(t *testing.T) {
		o := begin(t)
		require.NoError(t, connect(t, o).Apply(t.Context(), replace))
		live(t, connect(t, o))
	})
	t.Run("ovs-vswitchd was late", func(t *testing.T) {
		o := begin(t)
		hasty, err := vswitch.New(vswitch.Config{Endpoint: o.Endpoint(), Bridge: "br-t", Timeout: 200 * time.Millisecond})
		require.NoError(t, err)
		t.Cleanup(hasty.Close)
		resume := o.PauseVswitchd()
		t.Cleanup(resume)
		require.NoError(t, connect(t, o).Apply(t.Context(), replace))
		require.ErrorIs(t, hasty.WaitApplied(t.Context()), topology.ErrUnavailable)
		resume()
		live(t, connect(t, o))
	})
}

// A tunnel that cannot be made costs one more look, and no more.
func TestLooksAreBounded(t *testing.T) {
	o := ovstest.Start(t)
	c := connect(t, o)
	apply(t, c, ovs.DBChange{SetBridge: bridge(), AddPorts: []ovs.Port{tunnel("a", "vxlan", "192.0.2.2")}})
	apply(t, c, ovs.DBChange{AddPorts: []ovs.Port{tunnel("b", "vxlan", "192.0.2.2")}})
	looks := func() int {
		n, err := strconv.Atoi(strings.TrimSpace(o.Vsctl("get", "open_vswitch", ".", "next_cfg")))
		require.NoError(t, err)
		return n
	}
	before := looks()
	require.NoError(t, c.WaitApplied(t.Context()))
	require.False(t, observe(t, c).Ports["b"].Live())
	require.Equal(t, before+1, looks())
	apply(t, c, ovs.DBChange{RemovePorts: []string{"b"}})
	before = looks()
	require.NoError(t, c.WaitApplied(t.Context()))
	require.Equal(t, before, looks())
}
