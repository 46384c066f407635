package agent

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Status tells how the node is, from what Open vSwitch says now and from what
// the parts last saw.
func (a *Agent) Status(ctx context.Context) (api.Status, error) {
	t := a.rooms.hub.Topology().Get()
	ready := a.isReady()
	st := api.Status{
		Node: a.cfg.Node, Version: a.cfg.Version, Bridge: a.cfg.Bridge, Datapath: a.world.Datapath,
		DatapathReason: a.world.DatapathReason,
		Uptime:         api.Duration(time.Since(a.started).Round(time.Second)),
		Etcd:           a.etcdStatus(t),
		Problems:       a.Faults(), Endpoints: apiEndpoints(a.rooms.attach.Endpoints(), a.containers()),
	}
	sw, err := a.rooms.sw.Status(ctx)
	st.Problems = fault.Add(st.Problems, err)
	st.Ready = ready && err == nil && sw.Outcome.Err == nil
	switchStatus(&st, sw)
	if n := a.rooms.kernel.State().Get().TunnelDrops; n > 0 {
		if st.Drops == nil {
			st.Drops = map[string]uint64{}
		}
		st.Drops[dropForgedTunnel] = n
	}
	a.bgpStatus(&st)
	st.Problems = fault.Add(st.Problems, a.fastPathStatus(&st, sw.Outcome.View))
	a.networkStatus(&st, t, sw)
	a.addProbed(st.Peers)
	return st, nil
}

// etcdStatus is how the agent stands with etcd.
func (a *Agent) etcdStatus(t hub.Topology) api.Etcd {
	if a.cfg.WithoutEtcd {
		return api.Etcd{Unused: true, Endpoints: []string{}}
	}
	out := api.Etcd{Connected: t.Err == nil && t.Known(), Endpoints: a.cfg.Etcd.Endpoints}
	if t.Err != nil {
		out.Error = t.Err.Error()
	}
	if t.Known() {
		out.Revision = t.Snapshot.Revision
	}
	return out
}

// dropForgedTunnel is the label of what the host's firewall drops of tunnelled packets.
const dropForgedTunnel = "tunnelled packet by a device that does not lead to its sender"

func switchStatus(st *api.Status, sw openvswitch.Status) {
	st.OVSVersion, st.Flows, st.Ports, st.Drops, st.Foreign = sw.Observed.Version, sw.Flows, sw.Ports, sw.Drops, sw.Foreign
	st.Segments = apiSegments(sw.Observed, sw.Outcome.View)
	o := sw.Outcome
	if o.At.IsZero() {
		return
	}
	st.LastReconcile = api.Reconcile{At: o.At, Took: api.Duration(o.Took), Changes: o.Changes}
	if o.Err != nil {
		st.LastReconcile.Error = o.Err.Error()
	}
}

// bgpStatus adds the sessions to a status.
func (a *Agent) bgpStatus(st *api.Status) {
	if a.rooms.bgp == nil {
		return
	}
	for _, s := range a.rooms.bgp.Sessions() {
		st.BGP = append(
			st.BGP,
			api.BGPSession{Neighbor: s.Neighbor.Addr, AS: s.Neighbor.AS, Up: s.Up, State: s.State, Since: s.Since, Last: s.Last},
		)
	}
}

// fastPathStatus adds what takes the fast path, and its counters.
func (a *Agent) fastPathStatus(st *api.Status, v topology.View) error {
	if a.rooms.fastpath == nil {
		return nil
	}
	counters, err := a.rooms.fastpath.Counters()
	nodes := fastPathNodes(v)
	nodes[0] = a.cfg.Node
	endpoints := map[string]api.Endpoint{}
	for _, e := range st.Endpoints {
		endpoints[e.Port] = e
	}
	for _, n := range a.rooms.fastpath.State().Get().Networks {
		x := api.FastPath{Network: n.Name, Used: n.Used, Why: n.Why}
		for _, c := range counters {
			e, known := endpoints[c.Dev]
			if !known || e.Network != n.Name || nodes[c.Node] == "" {
				continue
			}
			x.Counters = append(x.Counters, api.FastPathCounter{
				Endpoint: e.Name, Node: nodes[c.Node], Direction: c.Direction, Packets: c.Packets, Bytes: c.Bytes,
			})
		}
		st.FastPath = append(st.FastPath, x)
	}
	return err
}

func apiSegments(observed ovs.Observed, v topology.View) []api.Segment {
	var out []api.Segment
	for _, s := range observed.Segments() {
		x := api.Segment{Name: s.Name, Network: s.Network, Port: s.Port, Subnets: []netip.Prefix{}}
		n, _ := v.Find(s.Network)
		for _, t := range n.Segments {
			if t.Name == s.Name {
				x.Subnets = t.Subnets
			}
		}
		out = append(out, x)
	}
	return out
}

func (a *Agent) networkStatus(st *api.Status, t hub.Topology, sw openvswitch.Status) {
	if !t.Known() {
		return
	}
	done, names := map[string]bool{}, pipeline.NamesOf(sw.Outcome.View)
	for _, n := range sw.Outcome.View.Networks {
		count := 0
		for _, e := range st.Endpoints {
			if e.Network == n.Name {
				count++
			}
		}
		st.Networks = append(st.Networks, api.Network{
			Name: n.Name, VNI: n.VNI, Transport: n.Transport, MTU: n.MTU, Subnets: n.Subnets, Peers: len(n.Peers),
			Endpoints: count,
		})
		for i := range n.Peers {
			p := a.peer(t.Snapshot, n, &n.Peers[i], sw, names)
			key := p.Node + " " + p.Port
			if p.Encap == topology.Route {
				key = p.Node
			}
			if !done[key] {
				done[key] = true
				st.Peers = append(st.Peers, p)
			}
		}
	}
	slices.SortFunc(st.Peers, func(a, b api.Peer) int { return topology.CompareNames(a.Node, b.Node) })
}

// peer is another node: by its tunnel, or where there is none by the host's own
// port.
func (a *Agent) peer(
	s *topology.Snapshot,
	n topology.NetworkView,
	peer *topology.Peer,
	sw openvswitch.Status,
	names pipeline.Names,
) api.Peer {
	node := s.Nodes[peer.Node]
	out := api.Peer{Node: peer.Node, VTEPs: node.VTEPs, Encap: peer.Encap, Layout: node.Layout}
	_, out.Alive = s.Alive[peer.Node]
	if peer.Encap != "" {
		out.Port = names.Tunnel(peer.Encap, peer.Node)
	} else {
		out.Encap, out.Port = topology.Route, names.Host(n.Name)
	}
	port := sw.Observed.Ports[out.Port]
	out.OFPort, out.Error = max(0, port.OFPort), port.Error
	if peer.Encap != "" {
		return out
	}
	direct := a.rooms.kernel.State().Get().Direct
	for _, subnet := range peer.Subnets {
		if !direct[topology.SubnetID{Network: n.Name, Prefix: subnet}] {
			out.Error = "no route to " + subnet.String()
		}
	}
	return out
}
