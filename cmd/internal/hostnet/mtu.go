package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// minIPv6MTU is below what Linux takes IPv6 off an interface (RFC 8200 section 5).
const minIPv6MTU = 1280

// LowerMTU makes the MTU of both ends of an endpoint's veth mtu bytes where it is
// larger; the one inside is found by its MAC. was is what it was, also where it
// cannot be lowered; 0 where nothing had to be done. The end on the host is lowered
// last, and tells whether the other one was: an endpoint may raise its own again.
func LowerMTU(port, pathOrName string, mac net.HardwareAddr, mtu int) (was int, err error) {
	host, err := hostHandle()
	if err != nil {
		return 0, err
	}
	defer host.Close()
	end, err := linkOrNil(host, port)
	if err != nil || end == nil || end.Type() != "veth" || end.Attrs().MTU <= mtu {
		return 0, err
	}
	was = end.Attrs().MTU
	if mtu < minIPv6MTU {
		return was, fmt.Errorf("an interface with less than %d loses IPv6", minIPv6MTU)
	}
	if err := lowerInside(pathOrName, mac, mtu); err != nil {
		return was, err
	}
	return was, failed("interface "+port, "setting its MTU", host.LinkSetMTU(end, mtu))
}

func lowerInside(pathOrName string, mac net.HardwareAddr, mtu int) error {
	ns, err := openNetns(pathOrName)
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := handleIn(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := listLinks(h, pathOrName)
	if err != nil {
		return err
	}
	for _, l := range links {
		at := l.Attrs()
		if l.Type() != "veth" || !bytes.Equal(at.HardwareAddr, mac) {
			continue
		}
		if at.MTU <= mtu {
			return nil
		}
		return failed("interface "+at.Name+" in "+pathOrName, "setting its MTU", h.LinkSetMTU(l, mtu))
	}
	return fmt.Errorf("no interface in %s has its MAC %s", pathOrName, mac)
}

// listLinks lists the interfaces of a namespace.
func listLinks(h *netlink.Handle, pathOrName string) ([]netlink.Link, error) {
	links, err := h.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, failed("interfaces of "+pathOrName, "listing them", err)
	}
	return links, nil
}
