package capture

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// Host is what a node knows of itself, to find points.
type Host struct {
	View      topology.View
	Endpoints []api.Endpoint
	// Observed is the node's Open vSwitch.
	Observed ovs.Observed
	UDPPorts map[topology.Transport]int
	// Fast are the networks of the fast path: its packets pass the host's end of an
	// endpoint by.
	Fast map[string]bool
	// Device returns the device that packets to an address leave by.
	Device func(netip.Addr) (string, error)
}

// nameProbes is what the agents' probes are in.
const nameProbes = "(probes)"

// Find returns the point of a name: that of an endpoint or its container, its port on the
// bridge, a segment such as docker0, another node, or the port of a tunnel to one.
func (h Host) Find(name string) (api.Point, error) {
	node := h.View.Node.Name
	for _, e := range h.Endpoints {
		if !e.Is(name) && name != e.Port && name != e.Network+"/"+e.Name {
			continue
		}
		p := api.Point{Node: node, Kind: api.PointEndpoint, Name: e.Name, Network: e.Network, Devices: []string{e.Port}}
		if h.Fast[e.Network] && e.Netns != "" && e.Ifname != "" {
			p.Netns, p.Devices = e.Netns, []string{e.Ifname}
		}
		return p, nil
	}
	for _, s := range h.Observed.Segments() {
		if name == s.Name || name == s.Port {
			return api.Point{
				Node: node, Kind: api.PointEndpoint, Name: s.Name, Network: s.Network, Devices: []string{s.Port},
			}, nil
		}
	}
	if port, ok := h.Observed.Ports[name]; ok && port.Role() == ovs.RoleTunnel {
		name = port.ExternalIDs[ovs.KeyNode]
	}
	if p, ok := h.tunnel(name); ok {
		return h.withDevices(p)
	}
	return api.Point{}, &topology.Error{
		Kind: topology.ErrNotFound, Item: "point " + node + "/" + name,
		What:   "no endpoint, container or port of this node has the name, and no node that it has a network in common with",
		Remedy: "'baize endpoint list' shows the endpoints there, 'baize status' the peers",
	}
}

// tunnel is what goes to another node and comes from it.
func (h Host) tunnel(peer string) (api.Point, bool) {
	p := api.Point{
		Node: h.View.Node.Name, Kind: api.PointTunnel, Name: peer, UDPPorts: map[topology.Transport]int{
			topology.VXLAN: 4789, topology.Geneve: 6081,
		}, Networks: map[uint32]string{pipeline.ProbeKey: nameProbes},
	}
	maps.DeleteFunc(p.UDPPorts, func(t topology.Transport, _ int) bool { return h.UDPPorts[t] != 0 })
	for t, port := range h.UDPPorts {
		if port != 0 {
			p.UDPPorts[t] = port
		}
	}
	found := false
	for i := range h.View.Networks {
		n := &h.View.Networks[i]
		for j := range n.Peers {
			x := &n.Peers[j]
			if x.Node != peer {
				continue
			}
			found = true
			p.Networks[n.VNI] = n.Name
			p.Remotes = append(append(p.Remotes, x.VTEPs...), x.Remote)
			p.Locals = append(append(p.Locals, h.View.Node.VTEPs...), x.Local)
			if n.Transport.Routed() {
				p.OwnPrefixes = append(p.OwnPrefixes, n.OwnSubnets()...)
				p.PeerPrefixes = append(p.PeerPrefixes, x.Subnets...)
			}
		}
	}
	p.Remotes, p.Locals = addresses(p.Remotes), addresses(p.Locals)
	return p, found
}

func addresses(list []netip.Addr) []netip.Addr {
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.DeleteFunc(slices.Compact(list), func(a netip.Addr) bool { return !a.IsValid() })
}

// withDevices finds the devices of a tunnel. With the userspace datapath Open vSwitch
// sends to the ports of the bridge that has the route, past the bridge's own device.
func (h Host) withDevices(p api.Point) (api.Point, error) {
	for _, a := range p.Remotes {
		device, err := h.Device(a)
		if err != nil {
			continue // the other family may have a route
		}
		found := []string{device}
		if h.View.Node.Datapath == "netdev" {
			if ports := h.portsOf(device); len(ports) > 0 {
				found = ports
			}
		}
		p.Devices = append(p.Devices, found...)
	}
	slices.Sort(p.Devices)
	p.Devices = slices.Compact(p.Devices)
	if len(p.Devices) == 0 {
		return p, &topology.Error{
			Kind: topology.ErrUnavailable, Item: "tunnel " + p.String(), What: "this host has no route to it",
			Remedy: "'baize doctor' on this host says more",
		}
	}
	return p, nil
}

// portsOf are the devices of a bridge of Open vSwitch, without its own.
func (h Host) portsOf(bridge string) (out []string) {
	for port, of := range h.Observed.Foreign {
		if _, err := interfaceOf(port); of == bridge && port != bridge && err == nil {
			out = append(out, port)
		}
	}
	return out
}
