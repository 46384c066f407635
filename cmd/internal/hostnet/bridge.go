package hostnet

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology"
)

// Bridge is a Linux bridge of this host as it is.
type Bridge struct {
	MAC net.HardwareAddr
	// MTU is in bytes of IP packet.
	MTU int
	// Addrs are its addresses, each with its mask.
	Addrs []netip.Prefix
	Up    bool
}

// FindBridge reads a bridge; nil when there is no device of that name. A device
// that is no bridge is an error of kind ErrConflict.
func FindBridge(name string) (*Bridge, error) {
	h, err := hostHandle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	item := "bridge " + name
	l, err := linkOrNil(h, name)
	if l == nil || err != nil {
		return nil, failed(item, "looking for it", err)
	}
	if l.Type() != "bridge" {
		return nil, notABridge(name, l)
	}
	addrs, err := h.AddrList(l, unix.AF_UNSPEC)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, failed(item, "listing its addresses", err)
	}
	at := l.Attrs()
	b := &Bridge{MAC: at.HardwareAddr, MTU: at.MTU, Up: at.Flags&net.FlagUp != 0}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok {
			b.Addrs = append(b.Addrs, p)
		}
	}
	return b, nil
}

func notABridge(name string, l netlink.Link) error {
	return &topology.Error{
		Kind:   topology.ErrConflict,
		Item:   "bridge " + name,
		What:   "the device of that name is a " + l.Type(),
		Remedy: "rename it: 'ip link set " + name + " name NEW'",
	}
}

// Enslave makes an interface of this host a port of a bridge, where it is not
// yet. It reports whether the interface is one afterwards: not where one of the
// two does not exist, which is no error.
func Enslave(ifname, bridge string) (bool, error) {
	h, err := hostHandle()
	if err != nil {
		return false, err
	}
	defer h.Close()
	return enslave(h, ifname, bridge)
}

func enslave(h *netlink.Handle, ifname, bridge string) (bool, error) {
	item := "interface " + ifname
	b, err := linkOrNil(h, bridge)
	if b == nil || err != nil {
		return false, failed("bridge "+bridge, "looking for it", err)
	}
	if b.Type() != "bridge" {
		return false, notABridge(bridge, b)
	}
	l, err := linkOrNil(h, ifname)
	if l == nil || err != nil {
		return false, failed(item, "looking for it", err)
	}
	if l.Attrs().MasterIndex == b.Attrs().Index {
		return true, nil
	}
	err = h.LinkSetMasterByIndex(l, b.Attrs().Index)
	if errors.Is(err, unix.ENODEV) || isLinkNotFound(err) {
		return false, nil // one of them has gone meanwhile
	}
	return err == nil, failed(item, "making it a port of "+bridge, err)
}
