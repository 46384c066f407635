package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// HostPort is this host's own port in a network, a device that Open vSwitch
// has made.
type HostPort struct {
	Name  string
	MAC   net.HardwareAddr
	MTU   int
	Addrs []netip.Addr
	// Neighbours are link addresses that are set for good.
	Neighbours map[netip.Addr]net.HardwareAddr
}

// SetHostPort brings a host port to its state and changes only what differs:
// up, with its MAC and MTU, and exactly these global addresses. They are single
// addresses (/32, /128): which of the network's addresses are beyond the port
// is a matter of routes. Neighbours are set, and others left alone. The error is
// of kind ErrNotFound while there is no such device.
func SetHostPort(p HostPort) error {
	item := "host port " + p.Name
	h, err := hostHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(p.Name)
	if err != nil {
		return failed(item, "looking for it", err)
	}
	if err := hostPortSysctls(p.Name); err != nil {
		return err
	}
	if err := p.setLink(h, l); err != nil {
		return err
	}
	have, err := h.AddrList(l, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return failed(item, "listing its addresses", err)
	}
	if err := p.addAddresses(h, l, have); err != nil {
		return err
	}
	for _, x := range have {
		if a := addrOf(x.IP); a.IsLinkLocalUnicast() || (slices.Contains(p.Addrs, a) && isSingle(x.Mask)) {
			continue
		}
		if err := h.AddrDel(l, &x); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return failed(item, "removing the address "+x.IP.String(), err)
		}
	}
	return setNeighbours(h, l, p.Neighbours)
}

// setLink gives the device its MAC and MTU, which Open vSwitch sets as well, in
// its own time, and sets it up.
func (p HostPort) setLink(h *netlink.Handle, l netlink.Link) error {
	item := "host port " + p.Name
	if l.Attrs().HardwareAddr.String() != p.MAC.String() {
		if err := h.LinkSetHardwareAddr(l, p.MAC); err != nil {
			return failed(item, "setting its MAC", err)
		}
	}
	if l.Attrs().MTU != p.MTU {
		if err := h.LinkSetMTU(l, p.MTU); err != nil {
			return failed(item, "setting its MTU", err)
		}
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(l); err != nil {
			return failed(item, "setting it up", err)
		}
	}
	return nil
}

// addAddresses adds the addresses that the device does not have.
func (p HostPort) addAddresses(h *netlink.Handle, l netlink.Link, have []netlink.Addr) error {
	for _, want := range p.prefixes() {
		a := want.Addr()
		if slices.ContainsFunc(have, func(x netlink.Addr) bool {
			ones, _ := x.Mask.Size()
			return addrOf(x.IP) == a && ones == want.Bits()
		}) {
			continue
		}
		// No duplicate address detection: the address is leased.
		add := &netlink.Addr{
			IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(want.Bits(), a.BitLen())}, Flags: unix.IFA_F_NODAD,
		}
		if a.Is4() {
			add.Flags = 0
		}
		if err := h.AddrReplace(l, add); err != nil {
			return failed("host port "+p.Name, "giving it the address "+a.String(), err)
		}
	}
	return nil
}

func setNeighbours(h *netlink.Handle, l netlink.Link, want map[netip.Addr]net.HardwareAddr) error {
	if len(want) == 0 {
		return nil
	}
	item := "host port " + l.Attrs().Name
	have, err := h.NeighList(l.Attrs().Index, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return failed(item, "listing its neighbours", err)
	}
	for a, mac := range want {
		if slices.ContainsFunc(have, func(n netlink.Neigh) bool {
			return addrOf(n.IP) == a && n.HardwareAddr.String() == mac.String() && n.State == netlink.NUD_PERMANENT
		}) {
			continue
		}
		family := netlink.FAMILY_V4
		if a.Is6() {
			family = netlink.FAMILY_V6
		}
		n := &netlink.Neigh{
			LinkIndex:    l.Attrs().Index,
			Family:       family,
			State:        netlink.NUD_PERMANENT,
			IP:           a.AsSlice(),
			HardwareAddr: mac,
		}
		if err := h.NeighSet(n); err != nil {
			return failed(item, "setting its neighbour "+a.String(), err)
		}
	}
	return nil
}

