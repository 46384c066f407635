package proof

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Endpoint is an endpoint that the lab attached.
type Endpoint struct {
	Name    string       `json:"name"`
	Node    string       `json:"node"`
	Network string       `json:"network"`
	IPs     []netip.Addr `json:"ips"`
	MAC     string       `json:"mac"`
	MTU     int          `json:"mtu"`
}

// String returns "HOST/ENDPOINT".
func (e Endpoint) String() string { return e.Node + "/" + e.Name }

// Look fills in what the namespace shows.
func (e *Endpoint) Look(path string) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return err
	}
	for _, l := range links {
		if l.Type() != "veth" {
			continue
		}
		addrs, err := h.AddrList(l, netlink.FAMILY_ALL)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && a.Scope == int(netlink.SCOPE_UNIVERSE) {
				e.IPs = append(e.IPs, ip.Unmap())
				e.MAC, e.MTU = l.Attrs().HardwareAddr.String(), l.Attrs().MTU
			}
		}
	}
	slices.SortFunc(e.IPs, netip.Addr.Compare)
	return nil
}
