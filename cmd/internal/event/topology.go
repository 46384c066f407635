package event

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
)

// Topology returns what happened between two snapshots, in the order of etcd's
// revisions: networks, nodes, subnets, pins, liveness. What came and went between the
// two is not seen. Time and Node are left open. Either may be nil: then there is
// nothing to compare. alive says whether liveness is compared: a snapshot that was
// kept on disk has none.
func Topology(before, after *topology.Snapshot, alive bool) []Event {
	if before == nil || after == nil || before == after {
		return nil
	}
	d := differ{after: after}
	compare(before.Networks, after.Networks, func(r topology.Network) int64 { return r.ModRevision }, d.network)
	compare(before.Nodes, after.Nodes, func(r topology.Node) int64 { return r.ModRevision }, d.node)
	compare(before.Subnets, after.Subnets, func(r topology.Subnet) int64 { return r.ModRevision }, d.subnet)
	compare(before.Pins, after.Pins, func(r topology.Pin) int64 { return r.ModRevision }, d.pin)
	if alive {
		compare(before.Alive, after.Alive, func(r topology.Liveness) int64 { return r.ModRevision }, d.liveness)
	}
	slices.SortStableFunc(d.events, func(a, b Event) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Subject, b.Subject))
	})
	return d.events
}

type differ struct {
	after  *topology.Snapshot
	events []Event
}

// compare calls f with each value that is new, gone (is is nil) or of another revision.
// Maps that are one are not looked at: a snapshot shares them with that before it.
func compare[K comparable, V any](before, after map[K]V, revision func(V) int64, f func(was, is *V)) {
	if reflect.ValueOf(before).Pointer() == reflect.ValueOf(after).Pointer() {
		return
	}
	for k, is := range after {
		was, there := before[k]
		if there && revision(was) == revision(is) {
			continue
		}
		if there {
			f(&was, &is)
		} else {
			f(nil, &is)
		}
	}
	for k, was := range before {
		if _, there := after[k]; !there {
			f(&was, nil)
		}
	}
}

// put adds an event of a record that is there.
func (d *differ) put(r topology.Record, revision int64, e Event) {
	e.Revision = revision
	e.Cause = record(r.Key(), e.Revision)
	d.events = append(d.events, e)
}

// gone adds an event of a record that is not there any more. etcd does not say at
// which revision it went: it is that of the snapshot at the latest.
func (d *differ) gone(r topology.Record, e Event) {
	e.Revision = d.after.Revision
	e.Cause = fmt.Sprintf("%s deleted, by revision %d", r.Key(), e.Revision)
	d.events = append(d.events, e)
}

func (d *differ) network(was, is *topology.Network) {
	switch {
	case was == nil:
		prefixes := make([]string, 0, 2)
		for _, p := range is.Prefixes() {
			prefixes = append(prefixes, p.String())
		}
		d.put(*is, is.ModRevision, Event{
			Kind: NetworkCreated, Subject: "network " + is.Name, Network: is.Name,
			Text: fmt.Sprintf("created: %s, VNI %d, %s, MTU %d", strings.Join(prefixes, ", "), is.VNI, is.Transport, is.MTU),
		})
		if is.Deleting != "" {
			d.deletion(*is)
		}
	case is != nil && was.Deleting != is.Deleting:
		d.deletion(*is)
	case is == nil:
		d.gone(*was, Event{
			Kind: NetworkDeleted, Subject: "network " + was.Name, Network: was.Name, Text: "deleted",
		})
	default:
		text := changes([]change{
			{"IPv4", was.IPv4, is.IPv4},
			{"IPv6", was.IPv6, is.IPv6},
			{"VNI", was.VNI, is.VNI},
			{"transport", was.Transport, is.Transport},
			{"MTU", was.MTU, is.MTU},
			{"IPv4 gateway", was.GatewayIPv4, is.GatewayIPv4},
			{"IPv6 gateway", was.GatewayIPv6, is.GatewayIPv6},
			{"IPv4 subnet length", was.SubnetLenIPv4, is.SubnetLenIPv4},
			{"IPv6 subnet length", was.SubnetLenIPv6, is.SubnetLenIPv6},
			{"router", was.Router, is.Router},
		})
		if text != "" {
			d.put(*is, is.ModRevision, Event{Kind: NetworkChanged, Subject: "network " + is.Name, Network: is.Name, Text: text})
		}
	}
}

// deletion tells that a network was marked for deletion, or is not any more.
func (d *differ) deletion(n topology.Network) {
	e := Event{
		Kind: NetworkDeleting, Subject: "network " + n.Name, Network: n.Name,
		Text: "is being deleted, " + strings.ReplaceAll(string(n.Deleting), "-", " "),
	}
	if n.Deleting == "" {
		e.Kind, e.Text = NetworkKept, "its deletion was cancelled"
	}
	d.put(n, n.ModRevision, e)
}

