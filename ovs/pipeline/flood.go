package pipeline

import (
	"github.com/baize-net/baize/ovs"
)

// Broadcast, multicast and unknown unicast (BUM) cost every node and every endpoint
// of a network. Meters (OpenFlow 1.4 section 5.8) bound what one local port, and what
// the whole node, may send of it. ARP and neighbour discovery are steered, and are
// BUM only where they concern everybody.

const (
	// segmentShare is how many endpoints the port to a local Ethernet counts for:
	// which of its hosts floods is not known.
	segmentShare = 5
	// nodeShare is how many endpoints may flood at their full rate at a time before
	// the node's own limit is reached.
	nodeShare = 10
)

// flooding returns what happens to what a port floods: it is limited to its share of
// the network's rate, unless the network has none.
func (n *network) flooding(port string) string {
	if n.BUMRate() == 0 {
		return goTo(TableReplicate)
	}
	return actions(ovs.MeterOf(port), goTo(TableReplicate))
}

// meter limits what a port floods to the rate of so many endpoints.
func (n *network) meter(port string, share int) {
	rate := n.BUMRate()
	if rate == 0 {
		return
	}
	n.b.state.Meters = append(n.b.state.Meters, ovs.Meter{Port: port, Rate: rate * share})
	n.b.flow(classMetered, TableFlood, prioMetered, inPort(port), n.flooding(port))
}

// nodeMeter returns what the actions on a network's flood begin with.
func (n *network) nodeMeter() string {
	rate := n.BUMRate()
	if rate == 0 {
		return ""
	}
	n.b.nodeRate = max(n.b.nodeRate, rate*nodeShare)
	return ovs.NodeMeterAction + ","
}

// MeterClass returns the label of the counter of what a meter drops; "" where it is
// none of Baize's.
func MeterClass(id uint32) string {
	switch {
	case id == ovs.NodeMeter:
		return DropNodeFlood
	case ovs.OwnMeter(id):
		return DropFlood
	}
	return ""
}
