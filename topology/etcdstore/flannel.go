package etcdstore

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/topology"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// flannelTTL is how long flannel's leases last unless renewed.
const flannelTTL = 24 * time.Hour

// TakeFlannelLease makes a lease in flannel's layout that of the host with
// want.PublicIP, which is all that flannel knows a host by, and writes want's
// attributes into it. The store's prefix is flannel's.
//
// A lease or reservation of that PublicIP is kept, with the expiry it has: a
// reservation has none, and gets none. Where there is no such key, a free
// subnet is leased for a day, the first of prefer if one is free. Nobody
// else's key is written, ever: each write compares the revisions read.
//
// Errors: ErrInvalid (the configuration, or the host's lease does not fit it),
// ErrNotFound (no configuration), ErrFull.
func (s *Store) TakeFlannelLease(ctx context.Context, host string, want topology.FlannelLease, prefer []netip.Prefix) (topology.FlannelLease, error) {
	var out topology.FlannelLease
	err := s.attempts(ctx, "the flannel lease of "+want.PublicIP.String(), func() (bool, error) {
		snap, err := s.Snapshot(ctx)
		if err != nil {
			return false, err
		}
		config, ok := snap.Raw[topology.FlannelConfigKey]
		if !ok {
			return false, &topology.Error{Kind: topology.ErrNotFound, Item: s.key(topology.FlannelConfigKey), What: "there is no such key",
				Remedy: "etcdctl put " + s.key(topology.FlannelConfigKey) + ` '{ "Network": "10.1.0.0/16", "Backend": { "Type": "vxlan" } }'`}
		}
		c, err := topology.DecodeFlannelConfig(config.Value)
		if err != nil {
			return false, err
		}
		var taken []netip.Prefix
		for _, kv := range snap.KVs() {
			l, err := topology.DecodeFlannelLease(topology.KV{Key: kv.Key, Value: []byte("{}")})
			if err != nil {
				continue
			}
			taken = append(taken, l.Prefixes()...)
			if l, err := topology.DecodeFlannelLease(kv); err == nil && l.PublicIP == want.PublicIP {
				return s.updateFlannel(ctx, c, l, want, &out)
			}
		}
		next := want
		if next.Subnet, ok = c.Free(topology.IPv4, host, taken, prefer); ok && c.IPv6.IsValid() {
			next.IPv6Subnet, ok = c.Free(topology.IPv6, host, taken, prefer)
		}
		if !ok {
			return false, &topology.Error{Kind: topology.ErrFull, Item: "flannel's network " + c.IPv4.String(), What: "all subnets are leased or reserved", Remedy: "delete the leases of hosts that are gone"}
		}
		grant, err := do(ctx, s, func(ctx context.Context, cl Client) (*clientv3.LeaseGrantResponse, error) {
			return cl.Grant(ctx, int64(flannelTTL/time.Second))
		})
		if err != nil {
			return false, err
		}
		resp, err := s.commit(ctx, txn{
			cmps: []clientv3.Cmp{
				s.sameBirth(next.Key(), 0),
				s.unchanged(topology.FlannelConfigKey, config.ModRevision),
				// A dual-stack key may overlap another that it does not equal.
				s.nothingNewer("subnets/", snap.Revision),
			},
			then: []clientv3.Op{clientv3.OpPut(s.key(next.Key()), string(next.Encode()), clientv3.WithLease(grant.ID))},
		})
		if err != nil {
			return false, err
		}
		if !resp.Succeeded {
			if !resp.repeated { // else the first may have been executed
				_, _ = request(ctx, s, func(ctx context.Context, cl Client) (*clientv3.LeaseRevokeResponse, error) {
					return cl.Revoke(ctx, grant.ID)
				})
			}
			return false, nil
		}
		out, out.Meta = next, written(topology.Meta{}, resp)
		out.Lease = int64(grant.ID)
		return true, nil
	})
	return out, err
}

// PutFlannelConfig does what a person does with etcdctl: it puts flannel's
// configuration, after a look at whether Baize can do it (ErrInvalid).
func (s *Store) PutFlannelConfig(ctx context.Context, value []byte) error {
	if _, err := topology.DecodeFlannelConfig(value); err != nil {
		return err
	}
	_, err := s.commit(ctx, txn{then: []clientv3.Op{clientv3.OpPut(s.key(topology.FlannelConfigKey), string(value))}})
	return err
}

