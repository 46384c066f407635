package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Reconcile runs a pass now.
func (a *Agent) Reconcile(ctx context.Context, audit bool) error {
	if audit {
		a.requestAudit()
	}
	return a.settle(ctx)
}

// Status tells how the node is, from what Open vSwitch says now and from the
// last pass.
func (a *Agent) Status(ctx context.Context) (api.Status, error) {
	a.mu.Lock()
	s, p := a.snapshot, a.last
	st := api.Status{
		Node: a.cfg.Node, Version: a.cfg.Version, Bridge: a.cfg.Bridge, Datapath: a.datapath, DatapathReason: a.why,
		Ready: a.ready && p.err == nil, Uptime: api.Duration(time.Since(a.started).Round(time.Second)),
		Etcd:     api.Etcd{Connected: a.etcdErr == nil && s != nil, Endpoints: a.cfg.Etcd.Endpoints},
		Problems: slices.Clone(p.problems),
	}
	for _, err := range []error{a.etcdErr, a.aliveErr, a.joined, p.err} {
		st.Problems = fault.Add(st.Problems, err)
	}
	a.bgpStatus(&st)
	if a.etcdErr != nil {
		st.Etcd.Error = a.etcdErr.Error()
	}
	a.mu.Unlock()
	if s != nil {
		st.Etcd.Revision = s.Revision
	}
	if !p.at.IsZero() {
		st.LastReconcile = api.Reconcile{At: p.at, Took: api.Duration(p.took), Changes: p.outcome.Changes}
		if p.err != nil {
			st.LastReconcile.Error = p.err.Error()
		}
	}
	observed, err := a.db.Observe(ctx)
	if err != nil {
		st.Ready = false
		st.Problems = fault.Add(st.Problems, err)
	} else {
		endpoints, _ := observed.Endpoints()
		st.OVSVersion, st.Endpoints = observed.Version, apiEndpoints(endpoints)
		st.Segments = apiSegments(observed, p.view)
		for _, port := range observed.ForeignPorts() {
			st.Foreign = append(st.Foreign, "port "+port)
		}
		for _, port := range observed.Ports {
			if port.Owned() {
				st.Ports++
			}
		}
		p.outcome.Observed = observed
		a.flowStatus(ctx, &st, p)
	}
	networkStatus(&st, s, p)
	return st, nil
}

// flowStatus counts flows and explains drops.
func (a *Agent) flowStatus(ctx context.Context, st *api.Status, p pass) {
	flows, err := a.flows.Observe(ctx)
	if err != nil {
		st.Problems = fault.Add(st.Problems, err)
		return
	}
	st.Flows = len(flows.Flows)
	for _, f := range flows.Foreign {
		st.Foreign = append(st.Foreign, "flow "+f)
	}
	packets := make(map[[2]uint64]uint64, len(flows.Flows))
	for _, f := range flows.Flows {
		packets[[2]uint64{uint64(f.Table), f.Cookie}] = f.Packets
	}
	st.Drops = map[string]uint64{}
	for _, f := range p.outcome.Bound {
		if why := pipeline.DropReason(f.Flow); why != "" {
			st.Drops[why] += packets[[2]uint64{uint64(f.Table), f.Cookie}]
		}
	}
	maps.DeleteFunc(st.Drops, func(_ string, n uint64) bool { return n == 0 })
}

func networkStatus(st *api.Status, s *topology.Snapshot, p pass) {
	done := map[string]bool{}
	tunnels := p.outcome.Want.Tunnels()
	for _, n := range p.view.Networks {
		count := 0
		for _, e := range st.Endpoints {
			if e.Network == n.Name {
				count++
			}
		}
		st.Networks = append(st.Networks, api.Network{
			Name: n.Name, VNI: n.VNI, Transport: n.Transport, MTU: n.MTU, Subnets: n.Subnets, Peers: len(n.Peers), Endpoints: count,
		})
		for _, peer := range n.Peers {
			_, alive := s.Alive[peer.Node]
			if peer.Encap == "" {
				if !done["route "+peer.Node] {
					done["route "+peer.Node] = true
					st.Peers = append(st.Peers, routedPeer(s, n, peer, p, alive))
				}
				continue
			}
			name := tunnels[ovs.TunnelID{Node: peer.Node, Encap: peer.Encap}].Name
			if done[name] {
				continue
			}
			done[name] = true
			port := p.outcome.Observed.Ports[name]
			st.Peers = append(st.Peers, api.Peer{
				Node: peer.Node, VTEPs: s.Nodes[peer.Node].VTEPs, Port: name, OFPort: max(0, port.OFPort), Encap: peer.Encap, Alive: alive, Error: port.Error,
			})
		}
	}
	slices.SortFunc(st.Peers, func(a, b api.Peer) int { return topology.CompareNames(a.Node, b.Node) })
}

// routedPeer is a peer that this node has no tunnel to: its port is the host's
// own.
func routedPeer(s *topology.Snapshot, n topology.NetworkView, peer topology.Peer, p pass, alive bool) api.Peer {
	wanted, _ := p.outcome.Want.HostPort(n.Name)
	name := wanted.Name
	port := p.outcome.Observed.Ports[name]
	out := api.Peer{
		Node: peer.Node, VTEPs: s.Nodes[peer.Node].VTEPs, Port: name, OFPort: max(0, port.OFPort), Encap: topology.Route, Alive: alive, Error: port.Error,
	}
	for _, subnet := range peer.Subnets {
		if !p.routes.direct[topology.SubnetID{Network: n.Name, Prefix: subnet}] {
			out.Error = "no route to " + subnet.String()
		}
	}
	return out
}
