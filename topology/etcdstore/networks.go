package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// firstVNI is where the search for a free VNI begins: small numbers are
// wanted by people.
const firstVNI = 100

// CreateNetwork stores a new network and returns it as stored. A VNI of 0
// asks for the lowest free one from 100 on, an MTU of 0 for what all nodes carry.
// What else is left open is filled in by Network.Defaults.
//
// Two networks never get one VNI, however many are created at once: the
// transaction requires that no key below networks/ is newer than the listing
// that the VNI was chosen from.
//
// Errors: ErrInvalid; ErrExists when the name is taken; ErrConflict when the
// VNI is, or an address of a network that is routed, naming the network that
// has it.
func (s *Store) CreateNetwork(ctx context.Context, n topology.Network) (topology.Network, error) {
	n.MTUDefault = n.MTU == 0
	n = n.Defaults()
	chosen := n.VNI != 0
	if !chosen {
		n.VNI = firstVNI // until it is known which are free
	}
	if err := n.CheckNew(); err != nil {
		return topology.Network{}, err
	}
	var out topology.Network
	err := s.attempts(ctx, "network "+n.Name, func() (bool, error) {
		v, err := s.read(ctx, topology.DirNetworks, topology.DirNodes)
		if err != nil {
			return false, err
		}
		n, _ = n.WithMTU(v.Underlay())
		if _, there := v.meta[n.Key()]; there {
			if err := v.malformed(n.Key()); err != nil {
				return false, err
			}
			return false, exists(v.Networks[n.Name])
		}
		if !chosen {
			n.VNI = freeVNI(v.Networks)
		}
		if err := checkVNI(v.Networks, n); err != nil {
			return false, err
		}
		if err := checkKernel(v, topology.Network{}, n); err != nil {
			return false, err
		}
		resp, err := s.commit(ctx, txn{
			cmps:  []clientv3.Cmp{s.unchanged(n.Key(), 0), s.nothingNewer(topology.DirNetworks, v.Revision)},
			then:  []clientv3.Op{s.put(n)},
			other: []clientv3.Op{s.get(n.Key())},
		})
		if err != nil {
			return false, err
		}
		if !resp.Succeeded {
			// Was it this one, its answer lost?
			old, ok := s.viewOf(resp).Networks[n.Name]
			ours := ok && resp.repeated && old.CreateRevision > v.Revision && sameRecord(old, n)
			if ours {
				out = old
			}
			return ours, nil
		}
		out = n
		out.Meta = written(topology.Meta{}, resp)
		return true, nil
	})
	return out, err
}

// exists refuses a second network of a name.
func exists(n topology.Network) error {
	e := &topology.Error{
		Kind: topology.ErrExists, Item: "network " + n.Name, What: "there is one of that name already",
		Remedy: "choose another name, or change it with 'baize network update'",
	}
	if n.Deleting != "" {
		e.What = "there is one of that name, which is being deleted"
		e.Remedy = fmt.Sprintf("wait for it with 'baize network delete %s', or keep it with "+
			"'baize network delete --cancel %s'", n.Name, n.Name)
	}
	return e
}

// freeVNI returns the lowest number from firstVNI on that no network has.
func freeVNI(networks map[string]topology.Network) uint32 {
	used := map[uint32]bool{}
	for _, n := range networks {
		used[n.VNI] = true
	}
	vni := uint32(firstVNI)
	for used[vni] {
		vni++
	}
	return vni
}

func checkVNI(networks map[string]topology.Network, n topology.Network) error {
	for name, o := range networks {
		if o.VNI == n.VNI && name != n.Name {
			return &topology.Error{
				Kind: topology.ErrConflict, Code: fault.RecordConflict, Item: "network " + n.Name,
				What:   fmt.Sprintf("VNI %d is used by network %s", n.VNI, name),
				Remedy: "choose another, or leave it out to get a free one",
			}
		}
	}
	return nil
}

// sameRecord compares what would be stored.
func sameRecord(a, b topology.Record) bool {
	return a.Key() == b.Key() && string(topology.Encode(a)) == string(topology.Encode(b))
}

// UpdateNetwork applies change to the stored network and stores the result,
// again from the beginning when somebody else was faster, so change may be
// called several times. An error of change is returned as it is. Fields
// unknown to this version are kept.
//
// Prefixes, subnet lengths and the VNI cannot change while a node leases a
// subnet or has an address pinned: ErrInUse, naming the nodes. A prefix of a family
// that the network lacks can be added at any time: its nodes lease subnets of it.
func (s *Store) UpdateNetwork(
	ctx context.Context, name string, change func(*topology.Network) error,
) (topology.Network, error) {
	var out topology.Network
	err := s.attempts(ctx, "network "+name, func() (bool, error) {
		v, err := s.readNetwork(ctx, name, topology.DirNetworks, topology.DirNodes)
		if err != nil {
			return false, err
		}
		old, err := v.network(name)
		if err != nil {
			return false, err
		}
		n := old
		if err := change(&n); err != nil {
			return false, err
		}
		n.Name, n.Meta = old.Name, old.Meta
		n.Extra = mergeExtra(old.Extra, n.Extra)
		if sameRecord(n, old) {
			out = old
			return true, nil
		}
		cmps, err := s.mayUpdate(v, old, n)
		if err != nil {
			return false, err
		}
		resp, err := s.commit(ctx, txn{cmps: cmps, then: []clientv3.Op{s.put(n)}})
		if err != nil || !resp.Succeeded {
			return false, err
		}
		out = n
		out.Meta = written(old.Meta, resp)
		return true, nil
	})
	return out, err
}