// prefixes are the addresses with their lengths. The link-local one is among
// them where the port has IPv6: the kernel makes it once, and asks for no
// neighbour (RFC 4861) after somebody removed it.
func (p HostPort) prefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, a := range p.Addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	if slices.ContainsFunc(p.Addrs, netip.Addr.Is6) {
		out = append(out, netip.PrefixFrom(ovs.LinkLocal(p.MAC), 64))
	}
	return out
}

func isSingle(m net.IPMask) bool {
	ones, bits := m.Size()
	return ones == bits
}

// sysctlDir is where the kernel has its settings of networks (proc(5)).
const sysctlDir = "/proc/sys/net"

// hostPortSysctls sets what a host port needs. Endpoints are no routers and
// are told of none; a port answers for its own addresses only.
func hostPortSysctls(dev string) error {
	for _, s := range [...]struct{ key, value string }{
		{"ipv6/conf/" + dev + "/disable_ipv6", "0"},
		{"ipv6/conf/" + dev + "/accept_ra", "0"},
		{"ipv6/conf/" + dev + "/accept_redirects", "0"},
		{"ipv6/conf/" + dev + "/dad_transmits", "0"},
		{"ipv4/conf/" + dev + "/send_redirects", "0"},
		{"ipv4/conf/" + dev + "/accept_redirects", "0"},
		{"ipv4/conf/" + dev + "/arp_ignore", "1"},
		// Endpoints' addresses are guarded by Open vSwitch.
		{"ipv4/conf/" + dev + "/rp_filter", "0"},
	} {
		if _, err := changeSysctl(s.key, s.value); err != nil {
			return err
		}
	}
	return nil
}

// changeSysctl sets a setting and reports whether it had another value.
func changeSysctl(key, value string) (changed bool, err error) {
	have, err := sysctl(key)
	if err != nil || have == "" || have == value {
		return false, err
	}
	return true, failed("sysctl net/"+key, "setting it to "+value, setSysctl(filepath.Join(sysctlDir, key), value))
}

// sysctl reads a setting; "" where the kernel does not have it.
func sysctl(key string) (string, error) {
	b, err := os.ReadFile(filepath.Join(sysctlDir, key))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", failed("sysctl net/"+key, "reading it", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Forward makes this host a router of the families, and returns what it changed
// as sysctl(8) writes it. A host that forwards IPv6 ignores router
// advertisements unless told otherwise: devices that heed them go on doing so.
func Forward(families ...topology.Family) (changed []string, err error) {
	set := func(key, value string) error {
		did, err := changeSysctl(key, value)
		if did {
			changed = append(changed, "net."+strings.ReplaceAll(key, "/", ".")+"="+value)
		}
		return err
	}
	for _, f := range families {
		if f == topology.IPv4 {
			if err := set("ipv4/ip_forward", "1"); err != nil {
				return changed, err
			}
			continue
		}
		if on, err := sysctl("ipv6/conf/all/forwarding"); err != nil || on == "1" {
			if err != nil {
				return changed, err
			}
			continue
		}
		devices, err := filepath.Glob(filepath.Join(sysctlDir, "ipv6/conf/*/accept_ra"))
		if err != nil {
			return changed, err
		}
		for _, d := range devices {
			key, _ := filepath.Rel(sysctlDir, d)
			if heeds, err := sysctl(key); err == nil && heeds == "1" && filepath.Base(filepath.Dir(d)) != "lo" {
				if err := set(key, "2"); err != nil {
					return changed, err
				}
			}
		}
		if err := set("ipv6/conf/all/forwarding", "1"); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// StrictReversePath reports whether the kernel drops IPv4 packets that arrive
// on a device other than the one it would answer by (rp_filter, RFC 3704).
func StrictReversePath(dev string) bool {
	strictest := "0"
	for _, d := range []string{"all", dev} {
		// The greater of the two is in force: 1 is strict, 2 loose.
		if v, err := sysctl(fmt.Sprintf("ipv4/conf/%s/rp_filter", d)); err == nil {
			strictest = max(strictest, v)
		}
	}
	return strictest == "1"
}
