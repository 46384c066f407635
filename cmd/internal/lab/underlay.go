package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	uplink = "eth0"
	// physicalBridge carries the host's underlay address where the datapath is
	// the userspace's: its tunnels are routed by Open vSwitch, which knows only
	// addresses on its own bridges.
	physicalBridge = "br-phy"
	dropTable      = "baize-lab"
)

// underlayDevice is where a host's underlay address is.
func (c initConfig) underlayDevice() string {
	switch {
	case c.isFabric():
		return fabricBridge
	case c.Kernel:
		return uplink
	}
	return physicalBridge
}

// makeFabric makes the bridges that stand for the physical network, in the
// calling thread's namespace.
func makeFabric(c initConfig) error {
	for i := range max(c.Segments, 1) {
		snooping := false
		br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &snooping}
		br.Name, br.MTU = segmentBridge(i), underlayMTU
		if i == 0 {
			br.HardwareAddr = hostMAC(1 - firstHost) // that of 192.168.77.1
		}
		if err := netlink.LinkAdd(br); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("bridge %s: %w", br.Name, err)
		}
	}
	for i := 1; i < c.Segments; i++ {
		// The fabric is no router: it has no address there, not even IPv6's own.
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+segmentBridge(i)+"/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := setAddrs(segmentBridge(i), nil); err != nil {
			return err
		}
	}
	// A host's userspace datapath reads frames as they are: checksums that the
	// sender leaves to its device would never be finished.
	if err := checksumsOff(fabricBridge); err != nil {
		return err
	}
	if err := setAddrs(fabricBridge, c.Addrs); err != nil {
		return err
	}
	return setGateways(fabricBridge, c.Gateways)
}

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

// ensureUnderlay gives a host its underlay address, wherever that has to be.
// It changes only what is not so. ok is false while a device is missing.
func ensureUnderlay(c initConfig) (ok bool, err error) {
	eth, err := netlink.LinkByName(uplink)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if c.Kernel {
		if err := setAddrs(uplink, c.Addrs); err != nil {
			return false, err
		}
		return true, setGateways(uplink, c.Gateways)
	}
	if _, err := netlink.LinkByName(physicalBridge); err != nil {
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			err = nil
		}
		return false, err
	}
	if err := hideUplink(eth); err != nil {
		return false, err
	}
	if err := setAddrs(physicalBridge, c.Addrs); err != nil {
		return false, err
	}
	return true, setGateways(physicalBridge, c.Gateways)
}

// hideUplink keeps the kernel's own stack off a device whose frames the
// userspace datapath reads: it would answer and forward them a second time.
func hideUplink(eth netlink.Link) error {
	sysctl := "/proc/sys/net/ipv6/conf/" + uplink + "/disable_ipv6"
	if err := os.WriteFile(sysctl, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	addrs, err := netlink.AddrList(eth, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return err
	}
	for _, a := range addrs {
		if err := netlink.AddrDel(eth, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("flush %s: %w", uplink, err)
		}
	}
	if err := dropIngress(uplink); err != nil {
		return err
	}
	if eth.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	return netlink.LinkSetUp(eth)
}

// dropIngress makes the kernel drop all that arrives at a device, after packet
// sockets have had their copy:
//
//	table netdev baize-lab {
//	  chain eth0 { type filter hook ingress device "eth0" priority -500; policy drop; }
//	}
func dropIngress(device string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	if slices.ContainsFunc(chains, func(ch *nftables.Chain) bool { return ch.Table.Name == dropTable && ch.Name == device }) {
		return nil // the kernel removes it together with its device
	}
	policy := nftables.ChainPolicyDrop
	t := c.AddTable(&nftables.Table{Name: dropTable, Family: nftables.TableFamilyNetdev})
	c.AddChain(&nftables.Chain{
		Name: device, Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookIngress,
		Priority: nftables.ChainPriorityRef(-500), Policy: &policy, Device: device,
	})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables drop on %s (needs CONFIG_NF_TABLES_NETDEV): %w", device, err)
	}
	return nil
}

// cable is a veth pair between a bridge of the fabric and a member.
type cable struct {
	port, bridge string // in the fabric
	device       string // in the member
	mac          net.HardwareAddr
}

