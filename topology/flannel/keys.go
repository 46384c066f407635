package flannel

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Keys are the keys below flannel's prefix; etcdstore.Keys implements it. Every
// call ends in bounded time. Snapshots have the keys undecoded, in Raw.
type Keys interface {
	// Prefix is that of the keys, without a slash at its end.
	Prefix() string
	Snapshot(ctx context.Context) (*topology.Snapshot, error)
	// Watch delivers the keys, and again after every change, until ctx ends. err is
	// set while they cannot be read; last is then what was seen last, or nil.
	Watch(ctx context.Context, deliver func(last *topology.Snapshot, err error)) error
	// Commit executes a transaction on whole keys.
	Commit(ctx context.Context, t topology.Txn) (topology.Committed, error)
	// Grant makes a lease, Renew has it last for its whole time from now on, Revoke
	// ends it and deletes the keys that are held under it.
	Grant(ctx context.Context, ttl time.Duration) (lease int64, err error)
	Renew(ctx context.Context, lease int64) error
	Revoke(ctx context.Context, lease int64) error
	// Attempts runs f, which reads anew at each call, until it says it is done. item
	// is for the error when it never ends.
	Attempts(ctx context.Context, item string, f func() (done bool, err error)) error
}

func whole(k Keys, rel string) string { return k.Prefix() + "/" + rel }

// Take makes a lease that of the host with want.PublicIP, which is all that
// flannel knows a host by, and writes want's attributes into it.
//
// A lease or reservation of that PublicIP is kept, with the expiry it has: a
// reservation has none, and gets none. Where there is no such key, a free
// subnet is leased for a day, the first of prefer if one is free. Nobody
// else's key is written, ever: each write compares the revisions read.
//
// Errors: ErrInvalid (the configuration, or the host's lease does not fit it),
// ErrNotFound (no configuration), ErrFull.
func Take(ctx context.Context, k Keys, host string, want Lease, prefer []netip.Prefix) (Lease, error) {
	var out Lease
	var g grant
	defer func() { g.release(ctx, k) }()
	err := k.Attempts(ctx, "the flannel lease of "+want.PublicIP.String(), func() (done bool, err error) {
		raw, err := k.Snapshot(ctx)
		if err != nil {
			return false, err
		}
		config, ok := raw.Raw[ConfigKey]
		if !ok {
			return false, noConfig(k)
		}
		c, err := DecodeConfig(config.Value)
		if err != nil {
			return false, err
		}
		have, taken, found := look(raw, want.PublicIP)
		if found {
			out, done, err = update(ctx, k, c, have, want)
			return done, err
		}
		next := want
		if next.Subnet, ok = c.Free(topology.IPv4, host, taken, prefer); ok && c.IPv6.IsValid() {
			next.IPv6Subnet, ok = c.Free(topology.IPv6, host, taken, prefer)
		}
		if !ok {
			return false, &topology.Error{
				Kind: topology.ErrFull, Code: fault.NetworkFull, Item: "flannel's network " + c.IPv4.String(),
				What: "all subnets are leased or reserved", Remedy: "delete the leases of hosts that are gone",
			}
		}
		out, done, err = g.create(ctx, k, next, []topology.Condition{
			{Key: whole(k, next.Key())},
			{Key: whole(k, ConfigKey), ModRevision: config.ModRevision},
			// A dual-stack key may overlap another that it does not equal.
			{Key: whole(k, dirSubnets), Dir: true, ModRevision: raw.Revision},
		})
		return done, err
	})
	return out, err
}

func noConfig(k Keys) error {
	return &topology.Error{
		Kind: topology.ErrNotFound, Code: fault.SourceMalformed, Item: whole(k, ConfigKey), What: "there is no such key",
		Remedy: "etcdctl put " + whole(k, ConfigKey) + " '" + exampleConfig + "'",
	}
}

