// Command golden prints leases as flannel itself marshals them, a key and a
// value a line: the goldens of Baize's codec (topology/flannel/testdata).
package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
)

func v4(s string) ip.IP4Net {
	p := netip.MustParsePrefix(s)
	return ip.IP4Net{IP: ip.FromIP(p.Addr().AsSlice()), PrefixLen: uint(p.Bits())}
}

func v6(s string) ip.IP6Net {
	p := netip.MustParsePrefix(s)
	return ip.IP6Net{IP: ip.FromIP6(p.Addr().AsSlice()), PrefixLen: uint(p.Bits())}
}

func main() {
	vtep := json.RawMessage(`{"VNI":1,"VtepMAC":"0e:ba:c0:a8:4d:0b"}`)
	for _, l := range []lease.Lease{
		{
			Subnet: v4("10.1.5.0/24"),
			Attrs: lease.LeaseAttrs{
				PublicIP: ip.FromIP(netip.MustParseAddr("192.168.77.11").AsSlice()), BackendType: "vxlan", BackendData: vtep,
			},
		},
		{Subnet: v4("10.1.6.0/24"), IPv6Subnet: v6("fd00:10:1:6::/64"), Attrs: lease.LeaseAttrs{
			PublicIP:    ip.FromIP(netip.MustParseAddr("192.168.77.12").AsSlice()),
			PublicIPv6:  ip.FromIP6(netip.MustParseAddr("fd77::12").AsSlice()),
			BackendType: "vxlan", BackendData: vtep, BackendV6Data: vtep,
		}},
		{
			Subnet: v4("10.1.7.0/24"),
			Attrs:  lease.LeaseAttrs{PublicIP: ip.FromIP(netip.MustParseAddr("192.168.77.13").AsSlice()), BackendType: "host-gw"},
		},
	} {
		value, err := json.Marshal(l.Attrs)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Printf("subnets/%s %s\n", subnet.MakeSubnetKey(l.Subnet, l.IPv6Subnet), value)
	}
}
