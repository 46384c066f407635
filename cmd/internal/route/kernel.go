package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dumpTries is how often a listing that a change interrupted is begun anew.
const dumpTries = 5

// Read reads the main table of both families; names are those of the devices, by
// index. Routes that the kernel itself makes (of its own addresses, for example)
// count as foreign, local and multicast ones not at all.
func Read(h *netlink.Handle, names map[int]string) (Observed, error) {
	var o Observed
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		var routes []netlink.Route
		var err error
		for range dumpTries {
			routes, err = h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
			if !errors.Is(err, netlink.ErrDumpInterrupted) {
				break
			}
		}
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return o, fmt.Errorf("routes of this host: listing them: %w", err)
		}
		for _, r := range routes {
			ours, ok := fromKernel(r, family, names)
			switch {
			case !ok:
			case r.Protocol == Protocol:
				o.Own = append(o.Own, ours)
			default:
				o.Foreign = append(o.Foreign, Foreign{Route: ours, Protocol: int(r.Protocol)})
			}
		}
	}
	return o, nil
}

func fromKernel(r netlink.Route, family int, names map[int]string) (Route, bool) {
	out := Route{Dev: names[r.LinkIndex], Metric: r.Priority, Unreachable: r.Type == unix.RTN_UNREACHABLE}
	if out.Unreachable {
		out.Dev = "" // IPv6 says lo
	}
	if r.Type != unix.RTN_UNICAST && !out.Unreachable && r.Protocol != Protocol {
		return out, false
	}
	switch {
	case r.Dst != nil:
		a, _ := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		if family == netlink.FAMILY_V4 {
			a = a.Unmap()
		}
		out.Prefix = netip.PrefixFrom(a, bits)
	case family == netlink.FAMILY_V4:
		out.Prefix = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	default:
		out.Prefix = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	out.Via, out.Src = addrOf(r.Gw), addrOf(r.Src)
	if len(r.MultiPath) > 0 { // a foreign one; the first stands for all
		out.Via, out.Dev = addrOf(r.MultiPath[0].Gw), names[r.MultiPath[0].LinkIndex]
	}
	return out, out.Prefix.IsValid()
}

// addrOf returns the zero Addr for nil.
func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// Add makes a route. The error is what the kernel answers: EEXIST where any
// route has its place, ENODEV where there is no such device.
func Add(h *netlink.Handle, r Route) error {
	k, err := toKernel(r, h, false)
	if err != nil {
		return err
	}
	return h.RouteAdd(k)
}

// Replace puts r in the place of our route of the same prefix and metric, in one
// step: no packet finds neither.
func Replace(h *netlink.Handle, r Route) error {
	k, err := toKernel(r, h, false)
	if err != nil {
		return err
	}
	return h.RouteReplace(k)
}

// Remove removes a route of ours; ESRCH where there is none.
func Remove(h *netlink.Handle, r Route) error {
	k, err := toKernel(r, h, true)
	if err != nil {
		return err
	}
	return h.RouteDel(k)
}

func toKernel(r Route, h *netlink.Handle, lenient bool) (*netlink.Route, error) {
	k := &netlink.Route{
		Dst: &net.IPNet{
			IP:   r.Prefix.Masked().Addr().AsSlice(),
			Mask: net.CIDRMask(r.Prefix.Bits(), r.Prefix.Addr().BitLen()),
		},
		Protocol: Protocol,
		Table:    unix.RT_TABLE_MAIN,
		Priority: r.metric(),
		Type:     unix.RTN_UNICAST,
	}
	if r.Src.IsValid() {
		k.Src = r.Src.AsSlice()
	}
	if r.Unreachable {
		k.Type = unix.RTN_UNREACHABLE
		return k, nil
	}
	if r.Via.IsValid() {
		k.Gw = r.Via.AsSlice()
	} else if r.Prefix.Addr().Is4() {
		k.Scope = netlink.SCOPE_LINK
	}
	l, err := h.LinkByName(r.Dev)
	switch {
	case err == nil:
		k.LinkIndex = l.Attrs().Index
	case lenient: // its routes went with a device that is gone
	case errors.As(err, new(netlink.LinkNotFoundError)):
		return nil, fmt.Errorf("device %s: %w", r.Dev, unix.ENODEV)
	default:
		return nil, err
	}
	return k, nil
}
