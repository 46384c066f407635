package pipeline

import (
	"fmt"
	"hash/fnv"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// IPFIX (RFC 7011) by network: what endpoints and segments send is sampled where it
// enters the network, on the node of its sender. So a packet is looked at once in the
// whole cluster, before anything is decided about it. The observation domain in
// every record is the VNI.

const (
	// pointSent is the observation point of what local ports send.
	pointSent = 1
	// cacheFlows is how many flows are counted at a time; then the oldest is told of.
	cacheFlows = 16384
)

// collectors says where the records of the network's flows go.
func (n *network) collectors() {
	x := n.Sampled()
	if len(x.Collectors) == 0 {
		return
	}
	set := ovs.CollectorSet{ID: n.setID(x), Targets: x.Collectors, Timeout: x.Cache, Node: n.b.node}
	if set.Timeout > 0 {
		set.Flows = cacheFlows
	}
	n.b.state.Collectors = append(n.b.state.Collectors, set)
}

// setID is the number of the set of collectors: the VNI and eight bits of what the set
// is. Open vSwitch sends the templates, without which no record can be read, at once
// for a number that it did not know, and to the collectors of one that was changed after
// ten minutes.
func (n *network) setID(x topology.IPFIX) uint32 {
	h := fnv.New32a()
	fmt.Fprint(h, x.Collectors, x.Cache)
	return n.VNI<<8 | h.Sum32()&0xff
}

// sample looks at what enters the network; "" where nobody wants to know.
func (n *network) sample() string {
	x := n.Sampled()
	if len(x.Collectors) == 0 {
		return ""
	}
	return "," + ovs.Sample(n.setID(x), n.VNI, pointSent, x.Sampling)
}
