package pipeline_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// everything returns states that have a flow of every kind between them.
func everything(t testing.TB) map[string]ovs.State {
	t.Helper()
	out := map[string]ovs.State{}
	c1 := endpoint("c1", "blue", "10.1.5.2", "fd00:10:1:5::2")
	open := endpoint("open", "blue")
	pin := topology.Pin{Network: "blue", Addr: single("10.1.5.77"), Node: "host2", MAC: "02:42:0a:01:05:4d"}
	for _, tr := range topology.Transports() {
		s := threeHosts(tr).put(pin)
		opt := pipeline.Options{Direct: direct("blue", "10.1.7.0/24", "10.1.5.77/32")}
		out[string(tr)] = pipeline.Build(s.s.View("host1"), []ovs.Endpoint{c1}, opt)
		out[string(tr)+" open"] = pipeline.Build(s.s.View("host1"), []ovs.Endpoint{c1, open}, opt)
		router := withRouter(newCluster().put(dualNode(1), dualNode(2)), tr, true)
		out[string(tr)+" router"] = pipeline.Build(
			router.s.View("host1"),
			[]ovs.Endpoint{endpoint("c1", "routed", "10.1.5.2")},
			opt,
		)
	}
	segment := threeHosts(topology.VXLAN).put(segmentSubnet("10.1.11.0/24", 1), segmentSubnet("fd00:10:1:b::/64", 1))
	out["allow"] = pipeline.Build(segment.s.View("host1"), []ovs.Endpoint{allowed(c1, "0.0.0.0/0", "10.1.5.99")},
		pipeline.Options{})
	out["segment"] = pipeline.Build(
		segment.s.View("host1"),
		[]ovs.Endpoint{c1},
		pipeline.Options{Segments: []ovs.Segment{docker0}},
	)
	return out
}

// dropTables says, for each class of drops, in which tables it is found.
func dropTables(t testing.TB) map[string]string {
	tables := map[string]map[int]bool{}
	for _, s := range everything(t) {
		for _, f := range s.Flows {
			if f.Drops() {
				if tables[f.Class] == nil {
					tables[f.Class] = map[int]bool{}
				}
				tables[f.Class][f.Table] = true
			}
		}
	}
	out := map[string]string{}
	for class, ids := range tables {
		var names []string
		for _, id := range slices.Sorted(maps.Keys(ids)) {
			names = append(names, pipeline.TableName(id))
		}
		out[class] = strings.Join(names, ", ")
	}
	return out
}

// Every flow says what it is for and from which record it is; every class of
// drops is found, and no drop is without.
func TestClasses(t *testing.T) {
	for name, s := range everything(t) {
		for _, f := range s.Flows {
			require.NotEmpty(t, f.Class, "%s: %v", name, f)
			require.Equal(t, f.Drops(), pipeline.DropReason(f) != "", "%v", f)
			if f.Drops() {
				require.Contains(t, pipeline.DropClasses(), f.Class)
			}
			if strings.Contains(f.Match, "metadata") {
				require.NotEmpty(t, f.Reason.Key, "%s: %v", name, f)
			}
		}
	}
	require.ElementsMatch(t, pipeline.DropClasses(), slices.Collect(maps.Keys(dropTables(t))))
	for _, c := range pipeline.DropClasses() {
		require.NotEmpty(t, pipeline.DropMeaning(c), "what does %q mean?", c)
	}
	require.Empty(t, pipeline.DropMeaning("nothing of the kind"))
}

