package flannel

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Migration is what 'baize migrate flannel' does: the records it writes into
// Baize's own keys, and the keys of flannel that it deletes.
type Migration struct {
	Network topology.Network
	Subnets []topology.Subnet
	// Stale are subnets that an earlier migration, cut off, wrote for leases that
	// are no more.
	Stale []topology.Subnet
	// Delete are flannel's leases.
	Delete []topology.KV
	// Switched: the network is in Baize's own keys already, by a migration that
	// was cut off afterwards. Only leases are left to delete.
	Switched bool
	// Own and Flannel are the revisions of the two listings, Config that of
	// flannel's configuration.
	Own, Flannel, Config int64
}

// Plan plans the move of flannel's leases into Baize's own keys. Errors:
// ErrExists (done already), ErrInUse naming the hosts that still run flannel,
// ErrInvalid for keys that cannot be read, ErrConflict with a network or a node
// of Baize's own.
func Plan(own, raw *topology.Snapshot) (Migration, error) {
	m := Migration{Own: own.Revision, Flannel: raw.Revision, Config: raw.Raw[ConfigKey].ModRevision}
	for _, key := range slices.Sorted(maps.Keys(raw.Raw)) {
		if strings.HasPrefix(key, dirSubnets) {
			m.Delete = append(m.Delete, raw.Raw[key])
		}
	}
	if n, done := own.Networks[Network]; done {
		return m.rest(own, raw, n)
	}
	merged := Merge(own, raw, "")
	for _, k := range slices.Sorted(maps.Keys(merged.Malformed)) {
		if f := merged.Malformed[k]; strings.HasPrefix(k, malformedKey("")) {
			return Migration{}, &topology.Error{
				Kind: topology.ErrInvalid, Code: f.Code, Item: f.Item, What: f.What, Remedy: f.Remedy,
			}
		}
	}
	c, err := DecodeConfig(raw.Raw[ConfigKey].Value)
	if err != nil {
		return Migration{}, err
	}
	underlay, err := m.subnets(own, merged)
	if err != nil {
		return Migration{}, err
	}
	m.Network = c.network(topology.Node{UnderlayMTU: underlay}, topology.Meta{})
	for _, other := range own.SortedNetworks() {
		if other.VNI == m.Network.VNI {
			return Migration{}, refuse(topology.ErrConflict,
				fmt.Sprintf("its VNI %d is that of network %s", other.VNI, other.Name),
				"create that network anew with another VNI")
		}
	}
	m.Network.Layout = ""
	if err := topology.CheckRouted(m.Network, own.Networks); err != nil {
		return Migration{}, err
	}
	if err := topology.CheckCovers(m.Network, own.Nodes); err != nil {
		return Migration{}, err
	}
	return m, m.Network.Check()
}

func refuse(kind error, what, remedy string) error {
	return &topology.Error{
		Kind: kind, Code: fault.RecordConflict, Item: "network " + Network, What: what, Remedy: remedy,
	}
}

// rest plans what a migration that was cut off has left: leases of Baize nodes
// that nobody reads any more.
func (m Migration) rest(own, raw *topology.Snapshot, n topology.Network) (Migration, error) {
	if _, again := raw.Raw[ConfigKey]; again || len(m.Delete) == 0 {
		return Migration{}, refuse(topology.ErrExists, "is in Baize's own layout already", "")
	}
	m.Delete = slices.DeleteFunc(m.Delete, func(kv topology.KV) bool {
		l, err := DecodeLease(kv)
		return err != nil || !l.ofBaize()
	})
	if len(m.Delete) == 0 {
		return Migration{}, refuse(topology.ErrExists, "is in Baize's own layout already", "")
	}
	m.Network, m.Switched = n, true
	return m, nil
}

// subnets plans the records, unless a host still runs flannel, and returns the
// least MTU of the owners' links; 0 where there is no owner.
func (m *Migration) subnets(own, merged *topology.Snapshot) (underlayMTU int, err error) {
	var still []string
	keep := map[topology.SubnetID]bool{}
	for _, sub := range merged.SortedSubnets() {
		if sub.Network != Network {
			continue
		}
		keep[topology.SubnetID{Network: Network, Prefix: sub.Prefix}] = true
		n := merged.Nodes[sub.Node]
		if n.Router != nil {
			still = append(still, fmt.Sprintf("%s (%s)", sub.Node, sub.Prefix))
		}
		if mtu := cmp.Or(n.UnderlayMTU, topology.DefaultUnderlayMTU); sub.Node != "" && n.Router == nil {
			underlayMTU = min(cmp.Or(underlayMTU, mtu), mtu)
		}
		sub.Meta = topology.Meta{}
		m.Subnets = append(m.Subnets, sub)
	}
	if len(still) > 0 {
		return 0, refuse(topology.ErrInUse, "these hosts still run flannel: "+strings.Join(still, ", "),
			"stop flanneld and start 'baize agent --flannel' on each, or delete the lease of a host that is gone")
	}
	for _, sub := range own.SortedSubnets() {
		if sub.Network == Network && !keep[topology.SubnetID{Network: Network, Prefix: sub.Prefix}] {
			m.Stale = append(m.Stale, sub)
		}
	}
	return underlayMTU, nil
}

