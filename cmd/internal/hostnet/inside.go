package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology"
)

// Inside is an interface as it stands in a namespace.
type Inside struct {
	Name string
	MAC  net.HardwareAddr
	MTU  int
	// Addrs are its addresses but for link-local ones, each with its prefix length.
	Addrs []netip.Prefix
	// Routes are those of the main table by it that somebody added: not those that the
	// kernel made of its addresses.
	Routes []InsideRoute
}

// InsideRoute is a route in a namespace.
type InsideRoute struct {
	Dst netip.Prefix
	// Gateway is the next hop; not valid where the destination is on the link.
	Gateway netip.Addr
	// Priority is the metric, 0 for the kernel's default.
	Priority int
	MTU      int
	AdvMSS   int
}

// Gateway is the next hop of the default route by the interface, if it is in a prefix;
// not valid where there is none.
func (in Inside) Gateway(p netip.Prefix) netip.Addr {
	for _, r := range in.Routes {
		if r.Dst.Bits() == 0 && r.Gateway.IsValid() && p.Contains(r.Gateway) {
			return r.Gateway
		}
	}
	return netip.Addr{}
}

// CheckNetns makes sure that there is a network namespace, and that it is not this
// host's own. The error is of kind ErrNotFound or ErrInvalid.
func CheckNetns(pathOrName string) error {
	ns, err := openNetns(pathOrName)
	if err != nil {
		return err
	}
	defer ns.Close()
	if sameNetns(ns) {
		return &topology.Error{
			Kind: topology.ErrInvalid, Item: "network namespace " + pathOrName, What: "it is this host's own",
			Remedy: "a container without a namespace of its own has the host's network, and needs no other",
		}
	}
	return nil
}

// Inspect reads an interface of a namespace; ErrNotFound where there is none.
func Inspect(pathOrName, ifname string) (Inside, error) {
	in, h, link, err := inside(pathOrName, ifname)
	if err != nil {
		return in, err
	}
	defer h.Close()
	item := fmt.Sprintf("interface %s in network namespace %s", ifname, pathOrName)
	addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return in, failed(item, "listing its addresses", err)
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok && !p.Addr().IsLinkLocalUnicast() {
			in.Addrs = append(in.Addrs, p)
		}
	}
	in.Routes, err = routes(h, &netlink.Route{LinkIndex: link.Attrs().Index}, netlink.RT_FILTER_OIF)
	return in, err
}

// Routes reads the routes of a namespace, of all interfaces, as Inspect does.
func Routes(pathOrName string) ([]InsideRoute, error) {
	ns, err := openNetns(pathOrName)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	h, err := handleIn(ns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return routes(h, &netlink.Route{}, 0)
}

// AddRoutes adds routes by an interface of a namespace, in place of those to the same
// destinations with the same priorities.
func AddRoutes(pathOrName, ifname string, add []InsideRoute) error {
	_, h, link, err := inside(pathOrName, ifname)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, r := range add {
		route := &netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: ipNet(r.Dst.Masked()), Priority: r.Priority, MTU: r.MTU, AdvMSS: r.AdvMSS,
		}
		if r.Gateway.IsValid() {
			route.Gw = r.Gateway.AsSlice()
		} else {
			route.Scope = netlink.SCOPE_LINK
		}
		if err := h.RouteReplace(route); err != nil {
			item := fmt.Sprintf("interface %s in network namespace %s", ifname, pathOrName)
			return failed(item, "adding the route to "+r.Dst.String(), err)
		}
	}
	return nil
}

// inside finds an interface of a namespace; h is to be closed by whoever has it.
func inside(pathOrName, ifname string) (in Inside, h *netlink.Handle, link netlink.Link, err error) {
	ns, err := openNetns(pathOrName)
	if err != nil {
		return in, nil, nil, err
	}
	defer ns.Close()
	if h, err = handleIn(ns); err != nil {
		return in, nil, nil, err
	}
	item := fmt.Sprintf("interface %s in network namespace %s", ifname, pathOrName)
	link, err = linkOrNil(h, ifname)
	switch {
	case err != nil:
		err = failed(item, "looking for it", err)
	case link == nil:
		err = &topology.Error{Kind: topology.ErrNotFound, Item: item, What: "there is none"}
	default:
		a := link.Attrs()
		return Inside{Name: a.Name, MAC: a.HardwareAddr, MTU: a.MTU}, h, link, nil
	}
	h.Close()
	return in, nil, nil, err
}

// routes reads routes that match a filter.
func routes(h *netlink.Handle, filter *netlink.Route, mask uint64) (out []InsideRoute, err error) {
	filter.Table, mask = unix.RT_TABLE_MAIN, mask|netlink.RT_FILTER_TABLE
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := h.RouteListFiltered(family, filter, mask)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EAFNOSUPPORT) {
			return nil, failed("network namespace", "listing routes", err)
		}
		for _, r := range list {
			if r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA {
				continue
			}
			x := InsideRoute{Priority: r.Priority, MTU: r.MTU, AdvMSS: r.AdvMSS}
			if family == netlink.FAMILY_V6 && x.Priority == ipv6DefaultPriority {
				x.Priority = 0
			}
			x.Gateway, _ = netip.AddrFromSlice(r.Gw)
			x.Gateway = x.Gateway.Unmap()
			var ok bool
			if x.Dst, ok = prefixOf(r.Dst); !ok {
				x.Dst = defaultOf(family)
			}
			out = append(out, x)
		}
	}
	return out, nil
}

// ipv6DefaultPriority is IP6_RT_PRIO_USER (linux/ipv6_route.h), which a route gets that
// is added without one.
const ipv6DefaultPriority = 1024

func defaultOf(family int) netip.Prefix {
	if family == netlink.FAMILY_V6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), ok
}

// HostMAC returns the link address of an interface of this host.
func HostMAC(ifname string) (net.HardwareAddr, error) {
	h, err := hostHandle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	l, err := h.LinkByName(ifname)
	if err != nil {
		return nil, failed("interface "+ifname+" of this host", "reading it", err)
	}
	return l.Attrs().HardwareAddr, nil
}
