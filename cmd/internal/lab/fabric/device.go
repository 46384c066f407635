package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func checksumsOff(device string) error {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("ethtool: %w", err)
	}
	defer e.Close()
	if err := e.Change(device, map[string]bool{"tx-checksum-ip-generic": false}); err != nil {
		return fmt.Errorf("ethtool -K %s tx off: %w", device, err)
	}
	return nil
}

// setAddrs gives a device exactly these global addresses and sets it up.
func setAddrs(device string, addrs []netip.Prefix) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("device %s: %w", device, err)
	}
	have, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("addresses of %s: %w", device, err)
	}
	for _, a := range addrs {
		want := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			want.Flags = unix.IFA_F_NODAD // the numbers are ours: no second of waiting
		}
		if slices.ContainsFunc(have, func(h netlink.Addr) bool { return h.Equal(*want) }) {
			continue
		}
		if err := netlink.AddrReplace(l, want); err != nil {
			return fmt.Errorf("address %s of %s: %w", a, device, err)
		}
	}
	if l.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", device, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// setGateways makes default routes through a device.
func setGateways(device string, gateways []netip.Addr) error {
	if len(gateways) == 0 {
		return nil
	}
	l, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("device %s: %w", device, err)
	}
	for _, g := range gateways {
		unspecified := netip.IPv4Unspecified()
		if g.Is6() {
			unspecified = netip.IPv6Unspecified()
		}
		r := &netlink.Route{
			LinkIndex: l.Attrs().Index, Gw: g.AsSlice(), Dst: ipNet(netip.PrefixFrom(unspecified, 0)),
			Protocol: unix.RTPROT_STATIC,
		}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("default route through %s: %w", g, err)
		}
	}
	return nil
}