// updateFlannel writes the host's attributes into its own lease.
func (s *Store) updateFlannel(ctx context.Context, c topology.FlannelConfig, have, want topology.FlannelLease, out *topology.FlannelLease) (bool, error) {
	if slices.ContainsFunc(have.Prefixes(), func(p netip.Prefix) bool { return !c.Leasable(p) }) || have.IPv6Subnet.IsValid() != c.IPv6.IsValid() {
		return false, &topology.Error{Kind: topology.ErrInvalid, Item: s.key(have.Key()), What: fmt.Sprintf("the lease of this host (%s) does not fit flannel's configuration any more", have.PublicIP),
			Remedy: "delete the key: the host then leases another subnet, and its containers are to be started anew"}
	}
	next := want
	next.Subnet, next.IPv6Subnet, next.Reserved = have.Subnet, have.IPv6Subnet, have.Reserved
	if string(next.Encode()) == string(have.Encode()) {
		*out = have
		return true, nil
	}
	resp, err := s.commit(ctx, txn{
		cmps: []clientv3.Cmp{s.unchanged(have.Key(), have.ModRevision)},
		then: []clientv3.Op{clientv3.OpPut(s.key(have.Key()), string(next.Encode()), clientv3.WithIgnoreLease())},
	})
	if err != nil || !resp.Succeeded {
		return false, err
	}
	*out = next
	out.Meta = written(have.Meta, resp)
	out.Lease = have.Lease
	return true, nil
}

// RenewFlannelLease puts off the expiry of a lease by a day from now. It
// writes no key, so it can overwrite nobody's. A reservation is left alone.
func (s *Store) RenewFlannelLease(ctx context.Context, l topology.FlannelLease) error {
	if l.Lease == 0 {
		return nil
	}
	_, err := do(ctx, s, func(ctx context.Context, c Client) (*clientv3.LeaseKeepAliveResponse, error) {
		return c.KeepAliveOnce(ctx, clientv3.LeaseID(l.Lease))
	})
	return err
}

// MigrateFlannel executes a plan of topology.Snapshot.MigrateFlannel; flannel
// is the store of flannel's prefix in the same etcd. The new layout counts
// from one transaction on, which requires that flannel's leases are those of
// the plan: a host that joined in between makes it fail with ErrConflict.
// Subnets are written before and flannel's leases deleted after it, so a
// migration that was cut off is completed by another.
func (s *Store) MigrateFlannel(ctx context.Context, flannel *Store, m topology.FlannelMigration) error {
	var puts []clientv3.Op
	for _, sub := range m.Subnets {
		puts = append(puts, s.put(sub))
	}
	absent := s.unchanged(m.Network.Key(), 0)
	for ops := range slices.Chunk(puts, maxTxnOps) {
		if resp, err := s.commit(ctx, txn{cmps: []clientv3.Cmp{absent}, then: ops}); err != nil {
			return err
		} else if !resp.Succeeded {
			return &topology.Error{Kind: topology.ErrExists, Item: "network " + m.Network.Name, What: "was made meanwhile"}
		}
	}
	resp, err := s.commit(ctx, txn{
		cmps: []clientv3.Cmp{absent, flannel.unchanged(topology.FlannelConfigKey, m.ConfigRevision), flannel.nothingNewer("subnets/", m.Revision)},
		then: []clientv3.Op{s.put(m.Network), clientv3.OpDelete(flannel.key(topology.FlannelConfigKey))},
	})
	if err != nil {
		return err
	}
	if !resp.Succeeded && !resp.repeated {
		return &topology.Error{Kind: topology.ErrConflict, Item: "flannel's leases", What: "changed since the plan was made", Remedy: "run 'baize migrate flannel' again"}
	}
	var deletes []clientv3.Op
	for _, key := range m.Delete {
		if strings.HasPrefix(key, "subnets/") {
			deletes = append(deletes, clientv3.OpDelete(flannel.key(key)))
		}
	}
	for ops := range slices.Chunk(deletes, maxTxnOps) {
		if _, err := s.commit(ctx, txn{then: ops}); err != nil {
			return err
		}
	}
	return nil
}
