package flannel_test

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
	"github.com/baize-net/baize/topology/flannel"
)

const vxlanConfig = `{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}`

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func want(ip string) flannel.Lease {
	a := netip.MustParseAddr(ip)
	return flannel.Lease{PublicIP: a, BackendType: "vxlan", VTEP: flannel.VTEP{VNI: 1, MAC: flannel.VtepMAC(a)}}
}

// cluster is an etcd with both layouts.
type cluster struct {
	*etcdstore.Keys
	own *etcdstore.Store
	t   *testing.T
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	e := etcdtest.Start(t)
	own, err := etcdstore.Open(t.Context(), etcdstore.Config{Endpoints: []string{e}})
	require.NoError(t, err)
	keys, err := etcdstore.OpenKeys(t.Context(), etcdstore.Config{Endpoints: []string{e}, Prefix: flannel.DefaultPrefix})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, errors.Join(own.Close(), keys.Close())) })
	return &cluster{keys, own, t}
}

// put writes one of flannel's keys, as a person or flannel would.
func (c *cluster) put(rel, value string) {
	c.t.Helper()
	change := topology.Change{Key: c.Prefix() + "/" + rel, Value: []byte(value)}
	_, err := c.Commit(c.t.Context(), topology.Txn{Then: []topology.Change{change}})
	require.NoError(c.t, err)
}

func (c *cluster) remove(rel string) {
	c.t.Helper()
	change := topology.Change{Key: c.Prefix() + "/" + rel, Delete: true}
	_, err := c.Commit(c.t.Context(), topology.Txn{Then: []topology.Change{change}})
	require.NoError(c.t, err)
}

// keys returns flannel's keys.
func (c *cluster) keys() map[string]topology.KV {
	c.t.Helper()
	s, err := c.Snapshot(c.t.Context())
	require.NoError(c.t, err)
	return s.Raw
}

func (c *cluster) plan() (flannel.Migration, *topology.Snapshot, error) {
	c.t.Helper()
	own, err := c.own.Snapshot(c.t.Context())
	require.NoError(c.t, err)
	raw, err := c.Snapshot(c.t.Context())
	require.NoError(c.t, err)
	m, err := flannel.Plan(own, raw)
	return m, flannel.Merge(own, raw, "host1"), err
}

// member registers a node and takes its lease.
func (c *cluster) member(name, ip string) flannel.Lease {
	c.t.Helper()
	n := topology.Node{
		Name: name, ID: name, VTEPs: []netip.Addr{netip.MustParseAddr(ip)}, Encapsulations: topology.Encapsulations(),
		UnderlayMTU: 1500,
	}
	_, err := c.own.RegisterNode(c.t.Context(), n)
	require.NoError(c.t, err)
	l, err := flannel.Take(c.t.Context(), c, name, want(ip), nil)
	require.NoError(c.t, err)
	return l
}

func refused(t *testing.T, err, kind error, words ...string) {
	t.Helper()
	require.ErrorIs(t, err, kind)
	for _, w := range words {
		assert.Contains(t, err.Error(), w)
	}
}

