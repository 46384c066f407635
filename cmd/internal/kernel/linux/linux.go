// Package linux is the kernel of this host as a kernel.Host: it observes and
// changes it by netlink, /proc/sys, nftables and, where other programs force
// that, iptables. It works on the network namespace of the calling thread.
//
// nftables is spoken by netlink (github.com/google/nftables), so that nothing
// but the kernel is needed and rules are read back whole, expression by
// expression; sigs.k8s.io/knftables runs nft(8) and reads comments only.
package linux

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/rtnetlink"
)

// toolTimeout bounds a run of another program: the kernel answers in microseconds
// unless something holds its lock.
const toolTimeout = 5 * time.Second

// Host is this host. Its zero value is ready.
type Host struct{}

var _ kernel.Host = Host{}

func handle() (*netlink.Handle, error) {
	h, err := rtnetlink.Open()
	if err != nil {
		return nil, fmt.Errorf("kernel of this host: opening netlink: %w", err)
	}
	return h, nil
}

// addrOf returns the zero Addr for nil.
func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addrOf(n.IP), ones)
}

func ipNet(p netip.Prefix) *net.IPNet {
	if !p.IsValid() {
		return nil
	}
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func family(a netip.Addr) int {
	if a.Is6() {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

// device finds a device; ENODEV where there is none.
func device(h *netlink.Handle, name string) (netlink.Link, error) {
	l, err := h.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, fmt.Errorf("device %s: %w", name, unix.ENODEV)
	}
	return l, err
}

// Apply implements kernel.Host.
func (Host) Apply(ctx context.Context, c kernel.Change) error {
	if c.Empty() {
		return nil
	}
	h, err := handle()
	if err != nil {
		return err
	}
	defer h.Close()
	return c.Do(ctx, func(ctx context.Context, s kernel.Step) error { return apply(ctx, h, s) })
}
