package hostnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology"
)

// AttachSpec is a veth pair from this host into a namespace.
type AttachSpec struct {
	// Netns is the namespace: a path, or a name under /run/netns.
	Netns string
	// Ifname is the interface's name inside, HostIfname on this host.
	Ifname, HostIfname string
	// HostAltname, unless empty, is a second name of the interface on this host, by which
	// those find it who do not know the first (altname of ip-link(8)). Linux before 5.5 has
	// none: Attach fails with errors.ErrUnsupported then.
	HostAltname string
	// MAC is the container end's link address, 48 bits, unicast.
	MAC net.HardwareAddr
	// Addrs are the container end's addresses, each with the network's mask.
	Addrs []netip.Prefix
	// MTU is that of both ends, in bytes of IP packet.
	MTU int
	// Gateways become default routes, at most one a family. A family that has
	// a default route by another interface keeps that one.
	Gateways []netip.Addr
	// ChecksumOffload false makes the container's kernel finish checksums by
	// itself (ethtool -K IFNAME tx off): a userspace datapath reads frames as
	// they are, and TCP dies where pings pass.
	ChecksumOffload bool
	// HostIngressDrop keeps this host's IP stack from taking part in what
	// arrives at the host end. A userspace datapath reads a copy of each frame
	// and leaves the original to the kernel; the kernel datapath takes it away.
	HostIngressDrop bool
	// Bridge makes the container end a port of a Linux bridge in its namespace:
	// it has no addresses then, of its own or of the kernel's making. A bridge
	// that is not there yet is no error, see Enslave.
	Bridge string
}

// Attach makes the pair. On an error nothing of it is left. A pair between the
// same two names with the same MAC is taken as it is, and what differs (MTU,
// missing addresses, a link that is down) is set right: Attach may be repeated,
// also after being killed half-way.
//
// Errors are *topology.Error of kind ErrInvalid, ErrNotFound (no namespace),
// ErrExists (either name is taken), ErrUnavailable (no privileges).
func Attach(ctx context.Context, spec AttachSpec) error {
	return attachBy(ctx, spec, func(a *attachment) []func() error {
		return []func() error{a.quietHostEnd, a.configureInside, a.addRoutes, a.verify, a.hostUp}
	})
}

// attachBy makes the pair, unless it is there, and takes steps with it.
func attachBy(ctx context.Context, spec AttachSpec, steps func(*attachment) []func() error) (err error) {
	if err := spec.check(); err != nil {
		return err
	}
	ns, err := openNetns(spec.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	host, err := hostHandle()
	if err != nil {
		return err
	}
	defer host.Close()
	inside, err := handleIn(ns)
	if err != nil {
		return err
	}
	defer inside.Close()

	a := attachment{AttachSpec: spec, ns: ns, host: host, inside: inside}
	there, err := a.find()
	if err != nil {
		return err
	}
	if !there {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := a.create(); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, a.undo())
			}
		}()
	}
	for _, step := range steps(&a) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("attaching %s: %w", a.item(), err)
		}
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// check says whether the spec makes sense by itself.
func (s AttachSpec) check() error {
	bad := func(item, what, remedy string) error {
		return &topology.Error{Kind: topology.ErrInvalid, Item: item, What: what, Remedy: remedy}
	}
	for _, name := range []string{s.Ifname, s.HostIfname} {
		if !ValidIfname(name) {
			return bad(
				fmt.Sprintf("interface name %q", name),
				"the kernel does not take it",
				"use 1 to 15 characters without '/', ':' and white space",
			)
		}
	}
	if _, err := topology.ParseMAC(s.MAC.String()); err != nil {
		return bad("interface "+s.Ifname, err.Error(), "use a unicast Ethernet address such as 02:42:0a:01:05:02")
	}
	for _, p := range s.Addrs {
		if !p.IsValid() {
			return bad("interface "+s.Ifname, "an address is not valid", "")
		}
	}
	families := map[topology.Family]bool{}
	for _, g := range s.Gateways {
		f := topology.FamilyOf(g)
		if !g.IsValid() || families[f] {
			return bad("interface "+s.Ifname, fmt.Sprintf("gateway %s: at most one valid gateway a family", g), "")
		}
		families[f] = true
		if !slices.ContainsFunc(s.Addrs, func(p netip.Prefix) bool { return p.Contains(g) }) {
			return bad(
				"interface "+s.Ifname,
				fmt.Sprintf("gateway %s is outside the prefix of its addresses", g),
				"choose a gateway inside the network",
			)
		}
	}
	// ETH_MIN_MTU and ETH_MAX_MTU: what a veth takes.
	if s.MTU < 68 || s.MTU > 65535 {
		return bad("interface "+s.Ifname, fmt.Sprintf("MTU %d is out of range", s.MTU), "use 68 to 65535")
	}
	return nil
}