func (d *differ) node(was, is *topology.Node) {
	switch {
	case was == nil:
		text := "joined"
		if len(is.VTEPs) > 0 {
			text += ", VTEP " + words(is.VTEPs)
		}
		d.put(*is, is.ModRevision, Event{Kind: NodeJoined, Subject: "node " + is.Name, Text: text})
	case is == nil:
		d.gone(*was, Event{Kind: NodeLeft, Subject: "node " + was.Name, Text: "removed from the topology"})
	default:
		text := changes([]change{
			{"VTEP", words(was.VTEPs), words(is.VTEPs)},
			{"VTEP's MAC", was.VTEPMAC, is.VTEPMAC},
			{"underlay MTU", was.UnderlayMTU, is.UnderlayMTU},
			{"encapsulations", words(was.Encapsulations), words(is.Encapsulations)},
			{"datapath", was.Datapath, is.Datapath},
			{"version", was.Version, is.Version},
			{"host name", was.Hostname, is.Hostname},
		})
		if was.ID != is.ID {
			text = join("it is another installation now", text)
		}
		if was.Epoch != is.Epoch {
			text = join("the host was started anew", text)
		}
		if text != "" {
			d.put(*is, is.ModRevision, Event{Kind: NodeChanged, Subject: "node " + is.Name, Text: text})
		}
	}
}

func (d *differ) liveness(was, is *topology.Liveness) {
	switch {
	case was == nil:
		d.put(*is, is.ModRevision, Event{Kind: NodeBack, Subject: "node " + is.Node, Text: "its agent is alive"})
	case is == nil:
		d.gone(*was, Event{
			Kind: NodeLost, Subject: "node " + was.Node, Text: "its agent is not alive any more; its forwarding may go on",
		})
	}
}

func (d *differ) subnet(was, is *topology.Subnet) {
	of := func(s *topology.Subnet) Event {
		return Event{Subject: "subnet " + s.Prefix.String(), Network: s.Network}
	}
	switch {
	case was == nil:
		e := of(is)
		e.Kind, e.Text = SubnetLeased, "leased by "+owner(*is)
		if is.Reserved {
			e.Text = "reserved for " + owner(*is)
		}
		d.put(*is, is.ModRevision, e)
	case is == nil:
		e := of(was)
		e.Kind, e.Text = SubnetReleased, "not leased by "+owner(*was)+" any more"
		d.gone(*was, e)
	default:
		text := changes([]change{
			{"owner", owner(*was), owner(*is)},
			{"reserved", was.Reserved, is.Reserved},
			{"segment", was.Segment, is.Segment},
			{"used by", strings.Join(was.UsedBy, ", "), strings.Join(is.UsedBy, ", ")},
		})
		if text != "" {
			e := of(is)
			e.Kind, e.Text = SubnetChanged, text
			d.put(*is, is.ModRevision, e)
		}
	}
}

func (d *differ) pin(was, is *topology.Pin) {
	of := func(p *topology.Pin) Event { return Event{Subject: "pin " + p.Addr.String(), Network: p.Network} }
	switch {
	case was == nil:
		e := of(is)
		e.Kind, e.Text = PinCreated, "lives on node "+is.Node+", MAC "+is.MAC
		if is.Endpoint != "" {
			e.Text += ", endpoint " + is.Endpoint
		}
		d.put(*is, is.ModRevision, e)
	case is == nil:
		e := of(was)
		e.Kind, e.Text = PinRemoved, "not pinned to node "+was.Node+" any more"
		d.gone(*was, e)
	default:
		text := changes([]change{
			{"node", was.Node, is.Node}, {"MAC", was.MAC, is.MAC}, {"endpoint", was.Endpoint, is.Endpoint},
			{"unconfirmed", was.Unconfirmed, is.Unconfirmed},
		})
		if text != "" {
			e := of(is)
			e.Kind, e.Text = PinMoved, text
			d.put(*is, is.ModRevision, e)
		}
	}
}

func owner(s topology.Subnet) string {
	if s.Node == "" {
		return "nobody"
	}
	return "node " + s.Node
}

// change is a field with its two values.
type change struct {
	name    string
	was, is any
}

// changes says in words which fields changed; "" where none did.
func changes(fields []change) string {
	out := ""
	for _, f := range fields {
		if f.was != f.is {
			out = join(out, fmt.Sprintf("%s %s → %s", f.name, show(f.was), show(f.is)))
		}
	}
	return out
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + ", " + b
}

// show formats a value; one that is not set is "none".
func show(v any) string {
	if valid, ok := v.(interface{ IsValid() bool }); ok && !valid.IsValid() {
		return "none"
	}
	switch v := v.(type) {
	case bool:
		return map[bool]string{true: "yes", false: "no"}[v]
	case netip.Prefix:
		return v.String()
	}
	if s := fmt.Sprint(v); s != "" {
		return s
	}
	return "none"
}

func words[T any](list []T) string {
	out := make([]string, len(list))
	for i, x := range list {
		out[i] = fmt.Sprint(x)
	}
	return strings.Join(out, " ")
}
