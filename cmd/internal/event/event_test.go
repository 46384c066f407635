package event_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

var (
	blue = topology.Network{
		Name: "blue", IPv4: netip.MustParsePrefix("10.1.0.0/16"), VNI: 100, Transport: topology.VXLAN, MTU: 1450,
		SubnetLenIPv4: 24,
	}
	host2 = topology.Node{
		Name: "host2", ID: "two", VTEPs: []netip.Addr{netip.MustParseAddr("192.0.2.2")}, Version: "v1", Epoch: "boot1",
	}
	lease = topology.Subnet{Network: "blue", Prefix: netip.MustParsePrefix("10.1.5.0/24"), Node: "host2"}
	pin   = topology.Pin{
		Network: "blue", Addr: netip.MustParseAddr("10.1.9.9"), Node: "host2", MAC: "02:42:0a:01:09:09", Endpoint: "db",
	}
	alive = topology.Liveness{Node: "host2", ID: "two"}
)

// history makes snapshots of puts and deletes, one after the other.
type history struct {
	snapshot *topology.Snapshot
}

func newHistory() *history { return &history{topology.NewSnapshot(1, nil)} }

func (h *history) put(records ...topology.Record) *history {
	var kvs []topology.KV
	revision := h.snapshot.Revision
	for _, r := range records {
		revision++
		kvs = append(kvs, topology.KV{
			Key: r.Key(), Value: topology.Encode(r), Meta: topology.Meta{CreateRevision: revision, ModRevision: revision},
		})
	}
	h.snapshot = h.snapshot.With(revision, kvs, nil)
	return h
}

func (h *history) delete(records ...topology.Record) *history {
	var keys []string
	for _, r := range records {
		keys = append(keys, r.Key())
	}
	h.snapshot = h.snapshot.With(h.snapshot.Revision+1, nil, keys)
	return h
}

