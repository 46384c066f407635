package hostnet

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/baize-net/baize/topology"
)

// RoutedPrefix begins the names of the host ends of containers that this host routes,
// which are no endpoints: the agent knows nothing of them.
const RoutedPrefix = "bp"

// RoutedIfname returns the name of the host end, as HostIfname does.
func RoutedIfname(key string) string {
	return RoutedPrefix + strings.TrimPrefix(HostIfname(key), HostPrefix)
}

// RoutedSpec is a veth pair from this host into a namespace whose addresses this host's
// kernel routes, one by one: no switch and no bridge has it.
type RoutedSpec struct {
	Netns, Ifname, HostIfname string
	MAC                       net.HardwareAddr
	// Addrs are the container end's, at least one.
	Addrs []netip.Addr
	MTU   int
	// Alias is the host end's (ip-link(8)): whose it is.
	Alias string
}

// AttachRouted makes the pair: the container has its host for its gateway, and nothing
// else on its link, so that the host sees whatever it sends and receives. Neither end
// asks who has an address. Repeated, and on an error, it does as Attach does, and its
// errors are the same.
func AttachRouted(ctx context.Context, s RoutedSpec) error {
	spec := AttachSpec{
		Netns: s.Netns, Ifname: s.Ifname, HostIfname: s.HostIfname, MAC: s.MAC, MTU: s.MTU, ChecksumOffload: true,
	}
	for _, a := range s.Addrs {
		spec.Addrs = append(spec.Addrs, netip.PrefixFrom(a, a.BitLen()))
	}
	return attachBy(ctx, spec, func(a *attachment) []func() error {
		return []func() error{
			func() error { return failed(a.hostItem(), "naming it", a.host.LinkSetAlias(a.hostEnd, s.Alias)) },
			a.openHostEnd, a.configureInside, a.verify, a.hostUp, a.routeToHost, a.routeToContainer,
		}
	})
}

// openHostEnd is what the host end needs to take part in routing.
func (a *attachment) openHostEnd() error {
	for path, value := range map[string]string{
		ipv6Sysctl(a.HostIfname):                                 "0",
		"/proc/sys/net/ipv6/conf/" + a.HostIfname + "/accept_ra": "0",
		"/proc/sys/net/ipv4/conf/" + a.HostIfname + "/rp_filter": "0", // by default a distribution's business
	} {
		if path == ipv6Sysctl(a.HostIfname) && !a.hasIPv6() {
			value = "1"
		}
		if err := SetSysctl(path, value); err != nil {
			return failed(a.hostItem(), "preparing it", err)
		}
	}
	return nil
}

// families are those of the addresses.
func (a *attachment) families() (out []topology.Family) {
	for _, p := range a.Addrs {
		if f := topology.FamilyOf(p.Addr()); !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

// routeToHost makes the host the container's gateway, unless there is a default route by
// another interface. Its link address is known, and its address is nobody's.
func (a *attachment) routeToHost() error {
	host, err := a.host.LinkByIndex(a.hostEnd.Attrs().Index)
	if err != nil {
		return failed(a.hostItem(), "reading it back", err)
	}
	for _, f := range a.families() {
		gateway := topology.RouterAddr(f)
		if err := a.inside.NeighSet(neighbour(a.peer, gateway, host.Attrs().HardwareAddr)); err != nil {
			return failed(a.item(), "telling it the gateway's link address", err)
		}
		family := netlink.FAMILY_V6
		if f == topology.IPv4 { // the other is link-local there
			family = netlink.FAMILY_V4
			if err := a.inside.RouteReplace(routeTo(a.peer, netip.PrefixFrom(gateway, gateway.BitLen()))); err != nil {
				return failed(a.item(), "adding the route to "+gateway.String(), err)
			}
		}
		all := defaultOf(family)
		there, err := a.defaultElsewhere(family)
		if err != nil {
			return err
		}
		if there {
			continue
		}
		err = a.inside.RouteReplace(&netlink.Route{LinkIndex: a.peer.Attrs().Index, Dst: ipNet(all), Gw: gateway.AsSlice()})
		if err != nil {
			return failed(a.item(), "adding the default route by "+gateway.String(), err)
		}
	}
	return nil
}

// routeToContainer makes this host's routes to the container.
func (a *attachment) routeToContainer() error {
	for _, p := range a.Addrs {
		if err := a.host.NeighSet(neighbour(a.hostEnd, p.Addr(), a.MAC)); err != nil {
			return failed(a.hostItem(), "telling it the link address of "+p.Addr().String(), err)
		}
		if err := a.host.RouteReplace(routeTo(a.hostEnd, p)); err != nil {
			return failed(a.hostItem(), "adding the route to "+p.Addr().String(), err)
		}
	}
	return nil
}

func routeTo(l netlink.Link, p netip.Prefix) *netlink.Route {
	return &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(p), Scope: netlink.SCOPE_LINK}
}

func neighbour(l netlink.Link, a netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: l.Attrs().Index, IP: a.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT}
}

// CheckRouted makes sure that this host routes addresses to a container that AttachRouted
// has attached. The error is of kind ErrNotFound.
func CheckRouted(hostIfname string, addrs []netip.Addr) error {
	h, err := hostHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	item := "interface " + hostIfname + " of this host"
	l, err := linkOrNil(h, hostIfname)
	if err != nil {
		return failed(item, "looking for it", err)
	}
	if l == nil {
		return &topology.Error{Kind: topology.ErrNotFound, Item: item, What: "there is none"}
	}
	for _, a := range addrs {
		family := netlink.FAMILY_V4
		if a.Is6() {
			family = netlink.FAMILY_V6
		}
		want := routeTo(l, netip.PrefixFrom(a, a.BitLen()))
		have, err := h.RouteListFiltered(family, want, netlink.RT_FILTER_DST|netlink.RT_FILTER_OIF)
		if err != nil {
			return failed(item, "listing routes", err)
		}
		if len(have) == 0 {
			return &topology.Error{Kind: topology.ErrNotFound, Item: item, What: "the route to " + a.String() + " is gone"}
		}
	}
	return nil
}

// Routed returns the host ends that AttachRouted has made, with their aliases.
func Routed() (map[string]string, error) {
	h, err := hostHandle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, failed("interfaces of this host", "listing them", err)
	}
	out := map[string]string{}
	for _, l := range links {
		if at := l.Attrs(); l.Type() == "veth" && strings.HasPrefix(at.Name, RoutedPrefix) && at.Alias != "" {
			out[at.Name] = at.Alias
		}
	}
	return out, nil
}
