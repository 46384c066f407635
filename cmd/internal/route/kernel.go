package route

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/kernel/follow"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// netlinkTimeout bounds one netlink request.
const netlinkTimeout = 5 * time.Second

func handle() (*netlink.Handle, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("routes of this host: opening netlink: %w", err)
	}
	if err := h.SetSocketTimeout(netlinkTimeout); err != nil {
		h.Close()
		return nil, fmt.Errorf("routes of this host: %w", err)
	}
	return h, nil
}

// Observe reads the main table of both families, in the network namespace of
// the calling thread. Routes that the kernel itself makes (of its own
// addresses, for example) count as foreign, local and multicast ones not at
// all.
func Observe() (Observed, error) {
	h, err := handle()
	if err != nil {
		return Observed{}, err
	}
	defer h.Close()
	names, err := linkNames(h)
	if err != nil {
		return Observed{}, err
	}
	return Read(h, names)
}

// dumpTries is how often a listing that a change interrupted is begun anew.
const dumpTries = 5

// Read is Observe by a handle that is open, and with the names of the devices,
// by index.
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

func linkNames(h *netlink.Handle) (map[int]string, error) {
	links, err := h.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("interfaces of this host: listing them: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names, nil
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

// Apply makes a change. A route that cannot be made costs only itself; the
// errors are joined. What is gone already is no error.
func Apply(c Change) error {
	if c.Empty() {
		return nil
	}
	h, err := handle()
	if err != nil {
		return err
	}
	defer h.Close()
	var errs []error
	for _, r := range c.Add {
		errs = append(errs, failed("add", r, Add(h, r)))
	}
	for _, r := range c.Replace {
		errs = append(errs, failed("replace", r, Replace(h, r)))
	}
	for _, r := range c.Remove {
		if err := Remove(h, r); !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, failed("remove", r, err))
		}
	}
	return errors.Join(errs...)
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

func failed(verb string, r Route, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EEXIST) {
		return &topology.Error{
			Kind:   topology.ErrConflict,
			Item:   "route " + r.Prefix.String(),
			What:   "another route occupies its place",
			Remedy: "see 'ip route show " + r.Prefix.String() + "'",
		}
	}
	return fmt.Errorf("route %s: %s: %w", r, verb, err)
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

// Sync does it all: observe, compare, apply. It returns what it changed.
func Sync(want []Route) (Change, []fault.Fault, error) {
	have, err := Observe()
	if err != nil {
		return Change{}, nil, err
	}
	c, problems := Diff(want, have)
	return c, problems, Apply(c)
}

// Cleanup removes every route of Baize's and nothing else, and returns them.
func Cleanup() ([]Route, error) {
	c, _, err := Sync(nil)
	return c.Remove, err
}

// watchPause is the least time between two calls of fire: a host with a full
// table of a routing daemon changes all the time.
const watchPause = 100 * time.Millisecond

// Watch calls fire once at the start and whenever a route of this host
// changes, until ctx ends; it then returns ctx's error. fire is a trigger to
// look again, called from the calling goroutine: it must not block. Where the
// kernel cannot be followed it tries again, and fires when it can.
func Watch(ctx context.Context, fire func()) error {
	return follow.Run(ctx, follow.Subscription{
		Open: follow.Netlink(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE),
		Fire: func() {
			fire()
			select {
			case <-ctx.Done():
			case <-time.After(watchPause):
			}
		},
	})
}