// look finds a host's lease, and all subnets that are leased or reserved.
func look(raw *topology.Snapshot, publicIP netip.Addr) (have Lease, taken []netip.Prefix, found bool) {
	for _, kv := range raw.KVs() {
		var l Lease
		if l.decodeKey(kv.Key) != nil {
			continue
		}
		taken = append(taken, l.Prefixes()...)
		if l, err := DecodeLease(kv); err == nil && l.PublicIP == publicIP && !found {
			have, found = l, true
		}
	}
	return have, taken, found
}

// grant is an etcd lease under which no key is held yet; 0: there is none. One
// serves all attempts: where many hosts start at once, most attempts fail.
type grant struct{ lease int64 }

// create writes a new lease, for a day.
func (g *grant) create(ctx context.Context, k Keys, next Lease, conditions []topology.Condition) (Lease, bool, error) {
	if g.lease == 0 {
		var err error
		if g.lease, err = k.Grant(ctx, leaseTTL); err != nil {
			return Lease{}, false, err
		}
	}
	lease := g.lease
	result, err := k.Commit(ctx, topology.Txn{
		If: conditions, Then: []topology.Change{{Key: whole(k, next.Key()), Value: next.Encode(), Lease: lease}},
	})
	if err != nil || result.Done || result.Unsure {
		g.lease = 0 // a key is held under it, perhaps
	}
	if err != nil || !result.Done {
		return Lease{}, false, err
	}
	next.Meta = topology.Meta{CreateRevision: result.Revision, ModRevision: result.Revision, Lease: lease}
	return next, true, nil
}

// release revokes an etcd lease that was not used. If that fails, it ends by
// itself.
func (g *grant) release(ctx context.Context, k Keys) {
	if g.lease != 0 {
		_ = k.Revoke(ctx, g.lease)
	}
}

// update writes the host's attributes into its own lease.
func update(ctx context.Context, k Keys, c Config, have, want Lease) (Lease, bool, error) {
	misfit := func(p netip.Prefix) bool { return !c.Leasable(p) }
	if slices.ContainsFunc(have.Prefixes(), misfit) || have.IPv6Subnet.IsValid() != c.IPv6.IsValid() {
		return Lease{}, false, &topology.Error{
			Kind: topology.ErrInvalid, Code: fault.SourceMalformed, Item: whole(k, have.Key()),
			What:   fmt.Sprintf("the lease of this host (%s) does not fit flannel's configuration any more", have.PublicIP),
			Remedy: "delete the key: the host then leases another subnet, and its containers are to be started anew",
		}
	}
	next := want
	next.Subnet, next.IPv6Subnet, next.Reserved, next.Meta = have.Subnet, have.IPv6Subnet, have.Reserved, have.Meta
	if string(next.Encode()) == string(have.Encode()) {
		return have, true, nil
	}
	result, err := k.Commit(ctx, topology.Txn{
		If:   []topology.Condition{{Key: whole(k, have.Key()), ModRevision: have.ModRevision}},
		Then: []topology.Change{{Key: whole(k, have.Key()), Value: next.Encode(), KeepLease: true}},
	})
	if err != nil || !result.Done {
		return Lease{}, false, err
	}
	next.ModRevision = result.Revision
	return next, true, nil
}

// Renew puts off the expiry of a lease by a day from now. It writes no key, so
// it can overwrite nobody's. A reservation is left alone.
func Renew(ctx context.Context, k Keys, l Lease) error {
	if l.Meta.Lease == 0 {
		return nil
	}
	return k.Renew(ctx, l.Meta.Lease)
}

// PutConfig does what a person does with etcdctl: it puts flannel's
// configuration, after a look at whether Baize can do it (ErrInvalid).
func PutConfig(ctx context.Context, k Keys, value []byte) error {
	if _, err := DecodeConfig(value); err != nil {
		return err
	}
	_, err := k.Commit(ctx, topology.Txn{Then: []topology.Change{{Key: whole(k, ConfigKey), Value: value}}})
	return err
}