// ValidIfname reports whether the kernel takes a name for a device: its dev_valid_name().
func ValidIfname(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) >= unix.IFNAMSIZ {
		return false
	}
	for _, c := range []byte(s) {
		if c == '/' || c == ':' || c <= ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

// attachment is one Attach at work.
type attachment struct {
	AttachSpec
	ns           *os.File
	host, inside *netlink.Handle
	// hostEnd and peer are the two ends once they are there.
	hostEnd, peer netlink.Link
}

func (a *attachment) item() string {
	return fmt.Sprintf("interface %s in network namespace %s", a.Ifname, a.Netns)
}

func (a *attachment) hostItem() string { return "interface " + a.HostIfname + " of this host" }

// find looks whether the pair is there. Anything else that has one of the
// names is an error.
func (a *attachment) find() (there bool, err error) {
	h, err := linkOrNil(a.host, a.HostIfname)
	if err != nil {
		return false, failed(a.hostItem(), "looking for it", err)
	}
	p, err := linkOrNil(a.inside, a.Ifname)
	if err != nil {
		return false, failed(a.item(), "looking for it", err)
	}
	exists := func(item, what, remedy string) (bool, error) {
		return false, &topology.Error{Kind: topology.ErrExists, Item: item, What: what, Remedy: remedy}
	}
	switch {
	case h == nil && p == nil:
		return false, nil
	case h == nil:
		return exists(a.item(), "the name is taken", "choose another with --ifname")
	case h.Type() != "veth":
		return exists(
			a.hostItem(),
			"the name is taken by a "+h.Type(),
			"rename it with 'ip link set "+a.HostIfname+" name NEW'",
		)
	case p == nil || !a.paired(h, p):
		return exists(
			a.hostItem(),
			fmt.Sprintf("its other end is not %s", a.item()),
			"remove the endpoint that uses it, or 'ip link delete "+a.HostIfname+"' if none does",
		)
	case !bytes.Equal(p.Attrs().HardwareAddr, a.MAC):
		return exists(
			a.item(),
			fmt.Sprintf("it is attached with MAC %s, not %s", p.Attrs().HardwareAddr, a.MAC),
			"remove that endpoint first",
		)
	}
	a.hostEnd, a.peer = h, p
	return true, nil
}

// paired reports whether two links are the ends of one veth pair: each names
// the other's index, and the host end the other's namespace.
func (a *attachment) paired(h, p netlink.Link) bool {
	if p.Type() != "veth" || h.Attrs().ParentIndex != p.Attrs().Index || p.Attrs().ParentIndex != h.Attrs().Index {
		return false
	}
	if h.Attrs().NetNsID < 0 { // in this host's own namespace
		return sameNetns(a.ns)
	}
	id, err := a.host.GetNetNsIdByFd(int(a.ns.Fd()))
	return err == nil && id == h.Attrs().NetNsID
}

// sameNetns reports whether ns is the calling thread's own namespace.
func sameNetns(ns *os.File) bool {
	var a, b unix.Stat_t
	return unix.Fstat(int(ns.Fd()), &a) == nil && unix.Stat("/proc/thread-self/ns/net", &b) == nil &&
		a.Dev == b.Dev && a.Ino == b.Ino
}

func linkOrNil(h *netlink.Handle, name string) (netlink.Link, error) {
	l, err := h.LinkByName(name)
	if isLinkNotFound(err) {
		return nil, nil
	}
	return l, err
}

// create makes the pair in one request: the peer is born in its namespace
// under its own name, so it never passes through the host's.
func (a *attachment) create() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = a.HostIfname, a.MTU
	// The bridge takes the lowest MAC of its ports as its own, and systemd
	// rewrites drawn ones: fe and the peer's other bytes is high and settled.
	attrs.HardwareAddr = append(net.HardwareAddr{0xfe}, a.MAC[1:]...)
	pair := &netlink.Veth{
		LinkAttrs: attrs, PeerName: a.Ifname, PeerHardwareAddr: a.MAC, PeerMTU: uint32(a.MTU),
		PeerNamespace: netlink.NsFd(int(a.ns.Fd())), PeerTxQLen: -1,
	}
	if err := a.host.LinkAdd(pair); err != nil {
		return failed("veth pair "+a.HostIfname+" to "+a.item(), "making it", err)
	}
	a.hostEnd = pair
	if a.HostAltname != "" {
		if err := a.host.LinkAddAltName(pair, a.HostAltname); err != nil {
			return errors.Join(failed(a.hostItem(), "giving it the name "+a.HostAltname, err), a.undo())
		}
	}
	peer, err := a.inside.LinkByName(a.Ifname)
	if err != nil {
		return errors.Join(failed(a.item(), "finding it", err), a.undo())
	}
	a.peer = peer
	return nil
}

