package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/kernel/follow"
	"github.com/baize-net/baize/topology/fault"
)

// Numbers of rtnetlink.h and nfnetlink.h that golang.org/x/sys/unix has no
// names for.
const (
	groupNetconfIPv4 = 24
	groupNetconfIPv6 = 25
	groupNFTables    = 7

	// netconf.h: NETCONFA_IFINDEX and NETCONFA_IFINDEX_ALL.
	netconfIfindex = 1
	netconfAll     = -1
)

// Watch implements kernel.Host.
func (Host) Watch(ctx context.Context, w kernel.Watcher) error {
	interest := w.Interest
	if interest == nil {
		interest = func() kernel.Interest { return kernel.Interest{All: true} }
	}
	failed := func(what string) func(error) {
		return func(err error) {
			if w.Fault != nil {
				w.Fault(what, err)
			}
		}
	}
	pacer := kernel.NewPacer()
	g, ctx := errgroup.WithContext(ctx)
	protected := func(f func() error) { g.Go(func() error { return fault.Protect(f) }) }
	protected(func() error { return pacer.Run(ctx, w.Fire) })
	protected(func() error {
		return follow.Run(ctx, follow.Subscription{
			Open: follow.Netlink(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR,
				unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, groupNetconfIPv4, groupNetconfIPv6),
			Matters: someMatter(interest, routeMatters), Fire: pacer.Wake, Failed: failed("links, addresses and routes"),
		})
	})
	protected(func() error {
		open := follow.Netlink(unix.NETLINK_NETFILTER, groupNFTables)
		if s, err := open(); errors.Is(err, unix.EPROTONOSUPPORT) {
			return nil // a kernel without nftables: audits look at iptables
		} else if err == nil {
			s.Close()
		}
		return follow.Run(ctx, follow.Subscription{
			Open: open, Matters: someMatter(interest, nftMatters), Fire: pacer.Wake, Failed: failed("nftables"),
		})
	})
	protected(func() error {
		return follow.Run(ctx, follow.Subscription{
			Open: openSysctls(interest), Fire: pacer.Wake, Failed: failed("sysctls"),
		})
	})
	return g.Wait()
}

func someMatter(
	interest func() kernel.Interest,
	matters func(kernel.Interest, syscall.NetlinkMessage) bool,
) func([]syscall.NetlinkMessage) bool {
	return func(messages []syscall.NetlinkMessage) bool {
		i := interest()
		return slices.ContainsFunc(messages, func(m syscall.NetlinkMessage) bool { return matters(i, m) })
	}
}

// routeMatters reads a message of rtnetlink(7). One that cannot be read matters.
func routeMatters(i kernel.Interest, m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return routeMessage(i, m.Data)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		attrs, ok := attributes(m.Data, unix.SizeofIfAddrmsg)
		a, _ := netip.AddrFromSlice(attrs[unix.IFA_ADDRESS])
		return !ok || i.Address(a)
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		attrs, ok := attributes(m.Data, unix.SizeofIfInfomsg)
		return !ok || i.Device(text(attrs[unix.IFLA_IFNAME]))
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		attrs, ok := attributes(m.Data, unix.SizeofNdMsg)
		a, _ := netip.AddrFromSlice(attrs[unix.NDA_DST])
		return !ok || i.Neighbour(a)
	case unix.RTM_NEWNETCONF:
		// Every new device sends some; those of all devices turn forwarding on or off.
		attrs, ok := attributes(m.Data, 4)
		return !ok || len(attrs[netconfIfindex]) != 4 ||
			int32(binary.NativeEndian.Uint32(attrs[netconfIfindex])) == netconfAll
	}
	return false
}

func routeMessage(i kernel.Interest, data []byte) bool {
	attrs, ok := attributes(data, unix.SizeofRtMsg)
	if !ok {
		return true
	}
	msg := nl.DeserializeRtMsg(data)
	if msg.Flags&unix.RTM_F_CLONED != 0 {
		return false
	}
	table := int(msg.Table)
	if t := attrs[unix.RTA_TABLE]; len(t) == 4 {
		table = int(binary.NativeEndian.Uint32(t))
	}
	a, ok := netip.AddrFromSlice(attrs[unix.RTA_DST])
	if !ok { // the default route has none
		a = netip.IPv4Unspecified()
		if msg.Family == unix.AF_INET6 {
			a = netip.IPv6Unspecified()
		}
	}
	return i.Route(table, int(msg.Protocol), netip.PrefixFrom(a, int(msg.Dst_len)))
}

// Attributes of nftables messages (nf_tables.h): a table's name is the first of
// every kind.
const (
	nftaTable     = 1
	nftaChainName = 3
	nftaRuleChain = 2
	sizeofNfgen   = 4
)

// nftMatters reads a message of nftables.
func nftMatters(i kernel.Interest, m syscall.NetlinkMessage) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES {
		return false
	}
	attrs, ok := attributes(m.Data, sizeofNfgen)
	if !ok {
		return true
	}
	table := text(attrs[nftaTable])
	switch m.Header.Type & 0xff {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
		return i.Chain(table, "")
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		return i.Chain(table, text(attrs[nftaChainName]))
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		return i.Chain(table, text(attrs[nftaRuleChain]))
	}
	return false
}

func attributes(data []byte, header int) (map[uint16][]byte, bool) {
	if len(data) < header {
		return nil, false
	}
	list, err := nl.ParseRouteAttr(data[header:])
	if err != nil {
		return nil, false
	}
	out := make(map[uint16][]byte, len(list))
	for _, a := range list {
		out[a.Attr.Type&nl.NLA_TYPE_MASK] = a.Value
	}
	return out, true
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }
