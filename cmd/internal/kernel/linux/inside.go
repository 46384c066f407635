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

// Inside looks into a network namespace, at the interface there that has a MAC.
func (h Host) Inside(ctx context.Context, netns string, mac net.HardwareAddr) (in kernel.Inside, err error) {
	list, err := hostnet.Interfaces(netns)
	if err != nil {
		return in, err
	}
	i := slices.IndexFunc(list, func(d hostnet.Interface) bool { return strings.EqualFold(d.MAC.String(), mac.String()) })
	if i >= 0 {
		in.Ifname = list[i].Name
	}
	in.Way = func(a netip.Addr) (w kernel.Way) {
		if err := hostnet.InNetns(netns, func() error { w = h.Way(a); return nil }); err != nil {
			w.Err = err
		}
		return w
	}
	err = hostnet.InNetns(netns, func() error {
		filters, err := Filters()
		if err == nil && filters {
			in.Ruleset, err = h.Ruleset(ctx)
		}
		return err
	})
	return in, err
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
