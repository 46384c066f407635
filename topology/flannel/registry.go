package flannel

import (
	"context"
	"net/netip"
	"time"

	"github.com/baize-net/baize/topology"
)

// Registry is where the hosts of flannel's network find each other: keys in etcd
// (Options.Keys), or the nodes of a Kubernetes cluster (package kube). Its methods
// may be called concurrently.
type Registry interface {
	// Layout is that of what comes from it.
	Layout() string
	// Where says what it is, PutConfig how the configuration gets there, for messages.
	Where() string
	PutConfig() string
	// Watch delivers what is in it, undecoded, and again after every change, until
	// ctx ends. err is set while it cannot be read; last is then what was seen last,
	// or nil.
	Watch(ctx context.Context, deliver func(last *topology.Snapshot, err error)) error
	// Merge adds what Watch delivered to Baize's own records.
	Merge(own, raw *topology.Snapshot) *topology.Snapshot
	// Keep has the node's lease say what want does, and last. raw is what was seen
	// last, have the lease as Keep left it, zero at first. Where the node has a choice,
	// its subnets are the first of prefer that are free.
	Keep(ctx context.Context, raw *topology.Snapshot, have, want Lease, prefer []netip.Prefix) (Lease, error)
}

// renewEvery is how often a lease in etcd is put off: it lasts a day.
const renewEvery = time.Hour

// keysRegistry are flannel's keys in etcd.
type keysRegistry struct {
	keys Keys
	node string
	logf func(format string, args ...any)
	// renewed is when the lease was put off; only Keep uses it.
	renewed time.Time
}

// Layout implements Registry.
func (*keysRegistry) Layout() string { return Name }

// Where implements Registry.
func (r *keysRegistry) Where() string { return "flannel's keys below " + r.keys.Prefix() }

// PutConfig implements Registry.
func (r *keysRegistry) PutConfig() string {
	return "etcdctl put " + whole(r.keys, ConfigKey) + " '…'"
}

// Watch implements Registry.
func (r *keysRegistry) Watch(ctx context.Context, deliver func(last *topology.Snapshot, err error)) error {
	return r.keys.Watch(ctx, deliver)
}

// Merge implements Registry.
func (r *keysRegistry) Merge(own, raw *topology.Snapshot) *topology.Snapshot {
	return Merge(own, raw, r.node)
}

// Keep implements Registry: it leases as flannel would, and renews.
func (r *keysRegistry) Keep(
	ctx context.Context, raw *topology.Snapshot, have, want Lease, prefer []netip.Prefix,
) (Lease, error) {
	held := have.PublicIP == want.PublicIP && have.Subnet.IsValid() &&
		string(raw.Raw[have.Key()].Value) == string(have.Encode()) && string(encodeFor(want, have)) == string(have.Encode())
	if held {
		if time.Since(r.renewed) < renewEvery {
			return have, nil
		}
		if err := Renew(ctx, r.keys, have); err == nil {
			r.renewed = time.Now()
			return have, nil
		}
		// It has expired: the same subnet is taken again below.
	}
	l, err := Take(ctx, r.keys, r.node, want, prefer)
	if err != nil {
		return l, err
	}
	// It may be an old one of this host that is about to expire.
	if err := Renew(ctx, r.keys, l); err != nil {
		return l, err
	}
	r.renewed = time.Now()
	return l, nil
}

// encodeFor is want's value with the subnets of have.
func encodeFor(want, have Lease) []byte {
	want.Subnet, want.IPv6Subnet = have.Subnet, have.IPv6Subnet
	return want.Encode()
}
