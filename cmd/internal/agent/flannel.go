package agent

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// flannelRenew is how often the lease is put off: flannel's lasts a day.
const flannelRenew = time.Hour

// flannel is the agent's part in flannel's network. All but store is guarded
// by Agent.mu.
type flannel struct {
	store *etcdstore.Store
	// raw is flannel's layout; nil before etcd has answered.
	raw     *topology.Snapshot
	lease   topology.FlannelLease
	renewed time.Time
	told    bool // the subnet's file is written
}

func newFlannel(cfg Config) (*flannel, error) {
	etcd := cfg.Etcd
	etcd.Prefix, etcd.Raw = cfg.FlannelPrefix, true
	s, err := etcdstore.Open(context.Background(), etcd)
	return &flannel{store: s}, err
}

func flannelCache(dir string) cache { return cache{filepath.Join(dir, "flannel.json")} }

// useCache takes the layout seen last. It needs Agent.mu.
func (f *flannel) useCache(dir string) {
	if f == nil || f.raw != nil {
		return
	}
	if s, err := flannelCache(dir).read(topology.NewRawSnapshot); err == nil {
		f.raw = s
	}
}

// merge makes the topology out of both layouts. It needs a.mu. A layout of
// flannel without its configuration is not believed once there was one:
// somebody deleted it, or it was migrated and the other layout is about to
// say so; either way no packet shall be lost.
func (a *Agent) merge() {
	if a.flannel == nil {
		a.snapshot = a.own
		return
	}
	if a.own == nil || a.flannel.raw == nil {
		return // half of it would cut endpoints off
	}
	a.snapshot = a.own.WithFlannel(a.flannel.raw, a.cfg.Node)
}

// watchFlannel follows flannel's layout.
func (a *Agent) watchFlannel(ctx context.Context) error {
	keep := saver{cache: flannelCache(a.cfg.StateDir), warn: func(err error) { a.log.Warnf("keep a copy of flannel's leases: %v", err) }}
	defer keep.flush()
	return a.flannel.store.Watch(ctx, func(u etcdstore.Update) {
		a.mu.Lock()
		had := a.flannel.raw != nil && a.flannel.raw.Raw[topology.FlannelConfigKey].Key != ""
		if u.Err == nil {
			if _, has := u.Snapshot.Raw[topology.FlannelConfigKey]; has || !had {
				a.flannel.raw = u.Snapshot
			} else {
				a.log.Warn("flannel's configuration is gone from etcd: forwarding goes on by what it was")
			}
			keep.put(a.flannel.raw)
		}
		a.merge()
		a.mu.Unlock()
		a.poke()
		a.rejoin()
	})
}

