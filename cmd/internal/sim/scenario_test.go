package sim_test

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/sim"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdfake"
	"github.com/baize-net/baize/topology/fault"
)

// The histories of this file are written by hand: each is a way in which a node
// or a network was lost once.

// world starts n hosts with one network, and an endpoint on each.
func world(t *testing.T, n int) *sim.World {
	t.Helper()
	w := sim.New(t, 1, n)
	require.NoError(t, w.CreateNetwork("blue"))
	w.StartAll()
	for _, n := range w.Nodes {
		require.NoError(t, n.Add("blue", "c-"+n.Name))
	}
	w.Settle()
	return w
}

func scenario(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// everywhere requires that every node reports a fault, or that none does.
func everywhere(t *testing.T, w *sim.World, code fault.Code, has bool) {
	t.Helper()
	for _, n := range w.Nodes {
		require.Equal(t, has, n.HasFault(code), "%s: %s: %v", n.Name, code, n.Faults())
	}
}

// key returns a record's key in etcd.
func key(rel string) string { return topology.DefaultPrefix + "/" + rel }

// Whatever carries a network's packets, a switch and a kernel that were emptied are
// filled again, and nothing is written after that.
func TestTransports(t *testing.T) {
	for _, transport := range topology.Transports() {
		scenario(t, string(transport), func(t *testing.T) {
			w := sim.New(t, 1, 3)
			require.NoError(t, w.CreateNetworkOf("blue", transport))
			w.StartAll()
			for _, n := range w.Nodes {
				require.NoError(t, n.Add("blue", "c-"+n.Name))
			}
			w.Settle()
			require.Empty(t, w.CheckForwarding())
			// Longer than between any two looks of an agent; at the end an hour.
			require.Empty(t, w.CheckSilence(15*time.Minute))

			w.Partition(w.Nodes[0], w.Nodes[1])
			require.Len(t, w.CheckForwarding(), 2*lost(transport), "both ways")
			w.Heal()

			w.Nodes[0].Switch.Wipe()
			w.Nodes[1].Switch.StopVswitchd()
			w.Pass(10 * time.Second)
			w.Nodes[1].Switch.StartVswitchd()
			w.Nodes[2].Kill()
			w.Nodes[2].Switch.DelBridge()
			w.Nodes[2].Start()
			w.Settle()
			require.Empty(t, w.CheckForwarding())
			for _, n := range w.Nodes {
				require.Empty(t, n.Faults(), n.Name)
			}
			require.Empty(t, w.CheckSilence(time.Hour))
		})
	}
}

// lost is how many of the checks between two endpoints fail where no packet passes
// between their hosts.
func lost(transport topology.Transport) int {
	if transport == topology.Route {
		return 1 // IPv4 alone, and questions are answered on the spot
	}
	return 2 // one for each family: who gets no answer sends no packet
}

// A disk is copied, and both machines run.
func TestClonedMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, 3)
		c := w.Nodes[0].Clone(77)
		c.Start()
		w.Pass(2 * time.Minute)
		require.ErrorIs(t, c.Ended(), topology.ErrConflict)
		require.Equal(t, fault.NodeDuplicate, fault.Of(c.Ended()).Code)
		require.Contains(t, c.Ended().Error(), "host1-copy")
		w.Nodes = w.Nodes[:3]
		require.Empty(t, w.Check(), "the one that was there first is not affected")
		require.Empty(t, w.CheckSilence(time.Hour))
	})
}

// The topology vanishes: forwarding goes on with what was known last, an
// agent that starts then does not forget it, and it is reported.
func TestTopologyVanishes(t *testing.T) {
	for name, harm := range map[string]func(*sim.World){
		"etcd emptied": func(w *sim.World) { w.Etcd.Restore(etcdfake.Backup{}, true, nil) },
		"deleted":      func(w *sim.World) { w.Etcd.Delete(key("networks/blue"), false) },
		"undecodable":  func(w *sim.World) { w.Etcd.Put(key("networks/blue"), `{"vni": 100, "ipv4": "10.1.0.0/`) },
	} {
		scenario(t, name, func(t *testing.T) {
			w := world(t, 3)
			harm(w)
			w.Pass(time.Minute)
			require.Empty(t, w.CheckForwarding())
			everywhere(t, w, fault.RecordVanished, true)
			for _, n := range w.Nodes {
				n.Kill()
				n.Switch.StopVswitchd() // with its flows
				n.Switch.StartVswitchd()
				n.Start()
				w.Pass(time.Minute)
				require.NoError(t, n.Ended())
				require.Empty(t, w.CheckForwarding(), "after the restart of %s", n.Name)
				everywhere(t, w, fault.RecordVanished, true)
			}
		})
	}
}

