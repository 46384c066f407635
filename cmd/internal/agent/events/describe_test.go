package events

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/names"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

var at = time.Date(2026, 1, 2, 14, 3, 0, 0, time.UTC)

func TestAgentsStart(t *testing.T) {
	before := event.Event{Kind: event.AgentStarted, Version: "v1", Boot: "boot1"}
	for name, tc := range map[string]struct {
		ran, stopped  bool
		boot, version string
		text, cause   string
	}{
		"the first one":    {false, false, "boot1", "v1", "version v1 starts", ""},
		"restarted":        {true, true, "boot1", "v1", "version v1 starts", ""},
		"killed":           {true, false, "boot1", "v1", "version v1 starts", "the one before it ended without being told to: it was killed, or failed"},
		"upgraded":         {true, true, "boot1", "v2", "version v2 starts, version v1 ran before", "it was replaced"},
		"the host booted":  {true, false, "boot2", "v1", "version v1 starts", "the host was started anew"},
		"killed, upgraded": {true, false, "boot1", "v2", "version v2 starts, version v1 ran before", "the one before it ended without being told to: it was killed, or failed"},
	} {
		t.Run(name, func(t *testing.T) {
			got := afterEnd(before, tc.ran, tc.stopped, hub.Identity{Epoch: tc.boot}, tc.version)
			assert.Equal(t, event.Event{
				Kind: event.AgentStarted, Subject: "agent", Text: tc.text, Cause: tc.cause, Boot: tc.boot, Version: tc.version,
			}, got)
		})
	}
}

func TestOfEndpoint(t *testing.T) {
	ip := netip.MustParseAddr("10.1.5.2")
	x := ovs.Endpoint{Name: "c1", Network: "blue", IPs: []netip.Addr{ip}, MAC: topology.MACOf(ip)}
	assert.Equal(t, event.Event{
		Time: at, Kind: event.EndpointAttached, Subject: "endpoint c1", Network: "blue",
		Text: "attached: 10.1.5.2, 02:42:0a:01:05:02", Cause: "Docker",
	}, ofEndpoint(attach.Deed{At: at, Endpoint: x, What: attach.Attached, By: "Docker"}, names.Container{}))
	assert.Equal(t, event.Event{
		Time: at, Kind: event.EndpointDetached, Subject: "endpoint c1", Network: "blue", Container: "web",
		Text: "detached: 10.1.5.2, 02:42:0a:01:05:02, container web", Cause: "its namespace is gone",
	}, ofEndpoint(attach.Deed{At: at, Endpoint: x, What: attach.Detached, By: "its namespace is gone"}, names.Container{Name: "web"}))
	assert.Equal(t, "is that of container web, service shop/web, image nginx",
		named(x, names.Container{Name: "web", Service: "shop/web", Image: "nginx"}).Text)
}

