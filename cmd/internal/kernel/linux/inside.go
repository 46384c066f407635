package linux

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/kernel"
)

// Inside looks into a network namespace: the name of the interface there that has a MAC, the
// way that its kernel has to an address, and its rules of nftables, as Host.Ruleset does; none
// where it filters nothing.
func (h Host) Inside(ctx context.Context, netns string, mac net.HardwareAddr) (
	ifname string, way func(netip.Addr) kernel.Way, ruleset []byte, err error,
) {
	list, err := hostnet.Interfaces(netns)
	if err != nil {
		return "", nil, nil, err
	}
	i := slices.IndexFunc(list, func(d hostnet.Interface) bool { return strings.EqualFold(d.MAC.String(), mac.String()) })
	if i >= 0 {
		ifname = list[i].Name
	}
	way = func(a netip.Addr) (w kernel.Way) {
		err := hostnet.InNetns(netns, func() error { w = h.Way(a); return nil })
		if err != nil {
			w.Err = err
		}
		return w
	}
	err = hostnet.InNetns(netns, func() error {
		if filters, err := Filters(); err != nil || !filters {
			return err
		}
		ruleset, err = h.Ruleset(ctx)
		return err
	})
	return ifname, way, ruleset, err
}

// Filters reports whether the namespace of this thread filters packets by nftables, those of
// iptables-nft among them: reading its rules takes a program, and most containers have none.
func Filters() (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, err
	}
	chains, err := c.ListChains()
	return slices.ContainsFunc(chains, func(x *nftables.Chain) bool {
		return x.Hooknum != nil && x.Type == nftables.ChainTypeFilter
	}), err
}