// What vanished is put back record by record, as a person does it with a backup: at no moment
// is a packet lost.
func TestTopologyPutBack(t *testing.T) {
	for name, order := range map[string][]string{
		"networks first": {"networks/", "nodes/", "subnets/", "pins/"}, "networks last": {"nodes/", "subnets/", "pins/", "networks/"},
		"networks, and nothing else": {"networks/"},
	} {
		scenario(t, name, func(t *testing.T) {
			w := world(t, 3)
			require.NoError(t, w.Nodes[0].Add("blue", "pinned", netip.MustParseAddr("10.1.250.9")))
			w.Settle()
			backup := w.Etcd.Keys(topology.DefaultPrefix)
			w.Etcd.Delete(topology.DefaultPrefix, true)
			w.Pass(5 * time.Second)
			w.Settle()
			for _, kind := range order {
				for k, value := range backup {
					if !strings.HasPrefix(k, key(kind)) {
						continue
					}
					if _, there := w.Etcd.Keys(topology.DefaultPrefix)[k]; !there {
						w.Etcd.Put(k, value)
					}
					for range 100 {
						w.Pass(500 * time.Microsecond) // an agent has its lease again within five milliseconds
						require.Empty(t, w.CheckForwarding(), k)
					}
				}
			}
			for range 400 {
				w.Pass(100 * time.Millisecond)
				require.Empty(t, w.CheckForwarding())
			}
			everywhere(t, w, fault.RecordVanished, false)
			require.Equal(t, backup[key("subnets/blue/10.1.153.0-24")], w.Etcd.Keys(topology.DefaultPrefix)[key("subnets/blue/10.1.153.0-24")])
			require.Contains(t, w.Snapshot().Pins, topology.PinID{Network: "blue", Addr: netip.MustParseAddr("10.1.250.9")})
			require.Empty(t, w.CheckSilence(time.Hour))
		})
	}
}

// What is gone from the switch comes back, the endpoints with it, and their
// pins stay.
func TestSwitchEmptied(t *testing.T) {
	for name, harm := range map[string]func(*sim.Node){
		"del-port": func(n *sim.Node) { n.Switch.DelPort(n.Wanted["blue/c-host1"].Port) },
		"del-br":   func(n *sim.Node) { n.Switch.DelBridge() },
		"wiped":    func(n *sim.Node) { n.Switch.Wipe() },
		"wiped while no agent ran": func(n *sim.Node) {
			n.Kill()
			n.Switch.Wipe()
			n.Start()
		},
		"vswitchd restarted": func(n *sim.Node) {
			n.Switch.StopVswitchd()
			time.Sleep(time.Second)
			n.Switch.StartVswitchd()
		},
	} {
		scenario(t, name, func(t *testing.T) {
			w := world(t, 3)
			n := w.Nodes[0]
			require.NoError(t, n.Add("blue", "pinned", netip.MustParseAddr("10.1.250.9")))
			w.Settle()
			pins := w.Snapshot().Pins
			require.Len(t, pins, 1)
			harm(n)
			w.Settle()
			require.Len(t, n.Wanted, 2)
			require.Equal(t, pins, w.Snapshot().Pins)
			require.Empty(t, w.CheckSilence(time.Hour))
		})
	}
}

// Etcd answers but refuses writes: nothing changes for those who run, and
// an agent that starts forwards, and attaches endpoints.
func TestEtcdFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, 3)
		w.Etcd.SetNoSpace(true)
		w.Pass(time.Minute)
		require.Empty(t, w.Check())
		n := w.Nodes[0]
		n.Kill()
		n.Switch.StopVswitchd()
		n.Switch.StartVswitchd()
		n.Start()
		w.Pass(30 * time.Second)
		require.Empty(t, w.Check())
		require.NoError(t, n.Add("blue", "new"))
		require.Empty(t, w.Check())
		require.True(t, n.HasFault(fault.StoreFull))
		w.Etcd.SetNoSpace(false)
		w.Settle()
		w.Pass(time.Minute)
		everywhere(t, w, fault.StoreFull, false)
	})
}

// Two peers whose names begin alike, and collide when they are cut to
// the length of a port's name.
func TestNamesCollide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sim.New(t, 1, 1)
		w.AddNode("ip-172-31-28-53")
		w.AddNode("ip-172-31-29-47")
		require.NoError(t, w.CreateNetwork("blue"))
		for _, n := range w.Nodes {
			n.Start()
		}
		w.Pass(time.Minute)
		for _, n := range w.Nodes {
			require.NoError(t, n.Add("blue", "c"))
		}
		w.Pass(time.Minute)
		require.Empty(t, w.Check())
	})
}

// One pin with a MAC that Open vSwitch cannot read.
func TestPinWithBadMAC(t *testing.T) {
	for _, mac := range []string{"02-42-0a-01-c8-01", "0242.0a01.c801", "bogus"} {
		scenario(t, mac, func(t *testing.T) {
			w := world(t, 3)
			w.Etcd.Put(key("pins/blue/10.1.200.1"), `{"node":"host2","mac":"`+mac+`"}`)
			w.Pass(time.Second)
			// Whoever starts now has to install every flow.
			w.Nodes[0].Switch.StopVswitchd()
			w.Nodes[0].Switch.StartVswitchd()
			require.NoError(t, w.Nodes[0].Add("blue", "new"))
			w.Settle()
		})
	}
}

