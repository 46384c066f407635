package linux

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/topology"
)

// apply does one step. The error is what the kernel or the tool answers.
func apply(ctx context.Context, h *netlink.Handle, s kernel.Step) error {
	switch s := s.(type) {
	case kernel.SetSysctl:
		file := filepath.Join(sysctlDir, s.Key)
		if _, err := os.Stat(file); err != nil {
			return err // what is wanted of a kernel has to be there
		}
		return hostnet.SetSysctl(file, s.Value)
	case kernel.SetLink:
		return setLink(h, s.Link)
	case kernel.ChangeAddress:
		return changeAddress(h, s)
	case kernel.SetNeighbour:
		return setNeighbour(h, s.Neighbour)
	case kernel.ChangeRoute:
		return changeRoute(h, s)
	case kernel.ChangeRule:
		return changeRule(h, s)
	case kernel.SetNAT:
		return setNAT(s.Rules)
	case kernel.SetTunnels:
		return setTunnels(s.Ports)
	case kernel.ChangeDrop:
		return hostnet.ChangeIngressDrop(s.Dev, s.Verb == kernel.Add)
	case kernel.Restore:
		return restore(ctx, s)
	}
	return fmt.Errorf("unknown step %T", s)
}

func setLink(h *netlink.Handle, want kernel.Link) error {
	l, err := device(h, want.Name)
	if err != nil {
		return err
	}
	if want.MAC != "" {
		mac, err := net.ParseMAC(want.MAC)
		if err != nil {
			return err
		}
		if err := h.LinkSetHardwareAddr(l, mac); err != nil {
			return err
		}
	}
	if want.MTU != 0 {
		if err := h.LinkSetMTU(l, want.MTU); err != nil {
			return err
		}
	}
	if want.Up {
		return h.LinkSetUp(l)
	}
	return nil
}

func changeAddress(h *netlink.Handle, s kernel.ChangeAddress) error {
	l, err := device(h, s.Dev)
	if err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: ipNet(s.Prefix)}
	if s.Verb == kernel.Delete {
		return h.AddrDel(l, a)
	}
	if s.Prefix.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if s.Verb == kernel.Replace {
		return h.AddrReplace(l, a)
	}
	return h.AddrAdd(l, a)
}

func setNeighbour(h *netlink.Handle, n kernel.Neighbour) error {
	l, err := device(h, n.Dev)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(n.MAC)
	if err != nil {
		return err
	}
	return h.NeighSet(&netlink.Neigh{
		LinkIndex:    l.Attrs().Index,
		Family:       family(n.Addr),
		State:        netlink.NUD_PERMANENT,
		IP:           n.Addr.AsSlice(),
		HardwareAddr: mac,
	})
}

func changeRoute(h *netlink.Handle, s kernel.ChangeRoute) error {
	switch s.Verb {
	case kernel.Add:
		return route.Add(h, s.Route)
	case kernel.Replace:
		return route.Replace(h, s.Route)
	}
	return route.Remove(h, s.Route)
}

func changeRule(h *netlink.Handle, s kernel.ChangeRule) error {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.Protocol = netlink.FAMILY_V4, s.Priority, s.Table, route.Protocol
	if s.Family == topology.IPv6 {
		r.Family = netlink.FAMILY_V6
	}
	r.Src, r.Dst = ipNet(s.From), ipNet(s.To)
	if s.Verb == kernel.Delete {
		return h.RuleDel(r)
	}
	return h.RuleAdd(r)
}
