package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology"
)

// Underlay is where this host's tunnels end.
type Underlay struct {
	// Addrs has at most one address a family; the one that was asked for, or
	// that the kernel uses as source, comes first.
	Addrs []netip.Addr
	// Interface carries the tunnels' packets.
	Interface string
	// MAC is the interface's link address; nil where it has none.
	MAC net.HardwareAddr
	// MTU is the interface's, in bytes of IP packet.
	MTU int
}

const vtepRemedy = "name an address or an interface of this host with --vtep"

// VTEP finds the underlay. hint is an address of this host (that one alone is
// used), an interface (one address of each family it has), or empty: then the
// source address the kernel uses towards the first etcd endpoint in reach that
// is not this host's loopback, else towards the default route, with the
// interface's address of the other family.
//
// Errors are *topology.Error of kind ErrNotFound.
func VTEP(hint string, reach []netip.Addr) (Underlay, error) {
	h, err := hostHandle()
	if err != nil {
		return Underlay{}, err
	}
	defer h.Close()
	f := finder{h}
	if hint == "" {
		return f.detect(reach)
	}
	if a, err := netip.ParseAddr(hint); err == nil {
		return f.byAddr(a.Unmap())
	}
	l, err := h.LinkByName(hint)
	if isLinkNotFound(err) {
		return Underlay{}, &topology.Error{
			Kind:   topology.ErrNotFound,
			Item:   "underlay " + hint,
			What:   "neither an address nor an interface of this host",
			Remedy: "'ip address' shows what there is; " + vtepRemedy,
		}
	}
	if err != nil {
		return Underlay{}, failed("interface "+hint, "looking for it", err)
	}
	return f.byLink(l, netip.Addr{})
}

type finder struct{ h *netlink.Handle }

// byAddr uses one address of this host.
func (f finder) byAddr(a netip.Addr) (Underlay, error) {
	owner, err := f.owner(a)
	if err != nil {
		return Underlay{}, err
	}
	if owner == nil || a.IsLoopback() || !a.IsGlobalUnicast() {
		what := "no interface of this host has this address"
		if owner != nil {
			what = "peers cannot reach this address"
		}
		return Underlay{}, &topology.Error{
			Kind:   topology.ErrNotFound,
			Item:   "underlay " + a.String(),
			What:   what,
			Remedy: "'ip address' shows what there is; " + vtepRemedy,
		}
	}
	// A router's own address often sits on lo; packets leave elsewhere.
	if owner.Attrs().Flags&net.FlagLoopback != 0 {
		if l, _, err := f.defaultRoute(); err == nil && l != nil {
			owner = l
		}
	}
	return underlay(owner, []netip.Addr{a}), nil
}

// byLink uses an interface's addresses; prefer, if valid, stands for the one of
// its family, wherever it sits.
func (f finder) byLink(l netlink.Link, prefer netip.Addr) (Underlay, error) {
	var addrs []netip.Addr
	if prefer.IsValid() {
		addrs = append(addrs, prefer)
	}
	for _, family := range []topology.Family{topology.IPv4, topology.IPv6} {
		if prefer.IsValid() && topology.FamilyOf(prefer) == family {
			continue
		}
		nl := netlink.FAMILY_V4
		if family == topology.IPv6 {
			nl = netlink.FAMILY_V6
		}
		list, err := f.h.AddrList(l, nl)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return Underlay{}, failed("interface "+l.Attrs().Name, "listing its addresses", err)
		}
		if i := slices.IndexFunc(list, usable); i >= 0 {
			addrs = append(addrs, addrOf(list[i].IP))
		}
	}
	if len(addrs) == 0 {
		return Underlay{}, &topology.Error{
			Kind:   topology.ErrNotFound,
			Item:   "interface " + l.Attrs().Name,
			What:   "it has no address peers could reach",
			Remedy: "give it one, or " + vtepRemedy,
		}
	}
	return underlay(l, addrs), nil
}