// undo removes what create made.
func (a *attachment) undo() error {
	err := a.host.LinkDel(a.hostEnd)
	if isLinkNotFound(err) || errors.Is(err, unix.ENODEV) {
		err = nil
	}
	if a.HostIngressDrop {
		err = errors.Join(err, removeIngressDrop(a.HostIfname))
	}
	return failed(a.hostItem(), "removing it again", err)
}

// quietHostEnd keeps the host's IP stack away from the host end, before it is
// up: no IPv6, hence no link-local address, and no answer to ARP.
func (a *attachment) quietHostEnd() error {
	if a.HostIngressDrop {
		if err := addIngressDrop(a.HostIfname); err != nil {
			return err
		}
	}
	if err := setAddrGenMode(a.host, a.hostEnd, addrGenNone); err != nil {
		return failed(a.hostItem(), "switching IPv6 addresses off", err)
	}
	// Without the mode above this would not be enough on a host whose /proc/sys
	// is read-only, so that one failure may pass.
	if err := SetSysctl(ipv6Sysctl(a.HostIfname), "1"); err != nil && !errors.Is(err, unix.EROFS) {
		return failed(a.hostItem(), "switching IPv6 off", err)
	}
	return failed(a.hostItem(), "switching ARP off", a.host.LinkSetARPOff(a.hostEnd))
}

// The values of IFLA_INET6_ADDR_GEN_MODE (linux/if_link.h).
const (
	addrGenEUI64 = 0
	addrGenNone  = 1
)

// setAddrGenMode sets how a device of the calling thread's network namespace forms
// its link-local address, where that is not so yet: the kernel tells everybody who
// watches links of a mode that is set, also of the same one. Whoever attaches again
// at each such message would never rest, and Open vSwitch, which looks at the device
// anew each time, would lose packets.
func setAddrGenMode(h *netlink.Handle, l netlink.Link, mode int) error {
	is, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + l.Attrs().Name + "/addr_gen_mode")
	if err == nil && strings.TrimSpace(string(is)) == strconv.Itoa(mode) {
		return nil
	}
	err = h.LinkSetIP6AddrGenMode(l, mode)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // a kernel without IPv6
	}
	return err
}

func ipv6Sysctl(ifname string) string {
	return "/proc/sys/net/ipv6/conf/" + ifname + "/disable_ipv6"
}

// SetSysctl writes a value unless it stands already, so that a read-only
// /proc/sys matters only where something has to change. A kernel without the
// file has nothing to set.
func SetSysctl(path, value string) error {
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case string(bytes.TrimSpace(old)) == value:
		return nil
	}
	err = os.WriteFile(path, []byte(value), 0o644)
	if errors.Is(err, unix.EROFS) && os.WriteFile("/proc/1/root"+path, []byte(value), 0o644) == nil {
		// A container's /proc/sys is read-only (OCI runtime-spec, readonlyPaths), but
		// not that of its host, for those who see the host's processes. In both, what
		// is below net follows the thread's namespace.
		return nil
	}
	return err
}

