package fabric

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab/member"
)

// cable is a veth pair between a bridge of the fabric and a member.
type cable struct {
	port, bridge string // in the fabric
	device       string // in the member
	mac          net.HardwareAddr
}

// hostCable is that of a host.
func hostCable(host string, segments int) cable {
	n := member.HostNumber(host)
	return cable{port: host, bridge: segmentBridge(SegmentOf(n, segments)), device: Uplink, mac: hostMAC(n)}
}

// routerCable is the router's in a segment.
func routerCable(segment int) cable {
	mac := hostMAC(routerLast - firstHost)
	mac[5] += byte(segment)
	return cable{
		port: fmt.Sprintf("%s%d", member.Router, segment), bridge: segmentBridge(segment), device: routerDevice(segment),
		mac: mac,
	}
}

// PlugHost connects a host with its segment.
func PlugHost(fab, host member.Member, segments int) error {
	return plug(fab, host, hostCable(host.Name, segments))
}

// PlugRouter connects the router with every segment.
func PlugRouter(fab, router member.Member, segments int) error {
	for i := range segments {
		if err := plug(fab, router, routerCable(i)); err != nil {
			return err
		}
	}
	return nil
}

// plug connects a member with the fabric by a veth pair, unless it is, and sets
// its MAC. It is called from outside of both.
func plug(fab, host member.Member, c cable) error {
	fail := func(what string, err error) error { return fmt.Errorf("%s %s: %w", what, host.Name, err) }
	fh, err := handle(fab)
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
	ns, err := os.Open(host.Netns())
	if err != nil {
		return fail("plug in", err)
	}
	defer ns.Close()
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: c.port, MTU: MTU, MasterIndex: br.Attrs().Index, TxQLen: -1},
		PeerName:  c.device, PeerHardwareAddr: c.mac, PeerNamespace: netlink.NsFd(ns.Fd()), PeerMTU: MTU,
	}
	if err := fh.LinkAdd(veth); err != nil {
		return fail("plug in", err)
	}
	return SetPort(fab, c.port, true)
}

// Unplug removes a host's port from the fabric.
func Unplug(fab member.Member, host string) error {
	h, err := handle(fab)
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

// SetPort sets a host's port of the fabric up or down, as its cable would be.
func SetPort(fab member.Member, host string, up bool) error {
	h, err := handle(fab)
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
func handle(m member.Member) (*netlink.Handle, error) {
	ns, err := netns.GetFromPid(m.PID)
	if err != nil {
		return nil, fmt.Errorf("namespace of %s: %w", m.Name, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("namespace of %s: %w", m.Name, err)
	}
	if err := h.SetSocketTimeout(5 * time.Second); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}
