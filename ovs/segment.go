package ovs

import (
	"maps"
	"slices"
)

// Segment is a port to a local Ethernet, such as docker0, whose subnets are
// known (topology.Segment) and whose hosts are not.
type Segment struct {
	// Name is the bridge behind the port, Network what it is a part of.
	Name, Network string
	// Port is the port's name.
	Port string
}

// AsPort returns the port of the segment.
func (s Segment) AsPort() Port {
	return Port{Name: s.Port, ExternalIDs: map[string]string{
		KeyOwner: Owner, KeyRole: RoleSegment, KeySegment: s.Name, KeyNetwork: s.Network,
	}}
}

// Segments reads the segments of a bridge, by port.
func (o Observed) Segments() []Segment {
	var out []Segment
	for _, name := range slices.Sorted(maps.Keys(o.Ports)) {
		if p := o.Ports[name]; p.Owned() && p.Role() == RoleSegment {
			out = append(out, Segment{Name: p.ExternalIDs[KeySegment], Network: p.ExternalIDs[KeyNetwork], Port: name})
		}
	}
	return out
}