func (a *attachment) configureInside() error {
	if a.peer.Attrs().MTU != a.MTU {
		if err := a.inside.LinkSetMTU(a.peer, a.MTU); err != nil {
			return failed(a.item(), "setting its MTU", err)
		}
	}
	if a.hostEnd.Attrs().MTU != a.MTU {
		if err := a.host.LinkSetMTU(a.hostEnd, a.MTU); err != nil {
			return failed(a.hostItem(), "setting its MTU", err)
		}
	}
	if a.Bridge != "" {
		return a.enslaveInside()
	}
	// What /proc/sys/net shows and which device ethtool means follow the thread.
	err := inNetns(a.ns, func() error {
		// The link-local address the rest of Baize expects of a MAC, whatever the
		// namespace's default says.
		if err := setAddrGenMode(a.inside, a.peer, addrGenEUI64); err != nil {
			return failed(a.item(), "setting how it forms its link-local address", err)
		}
		if a.hasIPv6() {
			if err := SetSysctl(ipv6Sysctl(a.Ifname), "0"); err != nil {
				return failed(a.item(), "switching IPv6 on", err)
			}
		}
		if !a.ChecksumOffload {
			return failed(a.item(), "switching checksum offload off", checksumOff(a.Ifname))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := a.inside.LinkSetUp(a.peer); err != nil {
		return failed(a.item(), "setting it up", err)
	}
	for _, p := range a.Addrs {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			// The owner of an address is known to be the only one: usable at
			// once, not after a second of duplicate address detection.
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := a.inside.AddrReplace(a.peer, addr); err != nil {
			return failed(a.item(), "giving it the address "+p.String(), err)
		}
	}
	return nil
}

// enslaveInside is what a port of a bridge needs.
func (a *attachment) enslaveInside() error {
	err := inNetns(a.ns, func() error {
		if err := setAddrGenMode(a.inside, a.peer, addrGenNone); err != nil {
			return failed(a.item(), "switching IPv6 addresses off", err)
		}
		if !a.ChecksumOffload {
			return failed(a.item(), "switching checksum offload off", checksumOff(a.Ifname))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := enslave(a.inside, a.Ifname, a.Bridge); err != nil {
		return err
	}
	return failed(a.item(), "setting it up", a.inside.LinkSetUp(a.peer))
}

func (a *attachment) hasIPv6() bool {
	return slices.ContainsFunc(a.Addrs, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// addRoutes adds the default routes that are missing. An endpoint that is the
// gateway itself has none.
func (a *attachment) addRoutes() error {
	for _, g := range a.Gateways {
		if slices.ContainsFunc(a.Addrs, func(p netip.Prefix) bool { return p.Addr() == g }) {
			continue
		}
		family, all := netlink.FAMILY_V4, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if g.Is6() {
			family, all = netlink.FAMILY_V6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		there, err := a.defaultElsewhere(family)
		if err != nil {
			return err
		}
		if there {
			continue
		}
		r := &netlink.Route{LinkIndex: a.peer.Attrs().Index, Dst: ipNet(all), Gw: g.AsSlice()}
		if err := a.inside.RouteReplace(r); err != nil {
			return failed(a.item(), "adding the default route by "+g.String(), err)
		}
	}
	return nil
}

// defaultElsewhere reports whether there is a default route by another interface.
func (a *attachment) defaultElsewhere(family int) (bool, error) {
	have, err := a.inside.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return false, failed(a.item(), "listing routes", err)
	}
	return slices.ContainsFunc(have, func(r netlink.Route) bool {
		return isDefault(r) && r.LinkIndex != a.peer.Attrs().Index
	}), nil
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0 && r.Dst.IP.IsUnspecified()
}

// verify reads back what others are known to change behind our back.
func (a *attachment) verify() error {
	p, err := a.inside.LinkByName(a.Ifname)
	if err != nil {
		return failed(a.item(), "reading it back", err)
	}
	if got := p.Attrs(); !bytes.Equal(got.HardwareAddr, a.MAC) || got.MTU != a.MTU {
		return &topology.Error{
			Kind: topology.ErrConflict, Item: a.item(),
			What:   fmt.Sprintf("something changed it to MAC %s, MTU %d; want %s, %d", got.HardwareAddr, got.MTU, a.MAC, a.MTU),
			Remedy: "keep systemd-networkd or NetworkManager from managing it",
		}
	}
	return nil
}

// hostUp comes last: from here on frames flow.
func (a *attachment) hostUp() error {
	return failed(a.hostItem(), "setting it up", a.host.LinkSetUp(a.hostEnd))
}

// Detach removes a pair by a name of its host end. One that is absent is fine; a link
// that is no veth is refused with ErrConflict.
func Detach(ctx context.Context, hostIfname string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	item := "interface " + hostIfname + " of this host"
	h, err := hostHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := linkOrNil(h, hostIfname)
	if err != nil {
		return failed(item, "looking for it", err)
	}
	if l != nil {
		if l.Type() != "veth" {
			return &topology.Error{
				Kind:   topology.ErrConflict,
				Item:   item,
				What:   "it is a " + l.Type() + ", not a veth: it is left alone",
				Remedy: "remove it by hand if it is not needed",
			}
		}
		if err := h.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			return failed(item, "removing it", err)
		}
		hostIfname = l.Attrs().Name // it may have been found by its second name
	}
	return removeIngressDrop(hostIfname)
}