// isFlannels reports whether a network is flannel's: its subnets are leased
// in flannel's layout.
func (a *Agent) isFlannels(n topology.Network) bool {
	if a.flannel == nil || n.Name != topology.FlannelNetwork {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	_, migrated := a.own.Networks[n.Name]
	return !migrated
}

// flannelMember leases the node's subnet as flannel would, keeps the lease and
// writes it down for those who start containers.
func (a *Agent) flannelMember(ctx context.Context, s *topology.Snapshot, endpoints []ovs.Endpoint) error {
	n, ok := s.Networks[topology.FlannelNetwork]
	if !ok {
		for _, p := range s.Validate() {
			if p.Item == "flannel's "+topology.FlannelConfigKey {
				return &topology.Error{Kind: topology.ErrNotFound, Item: p.Item, What: p.What, Remedy: p.Remedy}
			}
		}
		return nil
	}
	subnets := s.NodeSubnets(n.Name, a.cfg.Node)
	if a.isFlannels(n) {
		l, err := a.takeFlannelLease(ctx, n, endpoints)
		if err != nil {
			return err
		}
		subnets = nil
		for _, p := range l.Prefixes() {
			subnets = append(subnets, topology.Subnet{Prefix: p})
		}
	}
	env := subnetenv.Env{Network: n.IPv4, IPv6Network: n.IPv6, MTU: n.MTU, IPMasq: a.cfg.IPMasq}
	for _, sub := range subnets {
		if sub.Prefix.Addr().Is4() {
			env.Subnet = sub.Prefix
		} else {
			env.IPv6Subnet = sub.Prefix
		}
	}
	if !env.Subnet.IsValid() {
		return nil // to be leased yet, in Baize's layout
	}
	if err := subnetenv.Write(a.cfg.SubnetFile, env); err != nil {
		return fmt.Errorf("write the subnet's file: %w", err)
	}
	a.mu.Lock()
	a.flannel.told = true
	a.mu.Unlock()
	return nil
}

// takeFlannelLease makes the lease that of this node and renews it.
func (a *Agent) takeFlannelLease(ctx context.Context, n topology.Network, endpoints []ovs.Endpoint) (topology.FlannelLease, error) {
	underlay, err := hostnet.VTEP(a.cfg.VTEP, etcdAddrs(a.cfg.Etcd.Endpoints))
	if err != nil {
		return topology.FlannelLease{}, err
	}
	want := flannelLease(n, underlay.Addrs)
	if !want.PublicIP.IsValid() {
		return want, &topology.Error{Kind: topology.ErrInvalid, Item: "node " + a.cfg.Node, What: "has no IPv4 underlay address, which flannel knows hosts by", Remedy: "set one with --vtep"}
	}
	a.mu.Lock()
	have, renewed := a.flannel.lease, a.flannel.renewed
	current := a.flannel.raw.Raw[flannelKey(have)]
	a.mu.Unlock()
	if have.PublicIP == want.PublicIP && string(current.Value) == string(have.Encode()) {
		if time.Since(renewed) < flannelRenew {
			return have, nil
		}
		if err := a.flannel.store.RenewFlannelLease(ctx, have); err == nil {
			a.mu.Lock()
			a.flannel.renewed = time.Now()
			a.mu.Unlock()
			return have, nil
		}
		// It has expired: the same subnet is taken again below.
	}
	l, err := a.flannel.store.TakeFlannelLease(ctx, a.cfg.Node, want, preferredSubnets(n, endpoints, have, a.cfg.SubnetFile))
	if err != nil {
		return l, err
	}
	// It may be an old one of this host that is about to expire.
	if err := a.flannel.store.RenewFlannelLease(ctx, l); err != nil {
		return l, err
	}
	if l.Subnet != have.Subnet {
		a.log.Infof("leased %s of flannel's network %s", l.Subnet, n.IPv4)
	}
	a.mu.Lock()
	a.flannel.lease, a.flannel.renewed = l, time.Now()
	a.mu.Unlock()
	return l, nil
}

// preferredSubnets are those that containers of this node have addresses of:
// endpoints, or those that Docker started with what the file says. A lease lost
// is never a renumbering; the file is a hint, and flanneld reads it, too.
func preferredSubnets(n topology.Network, endpoints []ovs.Endpoint, have topology.FlannelLease, file string) []netip.Prefix {
	var out []netip.Prefix
	add := func(p netip.Prefix) {
		if p.IsValid() && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	for _, e := range endpoints {
		for _, ip := range e.IPs {
			if e.Network == n.Name {
				p, _ := ip.Prefix(n.SubnetLen(topology.FamilyOf(ip)))
				add(p)
			}
		}
	}
	if have.Subnet.IsValid() {
		for _, p := range have.Prefixes() {
			add(p)
		}
	}
	if e, err := subnetenv.Read(file); err == nil {
		add(e.Subnet)
		add(e.IPv6Subnet)
	}
	return out
}

// flannelLease is what this node says of itself in its lease. The link address
// of VXLAN tunnels is there with every backend: flannel does not mind it, and
// Baize nodes are told by it.
func flannelLease(n topology.Network, underlay []netip.Addr) topology.FlannelLease {
	l := topology.FlannelLease{BackendType: topology.FlannelVXLAN}
	if n.Transport == topology.Route {
		l.BackendType = topology.FlannelHostGW
	}
	for _, ip := range underlay {
		if ip.Is4() {
			l.PublicIP = ip
			l.VTEP = topology.FlannelVTEP{VNI: n.VNI, MAC: topology.FlannelMAC(ip).String()}
		}
	}
	for _, ip := range underlay {
		if ip.Is6() && n.IPv6.IsValid() && l.PublicIP.IsValid() {
			l.PublicIPv6 = ip
			if l.BackendType == topology.FlannelVXLAN {
				l.IPv6VTEP = l.VTEP
			}
		}
	}
	return l
}

// flannelProblems says what keeps flannel hosts from using this node's lease.
func (a *Agent) flannelProblems(v topology.View) []fault.Fault {
	n, ok := v.Find(topology.FlannelNetwork)
	if !ok || !n.IPv6.IsValid() || !a.isFlannels(n.Network) {
		return nil
	}
	if _, dual := v.Node.VTEP(topology.IPv6); dual {
		return nil
	}
	if !slices.ContainsFunc(n.Peers, func(p topology.Peer) bool { return p.Router != nil }) {
		return nil
	}
	return []fault.Fault{{
		Item: "node " + a.cfg.Node, What: "has no IPv6 underlay address: hosts that run flannel ignore its lease, for IPv4 as well, where flannel's configuration has EnableIPv6",
		Remedy: "give its underlay interface a global IPv6 address",
	}}
}

// flannelKey is the lease's key; "" before there is a lease.
func flannelKey(l topology.FlannelLease) string {
	if !l.Subnet.IsValid() {
		return ""
	}
	return l.Key()
}
