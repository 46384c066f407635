package hostnet

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// LinkExists reports whether this host has a device of that name. When the
// kernel does not answer it says yes: nothing may be cleaned up on a guess.
func LinkExists(name string) bool {
	_, err := netlink.LinkByName(name)
	var notFound netlink.LinkNotFoundError
	return !errors.As(err, &notFound)
}

// DeviceOf returns a device of this host that has an address of a prefix, not
// counting one; "" where there is none.
func DeviceOf(p netip.Prefix, but string) (string, error) {
	h, err := hostHandle()
	if err != nil {
		return "", err
	}
	defer h.Close()
	all, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return "", failed("addresses of this host", "listing them", err)
	}
	for _, a := range all {
		if !p.Contains(addrOf(a.IP)) {
			continue
		}
		l, err := h.LinkByIndex(a.LinkIndex)
		if err != nil {
			continue // gone since
		}
		if name := l.Attrs().Name; name != but {
			return name, nil
		}
	}
	return "", nil
}

// OnLink reports whether the kernel reaches an address without a router.
func OnLink(a netip.Addr) bool { return OnLinkDevice(a) != "" }

// OnLinkDevice returns the device by which the kernel reaches an address
// without a router; "" where there is a router, or no way at all. An address of
// this host itself is on lo.
func OnLinkDevice(a netip.Addr) string {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 || len(routes[0].Gw) > 0 || routes[0].Via != nil || len(routes[0].MultiPath) > 0 {
		return ""
	}
	l, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return ""
	}
	return l.Attrs().Name
}
