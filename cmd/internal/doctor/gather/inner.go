package gather

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/kernel/linux"
	"github.com/baize-net/baize/topology"
)

// mostWays is how many others of its network an endpoint's kernel is asked for, per family.
const mostWays = 4

// inner asks an endpoint's own kernel what it does with packets of its network: a container
// has routes, neighbours and a firewall of its own, which Baize does not touch.
func inner(ctx context.Context, e *doctor.Endpoint, n topology.NetworkView) (out doctor.Inner) {
	_ = hostnet.InNetns(e.Netns, func() error {
		link, err := netlink.LinkByName(e.Inside.Name)
		if err != nil {
			return err
		}
		for _, to := range others(e, n) {
			out.Ways = append(out.Ways, innerWay(ctx, to))
		}
		if n.Transport.Direct() == topology.DirectNever {
			out.Fixed = misfixed(link.Attrs().Index, n)
		}
		if filters, _ := linux.Filters(); filters {
			out.NFTables, err = run(ctx, "nft", "-a", "list", "ruleset")
		}
		return err
	})
	return out
}

// others are addresses in a few subnets of other nodes, or, where there is no other node,
// in the network, of the families that an endpoint has.
func others(e *doctor.Endpoint, n topology.NetworkView) (out []netip.Addr) {
	for _, own := range e.IPs {
		family, found := topology.FamilyOf(own), 0
		for i := range n.Peers {
			for _, p := range n.Peers[i].Subnets {
				if found < mostWays && topology.FamilyOf(p.Addr()) == family {
					out, found = append(out, third(p)), found+1
				}
			}
		}
		if p := n.Prefix(family); found == 0 && p.IsValid() {
			out = append(out, third(p))
		}
	}
	return out
}

// innerWay is how the kernel of this thread's namespace sends packets to an address.
func innerWay(ctx context.Context, to netip.Addr) doctor.InnerWay {
	way := linux.Host{}.Way(to)
	out := doctor.InnerWay{To: to, Dev: way.Dev, Via: way.Via}
	if way.Err != nil {
		out.Error, out.Blocked = cmp.Or(refusal(way.Err), way.Err.Error()), refusing(ctx, to)
	}
	return out
}

// misfixed are the neighbours on other nodes whose link address somebody wrote down, another
// one than Baize gave them. Of IPv4 alone: a link address is made of that.
func misfixed(link int, n topology.NetworkView) (out []doctor.InnerNeighbour) {
	list, _ := netlink.NeighList(link, netlink.FAMILY_V4)
	for _, x := range list {
		a, ok := netip.AddrFromSlice(x.IP)
		if a = a.Unmap(); !ok || x.State&unix.NUD_PERMANENT == 0 {
			continue
		}
		if mac := macElsewhere(n, a); mac != "" && !strings.EqualFold(mac, x.HardwareAddr.String()) {
			out = append(out, doctor.InnerNeighbour{Addr: a, MAC: x.HardwareAddr.String(), Is: mac})
		}
	}
	return out
}

// macElsewhere is the link address of whoever has an address in a subnet of another node;
// empty where there is no such subnet.
func macElsewhere(n topology.NetworkView, a netip.Addr) string {
	if i := slices.IndexFunc(n.Pins, func(p topology.Pin) bool { return p.Addr == a }); i >= 0 {
		return n.Pins[i].MAC
	}
	for i := range n.Peers {
		has := func(p netip.Prefix) bool { return p.Contains(a) }
		if slices.ContainsFunc(n.Peers[i].Subnets, has) && !slices.ContainsFunc(n.Peers[i].Bridged, has) {
			return topology.MACOf(a).String()
		}
	}
	return ""
}

// blockingPolicies are the IPsec policies of this host that drop what is for, or from, an
// address (ip-xfrm(8)).
func blockingPolicies(a netip.Addr) (out []string) {
	family := netlink.FAMILY_V4
	if a.Is6() {
		family = netlink.FAMILY_V6
	}
	list, err := netlink.XfrmPolicyList(family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil
	}
	for i := range list {
		x := &list[i]
		theirs := x.Dst
		if x.Dir == netlink.XFRM_DIR_IN {
			theirs = x.Src
		}
		forwards := x.Dir != netlink.XFRM_DIR_IN && x.Dir != netlink.XFRM_DIR_OUT
		if x.Action != netlink.XFRM_POLICY_BLOCK || forwards || theirs == nil || !theirs.Contains(a.AsSlice()) {
			continue
		}
		out = append(out, fmt.Sprintf("src %s dst %s %s", x.Src, x.Dst, x.Dir))
	}
	return out
}
