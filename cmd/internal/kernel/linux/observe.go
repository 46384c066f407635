package linux

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/cmd/internal/rtnetlink"
	"github.com/baize-net/baize/topology"
)

// Observe implements kernel.Host.
func (Host) Observe(ctx context.Context, q kernel.Query) (kernel.Observed, error) {
	h, err := handle()
	if err != nil {
		return kernel.Observed{}, err
	}
	defer h.Close()
	r := reader{h: h, names: map[int]string{}}
	if err := r.links(); err != nil {
		return kernel.Observed{}, fmt.Errorf("devices of this host: listing them: %w", err)
	}
	steps := []struct {
		section kernel.Section
		read    func() error
	}{
		{kernel.Addresses, r.addresses}, {kernel.Neighbours, r.neighbours}, {kernel.Routes, r.routes},
		{kernel.Rules, r.rules}, {kernel.Sysctls, func() error { return r.sysctls(q.Forwards) }},
	}
	if r.o.Skipped = q.SkipFirewall; !r.o.Skipped {
		steps = append(steps, struct {
			section kernel.Section
			read    func() error
		}{kernel.NFTables, r.nftables}, struct {
			section kernel.Section
			read    func() error
		}{kernel.Chains, func() error { return r.iptables(ctx) }})
	}
	for _, s := range steps {
		if err := s.read(); err != nil {
			if r.o.Failed == nil {
				r.o.Failed = map[kernel.Section]error{}
			}
			r.o.Failed[s.section] = err
		}
		if err := ctx.Err(); err != nil {
			return kernel.Observed{}, err
		}
	}
	r.lookups(q.Lookups)
	return r.o, nil
}

type reader struct {
	h     *netlink.Handle
	o     kernel.Observed
	names map[int]string
	index map[string]int
}

func (r *reader) links() error {
	links, err := rtnetlink.Dump(r.h.LinkList)
	if err != nil {
		return err
	}
	r.o.Devices, r.index = make(map[string]bool, len(links)), make(map[string]int, len(links))
	for _, l := range links {
		a := l.Attrs()
		r.names[a.Index], r.index[a.Name], r.o.Devices[a.Name] = a.Name, a.Index, true
		if strings.HasPrefix(a.Name, kernel.PortPrefix) {
			r.o.Links = append(
				r.o.Links,
				kernel.Link{Name: a.Name, MAC: a.HardwareAddr.String(), MTU: a.MTU, Up: a.Flags&net.FlagUp != 0},
			)
		}
	}
	return nil
}

func (r *reader) addresses() error {
	list, err := rtnetlink.Dump(func() ([]netlink.Addr, error) { return r.h.AddrList(nil, netlink.FAMILY_ALL) })
	for _, a := range list {
		if dev := r.names[a.LinkIndex]; dev != "" {
			r.o.Addresses = append(r.o.Addresses, kernel.Address{Dev: dev, Prefix: prefixOf(a.IPNet)})
		}
	}
	return err
}

func (r *reader) neighbours() error {
	for _, l := range r.o.Links {
		list, err := rtnetlink.Dump(func() ([]netlink.Neigh, error) {
			return r.h.NeighList(r.index[l.Name], netlink.FAMILY_ALL)
		})
		if err != nil {
			return err
		}
		for _, n := range list {
			if n.State == netlink.NUD_PERMANENT {
				r.o.Neighbours = append(
					r.o.Neighbours,
					kernel.Neighbour{Dev: l.Name, Addr: addrOf(n.IP), MAC: n.HardwareAddr.String()},
				)
			}
		}
	}
	return nil
}

func (r *reader) routes() (err error) {
	r.o.Routes, err = route.Read(r.h, r.names)
	return err
}

func (r *reader) rules() error {
	for f, number := range map[topology.Family]int{topology.IPv4: netlink.FAMILY_V4, topology.IPv6: netlink.FAMILY_V6} {
		list, err := rtnetlink.Dump(func() ([]netlink.Rule, error) { return r.h.RuleList(number) })
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // a kernel without the family, or without rules
		}
		if err != nil {
			return err
		}
		for _, x := range list {
			if x.Protocol == route.Protocol {
				r.o.Rules = append(
					r.o.Rules,
					kernel.Rule{Family: f, Priority: x.Priority, From: prefixOf(x.Src), To: prefixOf(x.Dst), Table: x.Table},
				)
			}
		}
	}
	return nil
}

// sysctlDir is where the kernel has its settings (proc(5)).
const sysctlDir = "/proc/sys"

// sysctls reads what Wanted and Diff ask about: forwarding; everything of the
// host's own ports; who heeds router advertisements, while the host does not
// forward IPv6 and is to; rp_filter of devices that have addresses.
func (r *reader) sysctls(forwards bool) error {
	r.o.Sysctls = map[string]string{}
	keys := []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/rp_filter"}
	for _, l := range r.o.Links {
		for _, s := range kernel.PortSysctls(l.Name) {
			keys = append(keys, s.Key)
		}
	}
	for _, a := range r.o.Addresses {
		if k := "net/ipv4/conf/" + a.Dev + "/rp_filter"; a.Prefix.Addr().IsGlobalUnicast() && !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	for _, k := range keys {
		if err := r.sysctl(k); err != nil {
			return err
		}
	}
	if !forwards || r.o.Sysctls["net/ipv6/conf/all/forwarding"] != "0" {
		return nil
	}
	for dev := range r.o.Devices {
		if err := r.sysctl("net/ipv6/conf/" + dev + "/accept_ra"); err != nil {
			return err
		}
	}
	return r.sysctl("net/ipv6/conf/default/accept_ra")
}

func (r *reader) sysctl(key string) error {
	b, err := os.ReadFile(filepath.Join(sysctlDir, key))
	if errors.Is(err, os.ErrNotExist) {
		return nil // this kernel does not have it, or the device has gone
	}
	if err != nil {
		return err
	}
	r.o.Sysctls[key] = strings.TrimSpace(string(b))
	return nil
}

func (r *reader) nftables() (err error) {
	if r.o.NAT, err = readNAT(); err != nil {
		return err
	}
	if r.o.Tunnels, r.o.TunnelDrops, err = readTunnels(); err != nil {
		return err
	}
	r.o.Drops, err = hostnet.IngressDrops()
	return err
}

// lookups asks for the ways to addresses, and to the next hops of our routes.
func (r *reader) lookups(addrs []netip.Addr) {
	r.o.Lookups = make(map[netip.Addr]kernel.Lookup, len(addrs))
	for _, own := range r.o.Routes.Own {
		addrs = append(addrs, own.Via)
	}
	for _, a := range addrs {
		if _, asked := r.o.Lookups[a]; !asked && a.IsValid() {
			r.o.Lookups[a] = r.lookup(a)
		}
	}
}

// lookup tells no way to an address from no answer.
func (r *reader) lookup(a netip.Addr) kernel.Lookup {
	list, err := r.h.RouteGet(a.AsSlice())
	for _, none := range []error{
		unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, unix.EAFNOSUPPORT, unix.EOPNOTSUPP,
	} {
		if errors.Is(err, none) {
			return kernel.Lookup{}
		}
	}
	switch {
	case err != nil:
		return kernel.Lookup{Err: err}
	case len(list) == 0 || len(list[0].Gw) > 0 || list[0].Via != nil || len(list[0].MultiPath) > 0:
		return kernel.Lookup{}
	}
	if dev := r.names[list[0].LinkIndex]; dev != "" {
		return kernel.Lookup{Dev: dev}
	}
	return kernel.Lookup{Err: fmt.Errorf("the device of the way to %s is new", a)}
}
