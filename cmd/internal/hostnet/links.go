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

// Devices returns the names of all devices of this host. A list that changed while it
// was read is an error: one may be missing in it.
func Devices() (map[string]bool, error) {
	h, err := hostHandle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, failed("devices of this host", "listing them", err)
	}
	out := make(map[string]bool, len(links))
	for _, l := range links {
		out[l.Attrs().Name] = true
	}
	return out, nil
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
func OnLink(a netip.Addr) bool {
	routes, err := netlink.RouteGet(a.AsSlice())
	return err == nil && len(routes) > 0 && len(routes[0].Gw) == 0 && routes[0].Via == nil && len(routes[0].MultiPath) == 0
}