// Migrate executes a plan. own is the prefix of Baize's keys, in the same etcd.
//
// The new layout counts from one transaction on, which requires that flannel's
// leases and Baize's networks are those of the plan: a host that joined in
// between makes it fail with ErrConflict. Subnets are written before it, and
// flannel's leases deleted after it, each only as it was in the plan. A
// migration that was cut off is completed by another.
func Migrate(ctx context.Context, k Keys, own string, m Migration) error {
	if !m.Switched {
		if err := m.write(ctx, k, own); err != nil {
			return err
		}
		if err := m.turn(ctx, k, own); err != nil {
			return err
		}
	}
	return m.deleteLeases(ctx, k)
}

func record(own string, r topology.Record) topology.Change {
	return topology.Change{Key: own + "/" + r.Key(), Value: topology.Encode(r)}
}

// absent holds while Baize's own keys do not have the network.
func (m Migration) absent(own string) topology.Condition {
	return topology.Condition{Key: own + "/" + m.Network.Key()}
}

// write puts the subnets, which do not count without their network.
func (m Migration) write(ctx context.Context, k Keys, own string) error {
	var changes []topology.Change
	for _, sub := range m.Stale {
		changes = append(changes, topology.Change{Key: own + "/" + sub.Key(), Delete: true})
	}
	for _, sub := range m.Subnets {
		changes = append(changes, record(own, sub))
	}
	for part := range slices.Chunk(changes, topology.MaxTxn) {
		result, err := k.Commit(ctx, topology.Txn{If: []topology.Condition{m.absent(own)}, Then: part})
		if err != nil {
			return err
		}
		if !result.Done {
			return refuse(topology.ErrExists, "was made meanwhile", "")
		}
	}
	return nil
}

// turn makes the network, and takes flannel's configuration away.
func (m Migration) turn(ctx context.Context, k Keys, own string) error {
	result, err := k.Commit(ctx, topology.Txn{
		If: []topology.Condition{
			m.absent(own),
			{Key: own + "/" + topology.DirNetworks, Dir: true, ModRevision: m.Own}, // its VNI is unique
			{Key: whole(k, ConfigKey), ModRevision: m.Config},
			{Key: whole(k, dirSubnets), Dir: true, ModRevision: m.Flannel},
		},
		Then: []topology.Change{record(own, m.Network), {Key: whole(k, ConfigKey), Delete: true}},
	})
	if err == nil && !result.Done {
		err = &topology.Error{
			Kind: topology.ErrConflict, Code: fault.RecordConflict, Item: "flannel's leases",
			What: "they, or Baize's networks, changed since the plan was made", Remedy: "run 'baize migrate flannel' again",
		}
	}
	return err
}

// deleteLeases deletes flannel's leases that are as they were in the plan. One
// that somebody wrote since is his.
func (m Migration) deleteLeases(ctx context.Context, k Keys) error {
	var changed []string
	for part := range slices.Chunk(m.Delete, topology.MaxTxn) {
		done, err := deleteAll(ctx, k, part...)
		if err != nil {
			return err
		}
		for i := 0; i < len(part) && !done; i++ { // find out which it is
			one, err := deleteAll(ctx, k, part[i])
			if err != nil {
				return err
			}
			if !one {
				changed = append(changed, part[i].Key)
			}
		}
	}
	if len(changed) == 0 {
		return nil
	}
	slices.Sort(changed)
	return &topology.Error{
		Kind: topology.ErrConflict, Code: fault.RecordConflict, Item: "flannel's " + strings.Join(changed, ", "),
		What:   "the network is moved, but somebody wrote this since: it is not deleted",
		Remedy: "make sure that its host does not run flanneld any more, and delete it with etcdctl below " + k.Prefix(),
	}
}

// deleteAll deletes all of the keys, or none. One that is gone counts as done.
func deleteAll(ctx context.Context, k Keys, kvs ...topology.KV) (bool, error) {
	var t topology.Txn
	for _, kv := range kvs {
		t.If = append(t.If, topology.Condition{Key: whole(k, kv.Key), ModRevision: kv.ModRevision})
		t.Then = append(t.Then, topology.Change{Key: whole(k, kv.Key), Delete: true})
	}
	result, err := k.Commit(ctx, t)
	if err != nil || result.Done || len(kvs) > 1 {
		return result.Done, err
	}
	// It has expired meanwhile, perhaps.
	result, err = k.Commit(ctx, topology.Txn{If: []topology.Condition{{Key: whole(k, kvs[0].Key)}}})
	return result.Done, err
}