func TestTake(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	_, err := flannel.Take(ctx, c, "a", want("192.168.77.1"), nil)
	refused(t, err, topology.ErrNotFound, "etcdctl put")
	c.put("config", vxlanConfig)
	// A reservation for a host, one for nobody, and somebody else's lease.
	c.put("subnets/10.1.9.0-24", `{"PublicIP":"192.168.77.9"}`)
	c.put("subnets/10.1.8.0-24", `{}`)
	const foreign = `{"PublicIP":"192.168.77.200","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"f2:00:00:00:00:01"}}`
	c.put("subnets/10.1.7.0-24", foreign)

	prefer := []netip.Prefix{prefix("10.1.7.0/24"), prefix("10.1.8.0/24"), prefix("10.1.5.0/24")}
	l, err := flannel.Take(ctx, c, "a", want("192.168.77.1"), prefer)
	require.NoError(t, err)
	assert.Equal(t, "10.1.5.0/24", l.Subnet.String(), "the first of those wanted that is free")
	require.NotZero(t, l.Meta.Lease)
	assert.Equal(t, l.Meta, c.keys()[l.Key()].Meta)
	require.NoError(t, flannel.Renew(ctx, c, l))

	again, err := flannel.Take(ctx, c, "a", want("192.168.77.1"), nil)
	require.NoError(t, err)
	assert.Equal(t, l.ModRevision, again.ModRevision, "nothing to write")

	changed := want("192.168.77.1")
	changed.VTEP.MAC = "0e:ba:00:00:00:77"
	again, err = flannel.Take(ctx, c, "a", changed, nil)
	require.NoError(t, err)
	assert.Equal(t, c.keys()[l.Key()].Meta, again.Meta, "it expires as before")
	assert.Equal(t, l.Meta.Lease, again.Meta.Lease)

	r, err := flannel.Take(ctx, c, "i", want("192.168.77.9"), nil)
	require.NoError(t, err)
	assert.Equal(t, "10.1.9.0/24", r.Subnet.String())
	require.NoError(t, flannel.Renew(ctx, c, r))
	assert.Zero(t, c.keys()["subnets/10.1.9.0-24"].Lease, "a reservation stays one")
	assert.Equal(t, foreign, string(c.keys()["subnets/10.1.7.0-24"].Value), "nobody's lease is taken")

	require.NoError(t, c.Revoke(ctx, l.Meta.Lease))
	assert.NotContains(t, c.keys(), l.Key())
	require.Error(t, flannel.Renew(ctx, c, l), "it has expired")
}