func TestOfSwitch(t *testing.T) {
	flow := ovs.Flow{
		Table: 20, Priority: 300, Match: "ip", Class: "to the node of a subnet",
		Reason: ovs.Reason{Key: "subnets/blue/10.1.5.0-24", Revision: 17},
	}
	many := []string{"p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9", "p10"}
	type line struct {
		kind                 event.Kind
		subject, text, cause string
	}
	changed := func(text, cause string) line { return line{event.SwitchChanged, "Open vSwitch", text, cause} }
	repaired := func(subject, text, cause string) line { return line{event.SwitchRepaired, subject, text, cause} }
	for name, tc := range map[string]struct {
		deed openvswitch.Deed
		want []line
	}{
		"lost": {
			openvswitch.Deed{What: openvswitch.Lost, Err: errors.New("end of file")},
			[]line{{event.SwitchLost, "Open vSwitch", "ovs-vswitchd ended, or its connection did", "end of file"}},
		},
		"back": {
			openvswitch.Deed{What: openvswitch.Back},
			[]line{{event.SwitchBack, "Open vSwitch", "ovs-vswitchd answers again", ""}},
		},
		"an agent's first pass": {
			openvswitch.Deed{Changes: openvswitch.Changes{First: true, Bridge: true, AddedFlows: 12, Cause: flow.Reason}},
			[]line{changed("the bridge was made or its settings changed, 12 flows added", "the agent's start")},
		},
		"a node more": {
			openvswitch.Deed{Changes: openvswitch.Changes{AddedPorts: []string{"vx-host2"}, AddedFlows: 1, Cause: flow.Reason}},
			[]line{changed("port vx-host2 added, 1 flow added", "subnets/blue/10.1.5.0-24 at revision 17")},
		},
		"a node less": {
			openvswitch.Deed{Revision: 18, Changes: openvswitch.Changes{RemovedPorts: many, RemovedFlows: 30}},
			[]line{changed("ports p1, p2, p3, p4, p5, p6, p7, p8 and 2 more removed, 30 flows removed", "the topology at revision 18")},
		},
		"for an endpoint": {
			openvswitch.Deed{Changes: openvswitch.Changes{Own: true, AddedPorts: []string{"bz1"}, AddedFlows: 8}}, nil,
		},
		"a deleted flow": {
			openvswitch.Deed{Changes: openvswitch.Changes{Own: true, AddedFlows: 1, RepairedFlows: 1, Example: flow}},
			[]line{repaired("1 flow", "restored: table=20,priority=300,ip (to the node of a subnet)",
				"somebody removed or changed it; it stems from subnets/blue/10.1.5.0-24 at revision 17")},
		},
		"several, and a plan": {
			openvswitch.Deed{Changes: openvswitch.Changes{
				AddedFlows: 5, RepairedFlows: 3, Example: flow, Cause: flow.Reason, UpdatedPorts: []string{"a", "b"}, RepairedPorts: []string{"a"},
			}},
			[]line{
				changed("port b changed, 2 flows added", "subnets/blue/10.1.5.0-24 at revision 17"),
				repaired("port a", "restored", "somebody removed or changed it"),
				repaired("3 flows", "restored, one of them table=20,priority=300,ip (to the node of a subnet)", "somebody removed or changed them"),
			},
		},
		"ovs-vswitchd was restarted": {
			openvswitch.Deed{Changes: openvswitch.Changes{AddedFlows: 90, RepairedFlows: 90, Wiped: true, Example: flow}},
			[]line{repaired("90 flows", "restored: none was left", "ovs-vswitchd was started anew, or somebody removed all of them")},
		},
		"many ports": {
			openvswitch.Deed{Changes: openvswitch.Changes{Bridge: true, BridgeRepaired: true, AddedPorts: many, RepairedPorts: many}},
			append([]line{repaired("bridge", "restored", "somebody removed it or changed its settings")}, func() (out []line) {
				for _, p := range many[:8] {
					out = append(out, repaired("port "+p, "restored", "somebody removed or changed it"))
				}
				return append(out, repaired("2 ports", "restored", "somebody removed or changed them"))
			}()...),
		},
	} {
		t.Run(name, func(t *testing.T) {
			tc.deed.At = at
			var got []line
			for _, e := range ofSwitch(tc.deed) {
				assert.Equal(t, at, e.Time)
				got = append(got, line{e.Kind, e.Subject, e.Text, e.Cause})
			}
			assert.Equal(t, tc.want, got)
		})
	}
}

func TestFaultsOfEtcdAreQuiet(t *testing.T) {
	q := quiet{}
	etcd := fault.Fault{Code: fault.StoreUnavailable, Item: "etcd", What: "refused"}
	other := fault.Fault{Code: fault.PortDead, Item: "port a"}
	assert.Equal(t, []fault.Fault{other}, q.choose([]fault.Fault{etcd, other}, true))
	assert.Equal(t, []fault.Fault{other}, q.choose([]fault.Fault{etcd, other}, false), "one part has not noticed yet")
	assert.Equal(t, []fault.Fault{other}, q.choose([]fault.Fault{other}, false))
	assert.Equal(t, []fault.Fault{etcd}, q.choose([]fault.Fault{etcd}, false), "etcd answers, but not this part")
}