// hostCable is that of a host.
func hostCable(host string, segments int) cable {
	n := hostNumber(host)
	return cable{port: host, bridge: segmentBridge(segmentOf(n, segments)), device: uplink, mac: hostMAC(n)}
}

// plug connects a member with the fabric by a veth pair, unless it is, and sets
// its MAC. It is called from outside of both.
func plug(fabric, host member, c cable) error {
	fail := func(what string, err error) error { return fmt.Errorf("%s %s: %w", what, host.name, err) }
	fh, err := handle(fabric)
	if err != nil {
		return fail("plug in", err)
	}
	defer fh.Close()
	hh, err := handle(host)
	if err != nil {
		return fail("plug in", err)
	}
	defer hh.Close()
	port, err := fh.LinkByName(c.port)
	_, peerErr := hh.LinkByName(c.device)
	if err == nil && peerErr == nil && port.Attrs().MasterIndex != 0 {
		return nil
	}
	if err == nil {
		if err := fh.LinkDel(port); err != nil {
			return fail("unplug the rest of", err)
		}
	}
	br, err := fh.LinkByName(c.bridge)
	if err != nil {
		return fail("plug in", err)
	}
	ns, err := os.Open(procPath(host.pid, "ns", "net"))
	if err != nil {
		return fail("plug in", err)
	}
	defer ns.Close()
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: c.port, MTU: underlayMTU, MasterIndex: br.Attrs().Index, TxQLen: -1},
		PeerName:  c.device, PeerHardwareAddr: c.mac, PeerNamespace: netlink.NsFd(ns.Fd()), PeerMTU: underlayMTU,
	}
	if err := fh.LinkAdd(veth); err != nil {
		return fail("plug in", err)
	}
	return setPort(fabric, c.port, true)
}

// unplug removes a host's port from the fabric.
func unplug(fabric member, host string) error {
	h, err := handle(fabric)
	if err != nil {
		return err
	}
	defer h.Close()
	port, err := h.LinkByName(host)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return err
	}
	return h.LinkDel(port)
}

// setPort sets a host's port of the fabric up or down, as its cable would be.
func setPort(fabric member, host string, up bool) error {
	h, err := handle(fabric)
	if err != nil {
		return err
	}
	defer h.Close()
	port, err := h.LinkByName(host)
	if err != nil {
		return fmt.Errorf("port of %s: %w", host, err)
	}
	if up {
		return h.LinkSetUp(port)
	}
	return h.LinkSetDown(port)
}

// handle opens rtnetlink in a member's network namespace.
func handle(m member) (*netlink.Handle, error) {
	ns, err := netns.GetFromPid(m.pid)
	if err != nil {
		return nil, fmt.Errorf("namespace of %s: %w", m.name, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("namespace of %s: %w", m.name, err)
	}
	if err := h.SetSocketTimeout(5 * time.Second); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// watchUnderlay repairs a host's underlay whenever a link or an address
// changes: ovs-vswitchd takes the bridge's device along when it dies.
func watchUnderlay(ctx context.Context, c initConfig, watch func(context.Context, func()) error, warn func(error)) {
	poke := make(chan struct{}, 1)
	go func() {
		for ctx.Err() == nil {
			if err := watch(ctx, func() { signalOnce(poke) }); err != nil && ctx.Err() == nil {
				warn(err)
				_ = pause(ctx, time.Second)
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-poke:
		}
		if _, err := ensureUnderlay(c); err != nil && ctx.Err() == nil {
			// A device may go while it is being set up; its going wakes us.
			warn(err)
			if pause(ctx, 100*time.Millisecond) == nil {
				signalOnce(poke)
			}
		}
	}
}

func signalOnce(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// schemaFile is where packages, or an installation by hand, put OVS's schema.
func schemaFile() (string, error) {
	candidates := []string{"/usr/share/openvswitch/vswitch.ovsschema", "/usr/local/share/openvswitch/vswitch.ovsschema"}
	for _, f := range candidates {
		if _, err := os.Stat(f); err == nil {
			return f, nil
		}
	}
	return "", fmt.Errorf("%s is not in %s", filepath.Base(candidates[0]), filepath.Dir(candidates[0]))
}