// A flow names the etcd key, and the revision, that it stems from.
func TestReasons(t *testing.T) {
	c := threeHosts(
		topology.VXLAN,
	).put(topology.Pin{Network: "blue", Addr: single("10.1.5.77"), Node: "host2", MAC: "02:42:0a:01:05:4d"})
	s := pipeline.Build(c.s.View("host1"), []ovs.Endpoint{endpoint("c1", "blue", "10.1.5.2")}, pipeline.Options{})
	id := func(p string) topology.SubnetID { return topology.SubnetID{Network: "blue", Prefix: prefix(p)} }
	for match, want := range map[string]ovs.Reason{
		`in_port="vx-host2"`: {Key: "nodes/host2", Revision: c.s.Nodes["host2"].ModRevision},
		"tun_id=0x64":        {Key: "networks/blue", Revision: c.s.Networks["blue"].ModRevision},
		"metadata=0x64,ip,nw_dst=10.1.7.0/24": {
			Key: "subnets/blue/10.1.7.0-24", Revision: c.s.Subnets[id("10.1.7.0/24")].ModRevision,
		},
		"metadata=0x64,arp,arp_tpa=10.1.5.0/24": {
			Key: "subnets/blue/10.1.5.0-24", Revision: c.s.Subnets[id("10.1.5.0/24")].ModRevision,
		},
		"metadata=0x64,ipv6,ipv6_dst=fd00:10:1:9::/64": {
			Key: "subnets/blue/fd00:10:1:9::-64", Revision: c.s.Subnets[id("fd00:10:1:9::/64")].ModRevision,
		},
		"metadata=0x64,arp,arp_tpa=10.1.5.77": {
			Key: "pins/blue/10.1.5.77", Revision: c.s.SortedPins()[0].ModRevision,
		},
		`in_port="bzc1"`:                         {Key: "port bzc1"},
		"metadata=0x64,dl_dst=02:42:0a:01:05:02": {Key: "port bzc1"},
	} {
		i := slices.IndexFunc(s.Flows, func(f ovs.Flow) bool { return f.Match == match })
		require.GreaterOrEqual(t, i, 0, match)
		require.Equal(t, want, s.Flows[i].Reason, match)
		if want.Revision == 0 {
			require.True(t, strings.HasPrefix(want.Key, "port "))
		}
	}
}

// Who sends where. Tables before deliver decide on local ports; only deliver
// sends to them, and only steer, exact and replicate send into tunnels. What comes
// out of a tunnel reaches tables tunnel, routed, local and deliver: that none of
// these has an output to a tunnel is the split horizon.
func TestOnlyDeliverSends(t *testing.T) {
	for name, s := range everything(t) {
		role := map[string]string{}
		for _, p := range s.Ports {
			role[p.Name] = p.Role()
		}
		for _, f := range s.Flows {
			for a := range strings.SplitSeq(f.Actions, ",") {
				_, rest, quoted := strings.Cut(a, `"`)
				port, end, _ := strings.Cut(rest, `"`)
				tunnel := role[port] == ovs.RoleTunnel
				switch {
				case a == ovs.EgressOutput:
					require.Equal(t, pipeline.TableDeliver, f.Table)
				case a == "in_port":
					require.Contains(t, []string{"steer", "answer", "local"}, pipeline.TableName(f.Table), "%s: %v", name, f)
				case strings.HasPrefix(a, "meter:"):
					require.Contains(t, []string{"flood", "replicate"}, pipeline.TableName(f.Table), "%s: %v", name, f)
				case !quoted:
				case end == ovs.EgressEnd:
					require.False(t, tunnel, "%s: %v", name, f)
					require.Less(t, f.Table, pipeline.TableDeliver)
				case tunnel:
					require.Contains(t, []string{"steer", "exact", "replicate"}, pipeline.TableName(f.Table), "%s: %v", name, f)
				default:
					require.Equal(t, pipeline.TableDeliver, f.Table, "%s: %v", name, f)
				}
			}
			next := -1
			if _, to, ok := strings.Cut(f.Actions, "goto_table:"); ok {
				_, err := fmt.Sscan(to, &next)
				require.NoError(t, err)
				require.Greater(t, next, f.Table)
			}
			if next == pipeline.TableDeliver {
				require.Contains(t, f.Actions, ovs.EgressEnd, "%s: %v leads to deliver without a decision", name, f)
			}
		}
	}
}

// What is impossible by construction: nothing is learned, so that nothing learned can be
// stale; nothing is left to the switch's own judgement; no connection is tracked; a frame
// floods without resubmits; and no port is a device that Baize has not made, such as the
// host's uplink.
func TestNothingIsLearned(t *testing.T) {
	for name, s := range everything(t) {
		require.Equal(t, "secure", s.Bridge.FailMode)
		for _, p := range s.Ports {
			require.Contains(t, []string{ovs.RoleTunnel, ovs.RoleEndpoint, ovs.RoleSegment, ovs.RoleHost}, p.Role(), name)
			if p.Role() == ovs.RoleTunnel {
				require.NotEmpty(t, p.Options["local_ip"], "%s: the outer source is what peers expect", p.Name)
				require.NotEmpty(t, p.Options["remote_ip"])
			}
		}
		for _, f := range s.Flows {
			for _, never := range []string{"learn(", "NORMAL", "FLOOD", "ct(", "group:", "timeout"} {
				require.NotContains(t, f.Actions+f.Match, never, "%s: %v", name, f)
			}
			if pipeline.TableName(f.Table) != "local" { // an answer on the spot, to who asked
				require.NotContains(t, f.Actions, "resubmit", "%s: %v", name, f)
			}
		}
	}
}
