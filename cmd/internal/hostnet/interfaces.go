package hostnet

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Interface is a network device as it is.
type Interface struct {
	Name string
	// Kind is the kernel's word for what it is: "veth", "vxlan", "device".
	Kind string
	MAC  net.HardwareAddr
	MTU  int
	// Up is what 'ip link set up' sets, Carrier says that the other end is there.
	Up, Carrier bool
	// NoARP: it takes no part in ARP.
	NoARP bool
	// Master is the bridge or bond that it is a port of, Parent the device that a VLAN,
	// or the like, is on; empty where there is none here.
	Master, Parent string
	// UDPPort is that of a VXLAN or Geneve device.
	UDPPort int
	Addrs   []netip.Prefix
}

// Interfaces lists the devices of a network namespace (a path or a name), or of the
// host where that is empty. The error is of kind ErrNotFound where there is no such
// namespace.
func Interfaces(pathOrName string) (out []Interface, err error) {
	read := func() error {
		h, err := hostHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		out, err = interfaces(h, pathOrName)
		return err
	}
	if pathOrName == "" {
		err = read()
		return out, err
	}
	err = InNetns(pathOrName, read)
	return out, err
}

func interfaces(h *netlink.Handle, where string) ([]Interface, error) {
	links, err := listLinks(h, where)
	if err != nil {
		return nil, err
	}
	addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, failed("addresses of "+where, "listing them", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var out []Interface
	for _, l := range links {
		at := l.Attrs()
		i := Interface{
			Name: at.Name, Kind: l.Type(), MAC: at.HardwareAddr, MTU: at.MTU, Up: at.Flags&net.FlagUp != 0,
			Carrier: at.OperState == netlink.OperUp || at.OperState == netlink.OperUnknown,
			Master:  names[at.MasterIndex], NoARP: at.RawFlags&unix.IFF_NOARP != 0,
		}
		if at.NetNsID < 0 { // of a pair, the other end may be in another namespace, under any number
			i.Parent = names[at.ParentIndex]
		}
		switch d := l.(type) {
		case *netlink.Vxlan:
			i.UDPPort = d.Port
		case *netlink.Geneve:
			i.UDPPort = int(d.Dport)
		}
		for _, a := range addrs {
			if p, ok := prefixOf(a.IPNet); ok && a.LinkIndex == at.Index {
				i.Addrs = append(i.Addrs, p)
			}
		}
		out = append(out, i)
	}
	return out, nil
}