func TestTakeAtOnce(t *testing.T) {
	c := newCluster(t)
	c.put("config", vxlanConfig)
	const hosts = 40
	got := make([]flannel.Lease, hosts)
	var wg sync.WaitGroup
	for i := range hosts {
		wg.Go(func() {
			l, err := flannel.Take(
				t.Context(),
				c,
				"one-name",
				want(netip.AddrFrom4([4]byte{192, 168, 77, byte(i + 1)}).String()),
				nil,
			)
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

func TestMigrate(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.put("config", vxlanConfig)
	l := c.member("host1", "192.168.77.1")
	foreign := want("192.168.77.2")
	foreign.VTEP.MAC = "f2:00:00:00:00:01"
	other, err := flannel.Take(ctx, c, "x", foreign, nil)
	require.NoError(t, err)

	_, merged, err := c.plan()
	refused(t, err, topology.ErrInUse, "flannel-192.168.77.2")
	v, ok := merged.View("host1").Find(flannel.Network)
	require.True(t, ok)
	require.Len(t, v.Peers, 1)
	assert.Equal(t, &topology.RouterHost{MAC: "f2:00:00:00:00:01", Port: 8472}, v.Peers[0].Router)

	c.remove(other.Key())
	m, merged, err := c.plan()
	require.NoError(t, err)
	before, ok := merged.View("host1").Find(flannel.Network)
	require.True(t, ok)
	require.NoError(t, flannel.Migrate(ctx, c, c.own.Prefix(), m))
	snap, err := c.own.Snapshot(ctx)
	require.NoError(t, err)
	after, ok := snap.View("host1").Find(flannel.Network)
	require.True(t, ok)
	assert.Equal(t, flannel.Name, before.Layout)
	before.Meta, after.Meta, before.Layout = topology.Meta{}, topology.Meta{}, ""
	before.OwnRevisions, after.OwnRevisions = nil, nil
	assert.Equal(t, before, after, "what the nodes do stays the same")
	assert.Equal(t, []netip.Prefix{l.Subnet}, after.Subnets)
	assert.Empty(t, c.keys())
	_, _, err = c.plan()
	refused(t, err, topology.ErrExists)
}

// meddled carries out transactions, and before the n-th what somebody else does.
type meddled struct {
	*cluster
	before map[int]func() error
	n      int
}

func (m *meddled) Commit(ctx context.Context, t topology.Txn) (topology.Committed, error) {
	m.n++
	if f := m.before[m.n]; f != nil {
		if err := f(); err != nil {
			return topology.Committed{}, err
		}
	}
	return m.cluster.Commit(ctx, t)
}

// No lease is deleted after a step that failed, and none that somebody
// wrote since the plan.
func TestMigrateMeddledWith(t *testing.T) {
	t.Run("a host joins", func(t *testing.T) {
		c := newCluster(t)
		c.put("config", vxlanConfig)
		l := c.member("host1", "192.168.77.1")
		m, _, err := c.plan()
		require.NoError(t, err)
		k := &meddled{
			cluster: c,
			before:  map[int]func() error{2: func() error { c.put("subnets/10.1.200.0-24", "{}"); return nil }},
		}
		refused(t, flannel.Migrate(t.Context(), k, c.own.Prefix(), m), topology.ErrConflict, "again")
		assert.Contains(t, c.keys(), l.Key())
		assert.Contains(t, c.keys(), "config")
	})
	t.Run("another network takes the VNI", func(t *testing.T) {
		c := newCluster(t)
		c.put("config", vxlanConfig)
		l := c.member("host1", "192.168.77.1")
		m, _, err := c.plan()
		require.NoError(t, err)
		k := &meddled{cluster: c, before: map[int]func() error{2: func() error {
			_, err := c.own.CreateNetwork(
				t.Context(),
				topology.Network{Name: "red", IPv4: prefix("10.2.0.0/16"), VNI: 1}.Defaults(),
			)
			return err
		}}}
		refused(t, flannel.Migrate(t.Context(), k, c.own.Prefix(), m), topology.ErrConflict)
		assert.Contains(t, c.keys(), l.Key())
	})
	t.Run("a lease is written meanwhile", func(t *testing.T) {
		c := newCluster(t)
		c.put("config", vxlanConfig)
		l, l2 := c.member("host1", "192.168.77.1"), c.member("host2", "192.168.77.2")
		m, _, err := c.plan()
		require.NoError(t, err)
		const foreign = `{"PublicIP":"192.168.77.1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"f2:00:00:00:00:01"}}`
		k := &meddled{cluster: c, before: map[int]func() error{3: func() error { c.put(l.Key(), foreign); return nil }}}
		refused(t, flannel.Migrate(t.Context(), k, c.own.Prefix(), m), topology.ErrConflict, l.Key(), "flanneld")
		assert.Equal(t, foreign, string(c.keys()[l.Key()].Value))
		assert.NotContains(t, c.keys(), l2.Key(), "the others go")
	})
	t.Run("cut off", func(t *testing.T) {
		c := newCluster(t)
		c.put("config", vxlanConfig)
		c.member("host1", "192.168.77.1")
		l2 := c.member("host2", "192.168.77.2")
		m, _, err := c.plan()
		require.NoError(t, err)
		lost := func() error { return &topology.Error{Kind: topology.ErrUnavailable, Item: "etcd", What: "lost"} }
		first := &meddled{cluster: c, before: map[int]func() error{2: lost}}
		refused(t, flannel.Migrate(t.Context(), first, c.own.Prefix(), m), topology.ErrUnavailable)

		// host2 goes. What was written for it does not count, and goes, too.
		c.remove(l2.Key())
		m, merged, err := c.plan()
		require.NoError(t, err)
		assert.Empty(t, merged.NodeSubnets(flannel.Network, "host2"))
		require.Len(t, m.Stale, 1)
		second := &meddled{cluster: c, before: map[int]func() error{3: lost}}
		refused(t, flannel.Migrate(t.Context(), second, c.own.Prefix(), m), topology.ErrUnavailable)
		own, err := c.own.Snapshot(t.Context())
		require.NoError(t, err)
		assert.Empty(t, own.NodeSubnets(flannel.Network, "host2"))
		assert.Contains(t, own.Networks, flannel.Network)
		require.Len(t, c.keys(), 1, "the leases are left")

		m, _, err = c.plan()
		require.NoError(t, err)
		assert.True(t, m.Switched)
		require.NoError(t, flannel.Migrate(t.Context(), c, c.own.Prefix(), m))
		assert.Empty(t, c.keys())
	})
}

// A lease that cannot be read keeps its code.
func TestPlanMalformed(t *testing.T) {
	c := newCluster(t)
	c.put("config", vxlanConfig)
	c.put("subnets/10.1.5.0-24", "no JSON")
	_, _, err := c.plan()
	refused(t, err, topology.ErrInvalid, "subnets/10.1.5.0-24")
	assert.Equal(t, fault.SourceMalformed, fault.Of(err).Code)
}