// An agent was stopped, and another machine comes under its name.
func TestNameOfAStoppedAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, 3)
		n := w.Nodes[0]
		n.Stop()
		other := w.AddNode("host1")
		other.ID, other.Hostname = "id-other", "other"
		other.Start()
		w.Pass(time.Minute)
		require.Equal(t, fault.NodeOwned, fault.Of(other.Ended()).Code)
		require.ErrorContains(t, other.Ended(), "baize node hand-over host1")
		w.Nodes = w.Nodes[:3]
		n.Start()
		w.Settle()
		require.Len(t, n.Wanted, 1)

		// The machine is gone, and this one takes its place.
		n.Stop()
		subnets := w.Snapshot().NodeSubnets("blue", "host1")
		require.NoError(t, w.Operator.HandOverNode(t.Context(), "host1", ""))
		n.Switch.Wipe()
		w.Nodes[0] = other
		other.Start()
		w.Settle()
		require.NoError(t, other.Add("blue", "c"))
		w.Settle()
		require.Equal(t, prefixes(subnets), prefixes(w.Snapshot().NodeSubnets("blue", "host1")))
	})
}

func prefixes(subnets []topology.Subnet) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range subnets {
		out = append(out, s.Prefix)
	}
	return out
}

// Etcd is restored from an old backup and written past what the agents saw.
func TestRestoredAndWrittenPast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, 3)
		backup := w.Etcd.Backup()
		require.NoError(t, w.CreateNetwork("later"))
		w.Settle()
		w.Pass(time.Minute)
		w.Etcd.Restore(backup, false, func(put func(string, string)) {
			for range 100 {
				put("/somebody/else", "x")
			}
		})
		w.Pass(10 * time.Second)
		for _, n := range w.Nodes {
			require.NotContains(t, n.Agent().Hub().Topology().Get().Snapshot.Networks, "later", n.Name)
		}
		w.Settle()
	})
}

// What fails in the kernel costs no endpoint, and no flow.
func TestKernelFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, 3)
		for _, n := range w.Nodes {
			n.FailKernel(true)
		}
		w.Pass(time.Minute)
		everywhere(t, w, fault.KernelUnavailable, true)
		for _, n := range w.Nodes {
			require.NoError(t, n.Add("blue", "new"))
		}
		n := w.Nodes[0]
		n.Kill()
		n.Switch.Wipe()
		n.Start()
		w.Settle()
		w.Pass(time.Minute)
		everywhere(t, w, fault.KernelUnavailable, true)
		for _, n := range w.Nodes {
			n.FailKernel(false)
		}
		w.Pass(2 * time.Minute)
		everywhere(t, w, fault.KernelUnavailable, false)
		require.Empty(t, w.Check())
	})
}

// An address that was promised to an engine is not given to another
// endpoint after a restart of the agent.
func TestPromisedAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, 2)
		n := w.Nodes[0]
		promised, err := n.Attach().Reserve(t.Context(), attach.Reservation{Network: "blue", Family: topology.IPv4})
		require.NoError(t, err)
		n.Kill()
		n.Start()
		w.Pass(10 * time.Second)
		require.NoError(t, n.Add("blue", "next"))
		require.NotContains(t, n.Wanted["blue/next"].IPs, promised)
		_, err = n.Agent().AddEndpoint(t.Context(), api.EndpointRequest{
			Name: "thief", Network: "blue", Netns: "/run/netns/thief", IPs: []netip.Addr{promised},
		})
		require.ErrorIs(t, err, topology.ErrConflict)
	})
}

// A node gets another name and keeps its address.
func TestRenamedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, 3)
		n := w.Nodes[2]
		n.Stop()
		w.Pass(time.Minute)
		n.Name, n.ID = "renamed", "id-renamed"
		n.Start()
		w.Pass(10 * time.Second)
		_, err := w.Operator.RemoveNode(t.Context(), "host3", false)
		require.NoError(t, err)
		w.Pass(time.Minute)
		require.Empty(t, w.Check())
	})
}

// A node gets another address in the underlay: its peers send there within a second,
// and nobody else is started again.
func TestNodeMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, 3)
		for _, n := range w.Nodes {
			require.NoError(t, n.Add("blue", "c"))
		}
		w.Pass(5 * time.Second)
		require.Empty(t, w.Check())
		n := w.Nodes[2]
		n.Kill()
		n.VTEP = netip.MustParseAddr("192.168.77.133")
		n.Start()
		for begin := time.Now(); w.Snapshot().Nodes[n.Name].VTEPs[0] != n.VTEP; {
			w.Pass(10 * time.Millisecond)
			require.Less(t, time.Since(begin), time.Minute)
		}
		w.Pass(time.Second)
		require.Empty(t, w.Check())
		for _, peer := range w.Nodes[:2] {
			var remotes []string
			for _, p := range peer.Switch.Ports {
				if p.Role() == ovs.RoleTunnel {
					remotes = append(remotes, p.Options["remote_ip"])
				}
			}
			require.Contains(t, remotes, n.VTEP.String())
			require.Len(t, remotes, 2, "the old tunnel is gone")
		}
	})
}
