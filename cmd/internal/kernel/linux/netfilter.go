package linux

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/rtnetlink"
	"github.com/baize-net/baize/topology"
)

// ipTables are the tables that iptables has.
var ipTables = []string{"raw", "mangle", "nat", "filter", "security"}

// Netfilter reads what looks at packets that this host forwards. A kernel without
// nftables or IPsec has none of them.
func (Host) Netfilter(ctx context.Context) (kernel.Netfilter, error) {
	out := kernel.Netfilter{Ingress: map[string]string{}}
	h, err := handle()
	if err != nil {
		return out, err
	}
	defer h.Close()
	if out.Policies, err = policies(h); err != nil {
		return out, err
	}
	chains, err := forwardChains()
	if err != nil {
		return out, err
	}
	known := map[string]bool{}
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		for _, t := range tools(f) {
			tables, err := ipTablesOf(ctx, f, t, chains)
			if err != nil {
				return out, err
			}
			for _, x := range tables {
				out.Tables = append(out.Tables, x)
				if !t.legacy {
					known[familyName(f)+" "+x.Name] = true
				}
			}
		}
	}
	for _, c := range chains {
		switch {
		case len(c.devs) > 0:
			for _, d := range c.devs {
				out.Ingress[d] = "table " + c.table + ", chain " + c.name
			}
		case c.busy && !known[c.table]:
			out.Chains = append(out.Chains, "table "+c.table+", chain "+c.name)
		default: // it is empty, or read as iptables'
		}
	}
	return out, nil
}

// policies counts those of IPsec.
func policies(h *netlink.Handle) (int, error) {
	list, err := rtnetlink.Dump(func() ([]netlink.XfrmPolicy, error) { return h.XfrmPolicyList(netlink.FAMILY_ALL) })
	for _, none := range []error{unix.EPROTONOSUPPORT, unix.EINVAL, unix.EOPNOTSUPP} {
		if errors.Is(err, none) {
			return 0, nil
		}
	}
	if err != nil {
		return 0, fmt.Errorf("listing the policies of IPsec: %w", err)
	}
	return len(list), nil
}

func familyName(f topology.Family) string {
	if f == topology.IPv6 {
		return "ip6"
	}
	return "ip"
}

// ipTablesOf reads the tables of one kind of iptables. One that iptables-nft cannot
// read is somebody's own, and left to whoever reads chains.
func ipTablesOf(ctx context.Context, f topology.Family, t iptablesTool, chains []baseChain) ([]kernel.IPTable, error) {
	has, err := tables(f, t.legacy)
	if err != nil {
		return nil, err
	}
	var out []kernel.IPTable
	for _, name := range ipTables {
		there := t.legacy && has(name, "") || !t.legacy && slices.ContainsFunc(chains, func(c baseChain) bool {
			return c.table == familyName(f)+" "+name
		})
		if !there {
			continue
		}
		rules, err := list(ctx, t.name, name)
		switch {
		case err != nil && t.legacy:
			return nil, err
		case err == nil:
			out = append(out, kernel.IPTable{Tool: t.name, Family: f, Name: name, Rules: rules})
		}
	}
	return out, nil
}

// baseChain is a chain of nftables at a hook that forwarded packets pass.
type baseChain struct {
	// table is with its family: "inet filter".
	table, name string
	// devs are those of an ingress chain.
	devs []string
	// busy: it has rules, or a policy.
	busy bool
}

// forwardChains lists them, Baize's own apart.
func forwardChains() ([]baseChain, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	chains, err := c.ListChains()
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing the chains of nftables: %w", err)
	}
	devices, err := ingressDevices()
	if err != nil {
		return nil, err
	}
	var out []baseChain
	for _, x := range chains {
		family, ip := tableFamilies[x.Table.Family]
		if !ip || x.Table.Name == kernel.Table || !passed(x) {
			continue
		}
		b := baseChain{table: family + " " + x.Table.Name, name: x.Name, devs: devices[family+" "+x.Table.Name+" "+x.Name]}
		b.busy = x.Policy != nil && *x.Policy != nftables.ChainPolicyAccept
		if !b.busy {
			rules, err := c.GetRules(x.Table, x)
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return nil, fmt.Errorf("listing the rules of chain %s: %w", x.Name, err)
			}
			b.busy = len(rules) > 0
		}
		out = append(out, b)
	}
	return out, nil
}

// tableFamilies are those that look at packets of IP, by their names.
var tableFamilies = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
	nftables.TableFamilyNetdev: "netdev",
}

// passed reports whether packets that this host forwards pass a chain.
func passed(c *nftables.Chain) bool {
	if c.Hooknum == nil || c.Table.Family == nftables.TableFamilyNetdev {
		return c.Hooknum != nil
	}
	h := *c.Hooknum
	return h == *nftables.ChainHookPrerouting || h == *nftables.ChainHookForward || h == *nftables.ChainHookPostrouting
}

// Attributes of chains (nf_tables.h).
const (
	nftaChainTable = 1
	nftaChainHook  = 4
	nftaHookDev    = 3
	nftaHookDevs   = 4
)

// ingressDevices reads the devices of ingress chains, by family, table and chain:
// google/nftables leaves them out of its listing.
func ingressDevices() (map[string][]string, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.NFPROTO_NETDEV})
	messages, err := rtnetlink.Dump(func() ([][]byte, error) { return req.Execute(unix.NETLINK_NETFILTER, 0) })
	if err != nil {
		return nil, fmt.Errorf("listing the devices of nftables: %w", err)
	}
	out := map[string][]string{}
	for _, m := range messages {
		chain, ok := attributes(m, nl.SizeofNfgenmsg)
		hook, hooked := attributes(chain[nftaChainHook], 0)
		if !ok || !hooked {
			continue
		}
		key := "netdev " + text(chain[nftaChainTable]) + " " + text(chain[nftaChainName])
		if d := text(hook[nftaHookDev]); d != "" {
			out[key] = append(out[key], d)
		}
		list, err := nl.ParseRouteAttr(hook[nftaHookDevs])
		if err != nil {
			continue
		}
		for _, d := range list {
			out[key] = append(out[key], text(d.Value))
		}
	}
	return out, nil
}
