package etcdstore_test

import (
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/etcdstore"
)

const flannelConfig = `{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}`

func flannelLease(ip string) topology.FlannelLease {
	a := netip.MustParseAddr(ip)
	return topology.FlannelLease{PublicIP: a, BackendType: "vxlan", VTEP: topology.FlannelVTEP{VNI: 1, MAC: topology.FlannelMAC(a).String()}}
}

func flannelStores(t *testing.T) (*etcdstore.Store, *etcdstore.Store, *clientv3.Client) {
	t.Helper()
	e := etcdtest.Start(t)
	return openAt(t, e), open(t, etcdstore.Config{Endpoints: []string{e}, Prefix: topology.FlannelPrefix, Raw: true}), raw(t, e)
}

func TestFlannelLeases(t *testing.T) {
	_, s, c := flannelStores(t)
	ctx := t.Context()
	_, err := s.TakeFlannelLease(ctx, "a", flannelLease("192.168.77.1"), nil)
	refused(t, err, topology.ErrNotFound, "etcdctl put")
	put := func(rel, value string) {
		_, err := c.Put(ctx, topology.FlannelPrefix+"/"+rel, value)
		require.NoError(t, err)
	}
	put("config", flannelConfig)
	// A reservation for a host, one for nobody, and somebody else's lease.
	put("subnets/10.1.9.0-24", `{"PublicIP":"192.168.77.9"}`)
	put("subnets/10.1.8.0-24", `{}`)
	const foreign = `{"PublicIP":"192.168.77.200","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"f2:00:00:00:00:01"}}`
	put("subnets/10.1.7.0-24", foreign)

	l, err := s.TakeFlannelLease(ctx, "a", flannelLease("192.168.77.1"), []netip.Prefix{prefix("10.1.7.0/24"), prefix("10.1.8.0/24"), prefix("10.1.5.0/24")})
	require.NoError(t, err)
	assert.Equal(t, "10.1.5.0/24", l.Subnet.String(), "the first of those wanted that is free")
	require.NotZero(t, l.Lease)
	ttl, err := c.TimeToLive(ctx, clientv3.LeaseID(l.Lease))
	require.NoError(t, err)
	assert.InDelta(t, 86400, ttl.TTL, 60)
	require.NoError(t, s.RenewFlannelLease(ctx, l))

	again, err := s.TakeFlannelLease(ctx, "a", flannelLease("192.168.77.1"), nil)
	require.NoError(t, err)
	assert.Equal(t, l.ModRevision, again.ModRevision, "nothing to write")

	r, err := s.TakeFlannelLease(ctx, "i", flannelLease("192.168.77.9"), nil)
	require.NoError(t, err)
	assert.Equal(t, "10.1.9.0/24", r.Subnet.String())
	require.NoError(t, s.RenewFlannelLease(ctx, r))
	got, err := c.Get(ctx, topology.FlannelPrefix+"/subnets/10.1.9.0-24")
	require.NoError(t, err)
	assert.Zero(t, got.Kvs[0].Lease, "a reservation stays one")
	got, err = c.Get(ctx, topology.FlannelPrefix+"/subnets/10.1.7.0-24")
	require.NoError(t, err)
	assert.Equal(t, foreign, string(got.Kvs[0].Value), "nobody's lease is taken")
}

func TestFlannelLeasesAtOnce(t *testing.T) {
	_, s, c := flannelStores(t)
	_, err := c.Put(t.Context(), topology.FlannelPrefix+"/config", flannelConfig)
	require.NoError(t, err)
	const hosts = 40
	got := make([]topology.FlannelLease, hosts)
	var wg sync.WaitGroup
	for i := range hosts {
		wg.Go(func() {
			l, err := s.TakeFlannelLease(t.Context(), "one-name", flannelLease(netip.AddrFrom4([4]byte{192, 168, 77, byte(i + 1)}).String()), nil)
			assert.NoError(t, err)
			got[i] = l
		})
	}
	wg.Wait()
	seen := map[netip.Prefix]bool{}
	for _, l := range got {
		assert.False(t, seen[l.Subnet], l.Subnet)
		seen[l.Subnet] = true
	}
}

func TestMigrateFlannel(t *testing.T) {
	own, s, c := flannelStores(t)
	ctx := t.Context()
	_, err := c.Put(ctx, topology.FlannelPrefix+"/config", flannelConfig)
	require.NoError(t, err)
	n := node("host1")
	n.VTEPs = []netip.Addr{netip.MustParseAddr("192.168.77.1")}
	_, err = own.RegisterNode(ctx, n)
	require.NoError(t, err)
	l, err := s.TakeFlannelLease(ctx, "host1", flannelLease("192.168.77.1"), nil)
	require.NoError(t, err)
	foreign := flannelLease("192.168.77.2")
	foreign.VTEP.MAC = "f2:00:00:00:00:01"
	other, err := s.TakeFlannelLease(ctx, "x", foreign, nil)
	require.NoError(t, err)

	plan := func() (topology.FlannelMigration, *topology.Snapshot, error) {
		snap, err := own.Snapshot(ctx)
		require.NoError(t, err)
		f, err := s.Snapshot(ctx)
		require.NoError(t, err)
		m, err := snap.MigrateFlannel(f)
		return m, snap.WithFlannel(f, "host1"), err
	}
	_, merged, err := plan()
	refused(t, err, topology.ErrInUse, "flannel-192.168.77.2")
	v, ok := merged.View("host1").Find(topology.FlannelNetwork)
	require.True(t, ok)
	require.Len(t, v.Peers, 1)
	assert.Equal(t, &topology.RouterHost{MAC: "f2:00:00:00:00:01", Port: 8472}, v.Peers[0].Router)

	_, err = c.Delete(ctx, topology.FlannelPrefix+"/"+other.Key())
	require.NoError(t, err)
	m, merged, err := plan()
	require.NoError(t, err)
	before, ok := merged.View("host1").Find(topology.FlannelNetwork)
	require.True(t, ok)
	require.NoError(t, own.MigrateFlannel(ctx, s, m))
	snap, err := own.Snapshot(ctx)
	require.NoError(t, err)
	after, ok := snap.View("host1").Find(topology.FlannelNetwork)
	require.True(t, ok)
	assert.Equal(t, "flannel", before.Layout)
	before.Meta, after.Meta, before.Layout = topology.Meta{}, topology.Meta{}, ""
	assert.Equal(t, before, after, "what the nodes do stays the same")
	assert.Equal(t, []netip.Prefix{l.Subnet}, after.Subnets)
	left, err := c.Get(ctx, topology.FlannelPrefix, clientv3.WithPrefix())
	require.NoError(t, err)
	assert.Empty(t, left.Kvs)
}
