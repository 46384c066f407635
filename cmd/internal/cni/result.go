package cni

import (
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/baize-net/baize/cmd/internal/hostnet"
)

// resultOf is the result of an attachment (CNI specification, section 5): what stands in
// the container, added to what plugins before this one have done.
func resultOf(
	before *current.Result, in hostnet.Inside, port string, hostMAC net.HardwareAddr, netns string,
) *current.Result {
	out := &current.Result{CNIVersion: current.ImplementedSpecVersion}
	if before != nil {
		out.Interfaces = slices.Clone(before.Interfaces)
		out.IPs, out.Routes, out.DNS = slices.Clone(before.IPs), slices.Clone(before.Routes), *before.DNS.Copy()
	}
	out.Interfaces = append(out.Interfaces,
		&current.Interface{Name: port, Mac: hostMAC.String(), Mtu: in.MTU},
		&current.Interface{Name: in.Name, Mac: in.MAC.String(), Mtu: in.MTU, Sandbox: netns})
	index := len(out.Interfaces) - 1
	for _, p := range in.Addrs {
		out.IPs = append(out.IPs, &current.IPConfig{
			Interface: current.Int(index), Address: ipNet(p), Gateway: in.Gateway(p).AsSlice(),
		})
	}
	for _, r := range in.Routes {
		out.Routes = append(out.Routes, &types.Route{
			Dst: ipNet(r.Dst), GW: r.Gateway.AsSlice(), MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority,
		})
	}
	return out
}

// ipNet keeps the address, as the results of CNI do.
func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n net.IPNet) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), ok
}

// assignedBy returns the addresses of an ipam plugin's result, and its routes.
func assignedBy(r *current.Result) (addrs []netip.Addr, routes []hostnet.InsideRoute) {
	for _, ip := range r.IPs {
		if p, ok := prefixOf(ip.Address); ok {
			addrs = append(addrs, p.Addr())
		}
	}
	for _, x := range r.Routes {
		dst, ok := prefixOf(x.Dst)
		if !ok {
			continue
		}
		route := hostnet.InsideRoute{Dst: dst, Priority: x.Priority, MTU: x.MTU, AdvMSS: x.AdvMSS}
		route.Gateway, _ = netip.AddrFromSlice(x.GW)
		route.Gateway = route.Gateway.Unmap()
		for _, ip := range r.IPs { // "If unset, a value in gateway in the ips array may be used."
			g, ok := netip.AddrFromSlice(ip.Gateway)
			if !route.Gateway.IsValid() && ok && g.Unmap().Is4() == dst.Addr().Is4() {
				route.Gateway = g.Unmap()
			}
		}
		routes = append(routes, route)
	}
	return addrs, routes
}
