package fabric

import (
	"net/netip"
)

// Place is a member's in the underlay: what its pid 1 has to know to set its
// devices up.
type Place struct {
	// Addrs are the underlay's, those of the fabric's bridge or of the host.
	Addrs []netip.Prefix `json:"addrs"`
	// MAC is that of eth0.
	MAC string `json:"mac,omitempty"`
	// Kernel says that Open vSwitch has its kernel datapath.
	Kernel bool `json:"kernel,omitempty"`
	// Segments is how many the underlay has; 0 is 1.
	Segments int `json:"segments,omitempty"`
	// Ports are the addresses of a router's eth0, eth1, …
	Ports [][]netip.Prefix `json:"ports,omitempty"`
	// Gateways are the next hops of default routes, one a family.
	Gateways []netip.Addr `json:"gateways,omitempty"`
}

// OwnPlace is that of the fabric.
func OwnPlace(segments int) Place {
	return Place{Segments: segments, Addrs: Addrs(), Gateways: gatewaysOf(0, segments)}
}

// RouterPlace is that of the router between the segments.
func RouterPlace(segments int) Place { return Place{Segments: segments, Ports: RouterPorts(segments)} }

// HostPlace is that of host n; kernel says that its Open vSwitch has the kernel
// datapath.
func HostPlace(n, segments int, kernel bool) Place {
	return Place{
		Segments: segments, Addrs: HostAddrs(n, segments), MAC: hostMAC(n).String(), Kernel: kernel,
		Gateways: gatewaysOf(SegmentOf(n, segments), segments),
	}
}

// Device is where a host's underlay address is.
func (p Place) Device() string {
	if p.Kernel {
		return Uplink
	}
	return PhysicalBridge
}
