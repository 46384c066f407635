package trace

import (
	"cmp"
	"slices"
	"time"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
)

// Drop is one kind of packets that the host dropped a short while ago.
type Drop struct {
	// Reason is the label of the counter; of a flow that is not Baize's, that.
	Reason string `json:"reason"`
	Table  string `json:"table"`
	// From is who sent them: an endpoint, a node, or a port.
	From    string `json:"from"`
	Header  string `json:"header"`
	Packets uint64 `json:"packets"`
	// Seconds is how long the last one is ago.
	Seconds float64 `json:"secondsAgo"`
}

// Drops says why packets were dropped, by what their headers meet in the tables.
// Of each reason it returns the last few, most bounds them.
func (f Facts) Drops(dropped []openflow.Dropped, most int) []Drop {
	b := f.bridge()
	all := []Drop{}
	for _, d := range dropped {
		// Fields that were not looked at may have any value.
		p, err := forward.ParsePacket(d.Header)
		port, from := f.droppedAt(d)
		if err != nil || b.numbers[port] == 0 {
			continue // of another bridge of the datapath
		}
		trace := b.have.Forward(b.numbers[port], p)
		last := trace.Steps[len(trace.Steps)-1]
		drop := Drop{
			Reason: "nothing matches", Table: pipeline.TableName(last.Table), From: from, Header: d.Header,
			Packets: d.Packets + 1, Seconds: max(0, d.Ago).Round(time.Millisecond).Seconds(),
		}
		if last.Rule != nil {
			drop.Reason = "a flow that is not Baize's"
			w, ours := b.rules[last.Rule.Flow.ID()]
			switch {
			case ours && w.Flow.Drops():
				drop.Reason = w.Flow.Class
			case ours: // a broadcast on a host with one endpoint, for example
				drop.Reason = "for nobody but the port that it came from"
			}
		}
		if len(trace.Outputs) == 0 {
			all = append(all, drop)
		}
	}
	slices.SortStableFunc(all, func(x, y Drop) int {
		return cmp.Or(cmp.Compare(x.Reason, y.Reason), cmp.Compare(x.Seconds, y.Seconds), cmp.Compare(x.Header, y.Header))
	})
	seen := map[string]int{}
	return slices.DeleteFunc(all, func(d Drop) bool {
		seen[d.Reason]++
		return seen[d.Reason] > most
	})
}

// droppedAt returns the port by which packets came, and who sent them.
func (f Facts) droppedAt(d openflow.Dropped) (port, from string) {
	if !d.Remote.IsValid() {
		from = "port " + d.InPort
		if e, ok := f.endpointAt(d.InPort); ok {
			from = "endpoint " + f.who(e)
		}
		return d.InPort, from
	}
	for name, p := range f.Observed.Switch.Ports {
		o := p.Options
		if p.Role() == ovs.RoleTunnel && o["remote_ip"] == d.Remote.String() && o["local_ip"] == d.Local.String() {
			port, from = name, "node "+p.ExternalIDs[ovs.KeyNode]
		}
	}
	return port, from
}
