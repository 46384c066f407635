package agent

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/mesh"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/fastpath"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// answerTraffic answers what other hosts want to know of this node's links.
func (a *Agent) answerTraffic(ctx context.Context, _ json.RawMessage) (any, error) {
	t, err := a.traffic(ctx)
	if err != nil {
		return nil, err
	}
	t.Fit(topology.MaxAnswer)
	return t, nil
}

// traffic is what the node counts of its links, and what probes tell of them.
func (a *Agent) traffic(ctx context.Context) (api.Traffic, error) {
	counters, err := a.rooms.sw.Counters(ctx)
	if counters.Tunnels == nil && err != nil {
		return api.Traffic{}, err
	}
	t := api.Traffic{
		At: api.Duration(time.Since(a.started)), Ready: a.isReady(), Endpoints: len(a.rooms.attach.Endpoints()),
	}
	for _, f := range a.Faults() {
		if f.Severity == fault.Error || f.Severity == "" && f.Code.Severity() == fault.Error {
			t.Errors++
		}
	}
	links := map[mesh.Key]*api.Link{}
	link := func(k mesh.Key) *api.Link {
		if links[k] == nil {
			links[k] = &api.Link{Node: k.Node, Encap: k.Encap}
		}
		return links[k]
	}
	for _, p := range counters.Tunnels {
		if p.ExternalIDs[ovs.KeySecond] != "" {
			continue
		}
		l := link(mesh.Key{Node: p.ExternalIDs[ovs.KeyNode], Encap: topology.Transport(p.ExternalIDs[ovs.KeyEncap])})
		l.Down = !p.Live()
		l.Counted = &api.LinkCounters{
			SentBytes: uint64(p.Statistics["tx_bytes"]), SentPackets: uint64(p.Statistics["tx_packets"]),
			ReceivedBytes: uint64(p.Statistics["rx_bytes"]), ReceivedPackets: uint64(p.Statistics["rx_packets"]),
		}
	}
	for node, c := range a.fastPathTraffic() {
		link(mesh.Key{Node: node, Encap: topology.Route}).Counted = c
	}
	if a.rooms.mesh != nil {
		for _, w := range waysOf(a.cfg.Node, a.rooms.mesh.Results()) {
			l := link(mesh.Key{Node: w.To, Encap: w.Encap})
			l.State, l.LossOut, l.LossIn, l.RTT = w.State, w.LossOut, w.LossIn, w.RTT
		}
	}
	for _, l := range links {
		t.Links = append(t.Links, *l)
	}
	slices.SortFunc(t.Links, func(a, b api.Link) int {
		if c := topology.CompareNames(a.Node, b.Node); c != 0 {
			return c
		}
		return topology.CompareNames(string(a.Encap), string(b.Encap))
	})
	return t, nil
}

// fastPathTraffic is what the fast path counts, by the other node: of routed packets
// nothing else is counted by node.
func (a *Agent) fastPathTraffic() map[string]*api.LinkCounters {
	out := map[string]*api.LinkCounters{}
	if a.rooms.fastpath == nil {
		return out
	}
	counters, err := a.rooms.fastpath.Counters()
	if err != nil {
		return out // it is a fault of that part
	}
	nodes := fastPathNodes(a.rooms.sw.Outcome().Get().View)
	for _, c := range counters {
		node := nodes[c.Node]
		if node == "" {
			continue // this node itself, or one that is gone
		}
		if out[node] == nil {
			out[node] = &api.LinkCounters{}
		}
		if c.Direction == "sent" {
			out[node].SentBytes += c.Bytes
			out[node].SentPackets += c.Packets
		} else {
			out[node].ReceivedBytes += c.Bytes
			out[node].ReceivedPackets += c.Packets
		}
	}
	return out
}

// fastPathNodes are the other nodes by what the programs of the fast path call them.
func fastPathNodes(v topology.View) map[uint64]string {
	nodes := map[uint64]string{}
	for _, n := range v.Networks {
		for i := range n.Peers {
			nodes[fastpath.NodeID(n.Peers[i].Node)] = n.Peers[i].Node
		}
	}
	return nodes
}
