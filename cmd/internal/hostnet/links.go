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

// OnLink reports whether the kernel reaches an address without a router.
func OnLink(a netip.Addr) bool {
	routes, err := netlink.RouteGet(a.AsSlice())
	return err == nil && len(routes) > 0 && len(routes[0].Gw) == 0 && routes[0].Via == nil
}
