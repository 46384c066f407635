package hostnet

import (
	"errors"
	"slices"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology"
)

// The ingress drop is one nftables table of the netdev family with a chain per
// host end, hooked into the device's ingress, whose policy is to drop:
//
//	table netdev baize {
//	  chain bz0123456789a {
//	    type filter hook ingress device "bz0123456789a" priority -500; policy drop;
//	  }
//	}
//
// The hook comes after packet sockets have had their copy, so the userspace
// datapath sees every frame and the kernel's own stack none.
const ingressTable = "baize"

// ingressPriority is before anything a person would put there.
var ingressPriority = nftables.ChainPriorityRef(-500)

// ingressLock keeps the removal of the empty table apart from the next chain.
var ingressLock sync.Mutex

const ingressItem = "nftables table netdev " + ingressTable

// IngressDrops returns the names of the devices that have a drop, sorted.
func IngressDrops() ([]string, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, failed(ingressItem, "opening netlink", err)
	}
	names, _, err := listIngressDrops(c)
	return names, failed(ingressItem, "listing it", err)
}

// ChangeIngressDrop makes the drop of one device, or removes it.
func ChangeIngressDrop(ifname string, add bool) error {
	if add {
		return addIngressDrop(ifname)
	}
	return removeIngressDrop(ifname)
}

// addIngressDrop makes a chain anew: one left by a device of the same name
// that is gone may hook nothing.
func addIngressDrop(ifname string) error {
	return changeIngressDrops(func(have []string) (add, remove []string) {
		if slices.Contains(have, ifname) {
			remove = []string{ifname}
		}
		return []string{ifname}, remove
	})
}

func removeIngressDrop(ifname string) error {
	return changeIngressDrops(func(have []string) (add, remove []string) {
		if slices.Contains(have, ifname) {
			remove = []string{ifname}
		}
		return nil, remove
	})
}

// changeIngressDrops lists the chains, asks what to change and does that in
// one transaction. The table goes with its last chain.
func changeIngressDrops(change func(have []string) (add, remove []string)) error {
	ingressLock.Lock()
	defer ingressLock.Unlock()
	// The kernel removes a chain together with its device, perhaps between our
	// listing and our transaction: list again then.
	var err error
	for range 3 {
		if err = tryChangeIngressDrops(change); !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return &topology.Error{
			Kind:   topology.ErrUnavailable,
			Item:   ingressItem,
			What:   "this kernel has no nftables ingress hook, which the userspace datapath needs",
			Remedy: "load it with 'modprobe nf_tables', or install a kernel with CONFIG_NF_TABLES_NETDEV",
		}
	}
	return failed(ingressItem, "changing it", err)
}

func tryChangeIngressDrops(change func(have []string) (add, remove []string)) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	have, tableThere, err := listIngressDrops(c)
	if err != nil {
		return err
	}
	add, remove := change(slices.Clone(have))
	gone := len(add) == 0 && len(remove) == len(have) && tableThere
	if len(add)+len(remove) == 0 && !gone {
		return nil
	}
	table := &nftables.Table{Name: ingressTable, Family: nftables.TableFamilyNetdev}
	if gone {
		c.DelTable(table)
		return c.Flush()
	}
	c.AddTable(table)
	for _, name := range remove {
		c.DelChain(&nftables.Chain{Name: name, Table: table})
	}
	drop := nftables.ChainPolicyDrop
	for _, name := range add {
		c.AddChain(&nftables.Chain{
			Name: name, Table: table, Type: nftables.ChainTypeFilter, Device: name,
			Hooknum: nftables.ChainHookIngress, Priority: ingressPriority, Policy: &drop,
		})
	}
	return c.Flush()
}

func listIngressDrops(c *nftables.Conn) (names []string, tableThere bool, err error) {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyNetdev)
	if err != nil {
		// A kernel that does not know the family has nothing in it.
		if errors.Is(err, unix.ENOENT) {
			return nil, false, nil
		}
		return nil, false, err
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == ingressTable }) {
		return nil, false, nil
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
	if err != nil {
		return nil, true, err
	}
	for _, ch := range chains {
		if ch.Table.Name == ingressTable {
			names = append(names, ch.Name)
		}
	}
	slices.Sort(names)
	return names, true, nil
}