// usable reports whether an address may be a tunnel's end: global, and not one
// that the kernel is about to withdraw or has not got yet. An IPv4 secondary
// has the same flag as an IPv6 temporary address.
func usable(a netlink.Addr) bool {
	const passing = unix.IFA_F_TEMPORARY | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	ip := addrOf(a.IP)
	return ip.IsGlobalUnicast() && !ip.IsLinkLocalUnicast() && a.Flags&passing == 0 &&
		(a.Scope == int(netlink.SCOPE_UNIVERSE) || a.Scope == int(netlink.SCOPE_SITE))
}

// detect finds out by routes.
func (f finder) detect(reach []netip.Addr) (Underlay, error) {
	for _, to := range reach {
		to = to.Unmap().WithZone("")
		if !to.IsValid() || to.IsLoopback() || to.IsUnspecified() || to.IsLinkLocalUnicast() {
			continue
		}
		routes, err := f.h.RouteGet(to.AsSlice())
		if err != nil || len(routes) == 0 {
			continue // no route to this one: the next may have
		}
		l, src, err := f.leaving(routes[0])
		if err != nil {
			return Underlay{}, err
		}
		if l == nil || !src.IsGlobalUnicast() || src.IsLoopback() {
			continue
		}
		return f.byLink(l, src)
	}
	l, src, err := f.defaultRoute()
	if err != nil {
		return Underlay{}, err
	}
	if l == nil {
		what := "this host has no default route"
		if len(reach) > 0 {
			what = fmt.Sprintf("none of %v is another host with a route to it, and %s", reach, what)
		}
		return Underlay{}, &topology.Error{Kind: topology.ErrNotFound, Item: "underlay", What: what, Remedy: vtepRemedy}
	}
	return f.byLink(l, src)
}

// leaving returns the interface and source address of a route. For a route to
// this host itself they are those of the address.
func (f finder) leaving(r netlink.Route) (netlink.Link, netip.Addr, error) {
	src := addrOf(r.Src)
	index := r.LinkIndex
	if index == 0 && len(r.MultiPath) > 0 {
		index = r.MultiPath[0].LinkIndex
	}
	l, err := f.h.LinkByIndex(index)
	if isLinkNotFound(err) {
		return nil, src, nil // gone since
	}
	if err != nil {
		return nil, src, failed("interfaces of this host", "looking one up", err)
	}
	if l.Attrs().Flags&net.FlagLoopback != 0 {
		l, err = f.owner(src)
		if l != nil && l.Attrs().Flags&net.FlagLoopback != 0 {
			l = nil
		}
	}
	return l, src, err
}

// defaultRoute returns the interface of the default route of lowest metric,
// IPv4 first, with the source address it prescribes, if any; nil for none.
func (f finder) defaultRoute() (netlink.Link, netip.Addr, error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := f.h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, netip.Addr{}, failed("routes of this host", "listing them", err)
		}
		routes = slices.DeleteFunc(routes, func(r netlink.Route) bool { return !isDefault(r) || r.Type != unix.RTN_UNICAST })
		slices.SortStableFunc(routes, func(a, b netlink.Route) int { return a.Priority - b.Priority })
		for _, r := range routes {
			if l, src, err := f.leaving(r); err != nil || l != nil {
				return l, src, err
			}
		}
	}
	return nil, netip.Addr{}, nil
}

// owner returns the interface that has an address; nil for none.
func (f finder) owner(a netip.Addr) (netlink.Link, error) {
	all, err := f.h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, failed("addresses of this host", "listing them", err)
	}
	for _, have := range all {
		if addrOf(have.IP) != a {
			continue
		}
		l, err := f.h.LinkByIndex(have.LinkIndex)
		return l, failed("interfaces of this host", "looking one up", err)
	}
	return nil, nil
}

func underlay(l netlink.Link, addrs []netip.Addr) Underlay {
	return Underlay{Addrs: addrs, Interface: l.Attrs().Name, MAC: l.Attrs().HardwareAddr, MTU: l.Attrs().MTU}
}

// addrOf returns the zero Addr for nil.
func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
