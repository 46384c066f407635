package hostnet

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/baize-net/baize/topology"
)

// LinkExists reports whether this host has a device of that name. When the
// kernel does not answer it says yes: nothing may be cleaned up on a guess.
func LinkExists(name string) bool {
	_, err := netlink.LinkByName(name)
	var notFound netlink.LinkNotFoundError
	return !errors.As(err, &notFound)
}

// DeviceCalled returns the first name of the device of this host that has a name, as its
// first or as its second one (altname of ip-link(8)); "" where there is none.
func DeviceCalled(name string) string {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return ""
	}
	return l.Attrs().Name
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

// DeviceTo returns the device that packets to an address leave this host by.
func DeviceTo(a netip.Addr) (string, error) {
	h, err := hostHandle()
	if err != nil {
		return "", err
	}
	defer h.Close()
	routes, err := h.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return "", failed("route to "+a.String(), "looking for it", err)
	}
	l, _, err := finder{h}.leaving(routes[0])
	if err == nil && l == nil {
		err = &topology.Error{
			Kind: topology.ErrNotFound, Item: "route to " + a.String(), What: "leads to no device",
			Remedy: "'ip route get " + a.String() + "' shows it",
		}
	}
	if err != nil {
		return "", err
	}
	return l.Attrs().Name, nil
}

// OnLink reports whether the kernel reaches an address without a router.
func OnLink(a netip.Addr) bool {
	routes, err := netlink.RouteGet(a.AsSlice())
	return err == nil && len(routes) > 0 && len(routes[0].Gw) == 0 && routes[0].Via == nil && len(routes[0].MultiPath) == 0
}