func TestTopology(t *testing.T) {
	changed := func(f func(n *topology.Network, x *topology.Node, s *topology.Subnet, p *topology.Pin)) []topology.Record {
		n, x, s, p := blue, host2, lease, pin
		f(&n, &x, &s, &p)
		return []topology.Record{n, x, s, p}
	}
	all := []topology.Record{blue, host2, lease, pin, alive}
	for name, tc := range map[string]struct {
		before func(h *history)
		after  func(h *history)
		want   []event.Event
	}{
		"all is new": {
			after: func(h *history) { h.put(all...) },
			want: []event.Event{
				{
					Kind: event.NetworkCreated, Subject: "network blue", Network: "blue", Revision: 2,
					Text: "created: 10.1.0.0/16, VNI 100, vxlan, MTU 1450", Cause: "networks/blue at revision 2",
				},
				{
					Kind: event.NodeJoined, Subject: "node host2", Revision: 3, Text: "joined, VTEP 192.0.2.2",
					Cause: "nodes/host2 at revision 3",
				},
				{
					Kind: event.SubnetLeased, Subject: "subnet 10.1.5.0/24", Network: "blue", Revision: 4,
					Text: "leased by node host2", Cause: "subnets/blue/10.1.5.0-24 at revision 4",
				},
				{
					Kind: event.PinCreated, Subject: "pin 10.1.9.9", Network: "blue", Revision: 5,
					Text: "lives on node host2, MAC 02:42:0a:01:09:09, endpoint db", Cause: "pins/blue/10.1.9.9 at revision 5",
				},
				{
					Kind: event.NodeBack, Subject: "node host2", Revision: 6, Text: "its agent is alive",
					Cause: "alive/host2 at revision 6",
				},
			},
		},
		"all goes": {
			before: func(h *history) { h.put(all...) },
			after:  func(h *history) { h.delete(all...) },
			want: []event.Event{
				{
					Kind: event.NetworkDeleted, Subject: "network blue", Network: "blue", Revision: 7, Text: "deleted",
					Cause: "networks/blue deleted, by revision 7",
				},
				{
					Kind: event.NodeLeft, Subject: "node host2", Revision: 7, Text: "removed from the topology",
					Cause: "nodes/host2 deleted, by revision 7",
				},
				{
					Kind: event.NodeLost, Subject: "node host2", Revision: 7,
					Text:  "its agent is not alive any more; its forwarding may go on",
					Cause: "alive/host2 deleted, by revision 7",
				},
				{
					Kind: event.PinRemoved, Subject: "pin 10.1.9.9", Network: "blue", Revision: 7,
					Text: "not pinned to node host2 any more", Cause: "pins/blue/10.1.9.9 deleted, by revision 7",
				},
				{
					Kind: event.SubnetReleased, Subject: "subnet 10.1.5.0/24", Network: "blue", Revision: 7,
					Text: "not leased by node host2 any more", Cause: "subnets/blue/10.1.5.0-24 deleted, by revision 7",
				},
			},
		},
		"all changes": {
			before: func(h *history) { h.put(all...) },
			after: func(h *history) {
				h.put(changed(func(n *topology.Network, x *topology.Node, s *topology.Subnet, p *topology.Pin) {
					n.MTU, n.GatewayIPv4 = 1400, netip.MustParseAddr("10.1.0.1")
					x.VTEPs, x.Version, x.Epoch, x.ID = []netip.Addr{netip.MustParseAddr("192.0.2.9")}, "v2", "boot2", "three"
					s.Node, s.Reserved = "host3", true
					p.Node = "host3"
				})...)
			},
			want: []event.Event{
				{
					Kind: event.NetworkChanged, Subject: "network blue", Network: "blue", Revision: 7,
					Text: "MTU 1450 → 1400, IPv4 gateway none → 10.1.0.1", Cause: "networks/blue at revision 7",
				},
				{
					Kind: event.NodeChanged, Subject: "node host2", Revision: 8, Cause: "nodes/host2 at revision 8",
					Text: "the host was started anew, it is another installation now, VTEP 192.0.2.2 → 192.0.2.9, version v1 → v2",
				},
				{
					Kind: event.SubnetChanged, Subject: "subnet 10.1.5.0/24", Network: "blue", Revision: 9,
					Text: "owner node host2 → node host3, reserved no → yes", Cause: "subnets/blue/10.1.5.0-24 at revision 9",
				},
				{
					Kind: event.PinMoved, Subject: "pin 10.1.9.9", Network: "blue", Revision: 10, Text: "node host2 → host3",
					Cause: "pins/blue/10.1.9.9 at revision 10",
				},
			},
		},
		"a network is marked for deletion": {
			before: func(h *history) { h.put(blue) },
			after: func(h *history) {
				n := blue
				n.Deleting = topology.DeleteUnused
				h.put(n)
			},
			want: []event.Event{{
				Kind: event.NetworkDeleting, Subject: "network blue", Network: "blue", Revision: 3,
				Text: "is being deleted, when unused", Cause: "networks/blue at revision 3",
			}},
		},
		"the deletion is cancelled": {
			before: func(h *history) {
				n := blue
				n.Deleting = topology.DeleteNow
				h.put(n)
			},
			after: func(h *history) { h.put(blue) },
			want: []event.Event{{
				Kind: event.NetworkKept, Subject: "network blue", Network: "blue", Revision: 3,
				Text: "its deletion was cancelled", Cause: "networks/blue at revision 3",
			}},
		},
		"one that is new and already marked": {
			after: func(h *history) {
				n := blue
				n.Deleting = topology.DeleteNow
				h.put(n)
			},
			want: []event.Event{
				{
					Kind: event.NetworkCreated, Subject: "network blue", Network: "blue", Revision: 2,
					Text: "created: 10.1.0.0/16, VNI 100, vxlan, MTU 1450", Cause: "networks/blue at revision 2",
				},
				{
					Kind: event.NetworkDeleting, Subject: "network blue", Network: "blue", Revision: 2,
					Text: "is being deleted, now", Cause: "networks/blue at revision 2",
				},
			},
		},
		"written again as it was": {
			before: func(h *history) { h.put(all...) },
			after:  func(h *history) { h.put(all...) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory()
			if tc.before != nil {
				tc.before(h)
			}
			before := h.snapshot
			tc.after(h)
			assert.Equal(t, tc.want, event.Topology(before, h.snapshot, true))
		})
	}
	h := newHistory().put(all...)
	assert.Empty(t, event.Topology(nil, h.snapshot, true), "nothing to compare with")
	assert.Empty(t, event.Topology(h.snapshot, h.snapshot, true))
	for _, e := range event.Topology(newHistory().snapshot, h.snapshot, false) {
		assert.NotEqual(t, event.NodeBack, e.Kind, "a topology kept on disk has no liveness")
	}
}