// checkKernel refuses what kernels could not forward, unless it has been so before: a node
// that came later is told by its agent.
func checkKernel(v view, old, n topology.Network) error {
	if !old.Kernel() || n.IPv4 != old.IPv4 || n.IPv6 != old.IPv6 {
		if err := topology.CheckCovers(n, v.Nodes); err != nil {
			return err
		}
	}
	return topology.CheckRouted(n, v.Networks)
}

// mayUpdate returns what has to hold still when a network is changed, or why it
// cannot be.
func (s *Store) mayUpdate(v view, old, n topology.Network) ([]clientv3.Cmp, error) {
	check := n.Check
	if n.GatewayIPv4 != old.GatewayIPv4 || n.GatewayIPv6 != old.GatewayIPv6 {
		check = n.CheckNew
	}
	if err := check(); err != nil {
		return nil, err
	}
	if err := checkVNI(v.Networks, n); err != nil {
		return nil, err
	}
	if err := checkKernel(v, old, n); err != nil {
		return nil, err
	}
	cmps := []clientv3.Cmp{s.unchanged(n.Key(), old.ModRevision)}
	if n.Transport.Routed() && !old.Transport.Routed() {
		// No other network of these addresses may become routed meanwhile.
		cmps = append(cmps, s.nothingNewer(topology.DirNetworks, v.Revision))
	}
	what := structure(old, n)
	if what == "" {
		return cmps, nil
	}
	cmps = append(cmps, s.nothingNewer(topology.DirNetworks, v.Revision))
	if onlyAdds(old, n) {
		return cmps, nil
	}
	if err := v.inUse(n.Name, what+" cannot change"); err != nil {
		var e *topology.Error
		if errors.As(err, &e) {
			e.Remedy += "; or create another network and move its endpoints there"
		}
		return nil, err
	}
	if len(v.Subnets) > 0 && what != vniOf {
		return nil, v.reserved(n, "its division")
	}
	return append(cmps, s.stillUnused(n.Name, v.Revision)...), nil
}

// onlyAdds reports whether what leases are built on is as it was in the families that
// the network had.
func onlyAdds(old, n topology.Network) bool {
	for _, f := range old.Families() {
		if old.Prefix(f) != n.Prefix(f) || old.SubnetLen(f) != n.SubnetLen(f) {
			return false
		}
	}
	return old.VNI == n.VNI
}

// RenameNetwork gives a network that no node has a part of another name, its
// reservations included. Names are parts of keys, and engines and endpoints refer to
// them: a network in use keeps its own.
//
// Errors: ErrInUse, naming the nodes; ErrExists when the new name is taken; ErrNotFound.
func (s *Store) RenameNetwork(ctx context.Context, from, to string) (topology.Network, error) {
	if err := topology.CheckName("network", to); err != nil {
		return topology.Network{}, err
	}
	var out topology.Network
	repeated := false
	err := s.attempts(ctx, "network "+from, func() (bool, error) {
		v, err := s.readNetwork(ctx, from, topology.DirNetworks, subnetDir(to), pinDir(to))
		if err != nil {
			return false, err
		}
		if now := v.Networks[to]; repeated && v.Networks[from].Name == "" && now.VNI == out.VNI {
			out = now // it was this call, its answer lost
			return true, nil
		}
		n, err := v.network(from)
		if err != nil {
			return false, err
		}
		if other, taken := v.Networks[to]; taken {
			return false, exists(other)
		}
		for _, name := range []string{from, to} {
			if err := v.inUse(name, "its name cannot change"); err != nil {
				return false, err
			}
		}
		if len(v.Subnets) > mostReservations/2 {
			return false, v.reserved(n, "its name")
		}
		t := txn{cmps: []clientv3.Cmp{
			s.unchanged(n.Key(), n.ModRevision), s.unchanged(topology.NetworkKey(to), 0),
			s.nothingNewer(topology.DirNetworks, v.Revision),
		}}
		t.cmps = append(append(t.cmps, s.stillUnused(from, v.Revision)...), s.stillUnused(to, v.Revision)...)
		old := n
		n.Name = to
		t.then = append(t.then, s.move(old, n)...)
		for _, sub := range v.SortedSubnets() {
			moved := sub
			moved.Network = to
			t.then = append(t.then, s.move(sub, moved)...)
		}
		resp, err := s.commit(ctx, t)
		if err != nil {
			return false, err
		}
		out, repeated = n, resp.repeated
		out.Meta = written(topology.Meta{}, resp)
		return resp.Succeeded, nil
	})
	return out, err
}

