package api

import (
	"net/netip"

	"github.com/baize-net/baize/topology"
)

// The kinds of points (Point.Kind).
const (
	PointEndpoint = "endpoint"
	PointTunnel   = "tunnel"
)

// Point is where a node's packets can be captured.
type Point struct {
	Node string `json:"node"`
	Kind string `json:"kind"`
	// Name is the endpoint's; of a tunnel, the name of the node at its other end.
	Name string `json:"name"`
	// Devices are those that see the packets: of the network namespace Netns (a path), or
	// of the host itself.
	Devices []string `json:"devices"`
	Netns   string   `json:"netns,omitempty"`
	// Network is the endpoint's.
	Network string `json:"network,omitempty"`

	// Locals and Remotes are the ends of a tunnel in the underlay, UDPPorts those of
	// encapsulations, Networks the names of networks by their VNI.
	Locals   []netip.Addr               `json:"locals,omitempty"`
	Remotes  []netip.Addr               `json:"remotes,omitempty"`
	UDPPorts map[topology.Transport]int `json:"udpPorts,omitempty"`
	Networks map[uint32]string          `json:"networks,omitempty"`
	// OwnPrefixes and PeerPrefixes are the addresses of both nodes' endpoints in networks
	// whose packets also go without encapsulation.
	OwnPrefixes  []netip.Prefix `json:"ownPrefixes,omitempty"`
	PeerPrefixes []netip.Prefix `json:"peerPrefixes,omitempty"`
}

// String is the point's name in the cluster: host1/c1, or host1/host2 for the tunnel
// between the two.
func (p Point) String() string { return p.Node + "/" + p.Name }