func TestFaults(t *testing.T) {
	at := time.Date(2026, 1, 2, 14, 3, 0, 0, time.UTC)
	dead := fault.Fault{Code: fault.PortDead, Item: "port vx-host2", What: "no number", Remedy: "look", Since: at}
	other := dead
	other.What = "another message"
	found := event.Event{
		Kind: event.FaultFound, Code: fault.PortDead, Subject: "port vx-host2", Text: "no number (look)", Time: at,
	}
	gone := event.Event{
		Kind: event.FaultGone, Code: fault.PortDead, Subject: "port vx-host2", Text: "no longer: no number",
	}
	assert.Equal(t, []event.Event{found}, event.Faults(nil, []fault.Fault{dead}))
	assert.Empty(t, event.Faults([]fault.Fault{dead}, []fault.Fault{other}), "it says something else, and is the same")
	assert.Equal(t, []event.Event{gone}, event.Faults([]fault.Fault{dead}, nil))
	assert.Equal(t, []event.Event{found}, event.Faults(nil, []fault.Fault{dead, other}), "once")
	unprintable := fault.Fault{Item: "key", What: "a\x1b[31mb"}
	assert.Equal(t, "a [31mb", event.Faults(nil, []fault.Fault{unprintable})[0].Text)
}

func TestQuery(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 1, 2, 14, minute, 0, 0, time.UTC) }
	events := []event.Event{
		{ID: 1, Time: at(0), Kind: event.EndpointAttached, Subject: "endpoint 4f2a", Network: "blue"},
		{ID: 2, Time: at(1), Kind: event.EndpointNamed, Subject: "endpoint 4f2a", Network: "blue", Container: "web"},
		{ID: 3, Time: at(2), Kind: event.FaultFound, Subject: "port vx-Host2"},
		{ID: 4, Time: at(3), Kind: event.EndpointAttached, Subject: "endpoint c1", Network: "red"},
		{ID: 5, Time: at(4), Kind: event.FaultGone, Subject: "port vx-Host2"},
	}
	for name, tc := range map[string]struct {
		q    event.Query
		want []int64
	}{
		"all":                                  {event.Query{}, []int64{1, 2, 3, 4, 5}},
		"since":                                {event.Query{Since: at(3)}, []int64{4, 5}},
		"until":                                {event.Query{Until: at(1)}, []int64{1, 2}},
		"after":                                {event.Query{After: 4}, []int64{5}},
		"a kind":                               {event.Query{Kinds: []string{"fault-gone"}}, []int64{5}},
		"kinds":                                {event.Query{Kinds: []string{"fault-*", "endpoint-named"}}, []int64{2, 3, 5}},
		"subject, any case":                    {event.Query{Subject: "host2"}, []int64{3, 5}},
		"network":                              {event.Query{Network: "red"}, []int64{4}},
		"endpoint":                             {event.Query{Endpoint: "c1"}, []int64{4}},
		"part of an endpoint":                  {event.Query{Endpoint: "c"}, nil},
		"container, before its name was known": {event.Query{Endpoint: "web"}, []int64{1, 2}},
		"container, the naming before since":   {event.Query{Endpoint: "web", Since: at(4)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []int64
			for _, e := range tc.q.Choose(events) {
				got = append(got, e.ID)
			}
			assert.Equal(t, tc.want, got)
		})
	}
}

// docs/events.md has the table of the kinds.
func TestKindsAreAllDescribed(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "events.md"))
	require.NoError(t, err)
	var table strings.Builder
	for _, m := range event.Kinds() {
		fmt.Fprintf(&table, "| `%s` | %s |\n", m.Kind, m.Means)
	}
	assert.Contains(t, string(page), "| kind | what it says |\n|---|---|\n"+table.String()+"\n")
	seen := map[event.Kind]bool{}
	for _, m := range event.Kinds() {
		assert.NotEmpty(t, m.Means, m.Kind)
		assert.False(t, seen[m.Kind], "%s twice", m.Kind)
		seen[m.Kind] = true
	}
	require.NotEmpty(t, seen)
}