// move puts a record under another key.
func (s *Store) move(from, to topology.Record) []clientv3.Op {
	return []clientv3.Op{clientv3.OpDelete(s.key(from.Key())), s.put(to)}
}

const vniOf = "the VNI"

// structure names what differs of that which leases are built on, "" when
// nothing does.
func structure(a, b topology.Network) string {
	switch {
	case a.IPv4 != b.IPv4 || a.IPv6 != b.IPv6:
		return "the prefix"
	case a.SubnetLenIPv4 != b.SubnetLenIPv4 || a.SubnetLenIPv6 != b.SubnetLenIPv6:
		return "the subnet length"
	case a.VNI != b.VNI:
		return vniOf
	}
	return ""
}

// readNetwork reads a network and all that lives in it, and more.
func (s *Store) readNetwork(ctx context.Context, name string, more ...string) (view, error) {
	if err := topology.CheckName("network", name); err != nil {
		return view{}, err
	}
	rels := []string{subnetDir(name), pinDir(name)}
	if !slices.Contains(more, topology.DirNetworks) {
		rels = append(rels, topology.NetworkKey(name))
	}
	return s.read(ctx, append(rels, more...)...)
}

func subnetDir(network string) string { return topology.DirSubnets + network + "/" }
func pinDir(network string) string    { return topology.DirPins + network + "/" }

// stillUnused holds while nothing was leased or pinned in the network since
// it was read.
func (s *Store) stillUnused(name string, revision int64) []clientv3.Cmp {
	return []clientv3.Cmp{s.nothingNewer(subnetDir(name), revision), s.nothingNewer(pinDir(name), revision)}
}

// inUse refuses when nodes hold a part of the network; what says what is
// refused.
func (v view) inUse(name, what string) error {
	var leases, pins []string
	for _, sub := range v.Subnets {
		if sub.Network == name && sub.Node != "" && !slices.Contains(leases, sub.Node) {
			leases = append(leases, sub.Node)
		}
	}
	for _, p := range v.Pins {
		if p.Network == name && !slices.Contains(pins, p.Node) {
			pins = append(pins, p.Node)
		}
	}
	slices.SortFunc(leases, topology.CompareNames)
	slices.SortFunc(pins, topology.CompareNames)
	refuse := func(why, remedy string) error {
		return &topology.Error{Kind: topology.ErrInUse, Item: "network " + name, What: what + " while " + why, Remedy: remedy}
	}
	switch {
	case len(leases) > 0:
		return refuse("subnets are leased by "+few(leases),
			"release them with 'baize subnet release', or remove the nodes with 'baize node remove'")
	case len(pins) > 0:
		return refuse("addresses are pinned by "+few(pins), "remove those endpoints")
	}
	// What cannot be read may be a lease of a newer version.
	for _, key := range sortedKeys(v.Malformed) {
		if strings.HasPrefix(key, subnetDir(name)) || strings.HasPrefix(key, pinDir(name)) {
			return refuse(key+" cannot be read", "correct or delete that key")
		}
	}
	return nil
}

// reserved refuses a change under reservations; what says of what.
func (v view) reserved(n topology.Network, what string) error {
	var list []string
	for _, sub := range v.SortedSubnets() {
		list = append(list, sub.Prefix.String())
	}
	return &topology.Error{
		Kind: topology.ErrInUse, Item: "network " + n.Name,
		What:   what + " cannot change while subnets are reserved: " + few(list),
		Remedy: "release them with 'baize subnet release'",
	}
}

// few lists some names and counts the rest.
func few(names []string) string {
	const most = 8
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// overlapping returns the subnets of a network that share addresses with p,
// those whose values cannot be read included.
func (v view) overlapping(network string, p netip.Prefix) []topology.Subnet {
	var out []topology.Subnet
	for _, sub := range v.SortedSubnets() {
		if sub.Network == network && sub.Prefix.Overlaps(p) {
			out = append(out, sub)
		}
	}
	for _, q := range v.unreadable(network) {
		if q.Overlaps(p) {
			out = append(out, topology.Subnet{Network: network, Prefix: q})
		}
	}
	return out
}

// unreadable returns the prefixes of subnet keys whose values are malformed:
// somebody holds them, only who is not known.
func (v view) unreadable(network string) []netip.Prefix {
	var out []netip.Prefix
	for _, key := range sortedKeys(v.Malformed) {
		if !strings.HasPrefix(key, subnetDir(network)) {
			continue
		}
		r, err := topology.Decode(topology.KV{Key: key, Value: []byte(`{"reserved":true}`)})
		if sub, ok := r.(topology.Subnet); err == nil && ok {
			out = append(out, sub.Prefix)
		}
	}
	return out
}
