package flannel_test

import (
	"context"
	"io/fs"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
	"github.com/baize-net/baize/topology/flannel"
	"github.com/baize-net/baize/topology/source"
)

func routed(t topology.Transport) topology.Network {
	return topology.Network{
		Name: flannel.Network, IPv4: prefix("10.1.0.0/16"), IPv6: prefix("fd00:1::/48"), VNI: 1, Transport: t, Router: true,
	}.Defaults()
}

// What a node says of itself is what flannel's hosts of that backend look for.
func TestWantLease(t *testing.T) {
	underlay := []netip.Addr{netip.MustParseAddr("fd77::1"), netip.MustParseAddr("192.168.0.1")}
	n := routed(topology.VXLAN)
	l := flannel.WantLease(n, topology.Node{VTEPs: underlay})
	assert.Equal(t, "vxlan", l.BackendType)
	assert.Equal(t, flannel.VTEP{VNI: 1, MAC: "0e:ba:c0:a8:00:01"}, l.VTEP)
	assert.Equal(t, l.VTEP, l.IPv6VTEP, "without it flannel's hosts ignore the lease")
	assert.Equal(t, underlay[0], l.PublicIPv6)

	l = flannel.WantLease(routed(topology.Route), topology.Node{VTEPs: underlay})
	assert.Equal(t, "host-gw", l.BackendType)
	assert.Equal(t, underlay, []netip.Addr{l.PublicIPv6, l.PublicIP})

	only6 := n
	only6.IPv4 = netip.Prefix{}
	l = flannel.WantLease(only6, topology.Node{VTEPs: underlay})
	assert.Equal(t, flannel.Lease{
		BackendType: "vxlan", PublicIPv6: underlay[0], IPv6VTEP: flannel.VTEP{VNI: 1, MAC: "0e:ba:c0:a8:00:01"},
	}, l, "without IPv4 in the network")

	n.IPv6 = netip.Prefix{}
	assert.False(t, flannel.WantLease(n, topology.Node{VTEPs: underlay}).PublicIPv6.IsValid(), "an IPv4 network")
	assert.False(t, flannel.WantLease(n, topology.Node{VTEPs: underlay[:1]}).PublicIP.IsValid())
}

// file is the subnet file of a host.
type file struct {
	mu  sync.Mutex
	env *flannel.Env
}

func (f *file) read() (flannel.Env, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.env == nil {
		return flannel.Env{}, fs.ErrNotExist
	}
	return *f.env, nil
}

func (f *file) write(e flannel.Env) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.env = &e
	return nil
}

// member1 is host1 as the source asks for it.
func member1(inUse ...netip.Addr) source.Member {
	return source.Member{
		Underlay: []netip.Addr{netip.MustParseAddr("192.168.77.1")}, InUse: map[string][]netip.Addr{flannel.Network: inUse},
	}
}

// merge gives the source what etcd has.
func (c *cluster) merge(s *flannel.Source) *topology.Snapshot {
	c.t.Helper()
	own, err := c.own.Snapshot(c.t.Context())
	require.NoError(c.t, err)
	merged, ok := s.Merge(own)
	require.True(c.t, ok)
	return merged
}

// run runs the source until the test ends, and returns once it has seen the
// keys.
func (c *cluster) run(s *flannel.Source, changed <-chan struct{}) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	c.t.Cleanup(func() { cancel(); assert.NoError(c.t, <-done) })
	<-changed
}

// Containers keep their addresses when a lease is lost, also those of a docker0
// whose addresses nobody but Docker knows.
func TestSourceLease(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.put("config", vxlanConfig)
	f := &file{}
	changed := make(chan struct{}, 100)
	options := flannel.Options{
		Node: "host1", Keys: c, Changed: func() { changed <- struct{}{} }, WriteEnv: f.write, ReadEnv: f.read,
	}
	s := flannel.NewSource(options)
	require.NoError(t, s.Join(ctx, member1()), "nothing is known yet")
	c.run(s, changed)
	c.merge(s)
	require.NoError(t, s.Join(ctx, member1(netip.MustParseAddr("10.1.5.2"))))
	assert.True(t, s.Ready())
	want := flannel.Env{Network: prefix("10.1.0.0/16"), Subnet: prefix("10.1.5.0/24"), MTU: 1450}
	assert.Equal(t, want, *f.env)

	<-changed // its own lease
	c.merge(s)
	before := c.keys()["subnets/10.1.5.0-24"].Meta
	require.NoError(t, s.Join(ctx, member1()))
	assert.Equal(t, before, c.keys()["subnets/10.1.5.0-24"].Meta, "held: nothing is written")
	c.remove("subnets/10.1.5.0-24")
	<-changed
	c.merge(s)
	require.NoError(t, s.Join(ctx, member1()))
	assert.NotEqual(t, before, c.keys()["subnets/10.1.5.0-24"].Meta, "the same subnet again")

	// Another agent knows it by the file alone.
	c.remove("subnets/10.1.5.0-24")
	seen := make(chan struct{}, 100)
	options.Changed = func() { seen <- struct{}{} }
	again := flannel.NewSource(options)
	c.run(again, seen)
	c.merge(again)
	require.NoError(t, again.Join(ctx, member1()))
	assert.Contains(t, c.keys(), "subnets/10.1.5.0-24")

	refused(
		t,
		again.Join(ctx, source.Member{Underlay: []netip.Addr{netip.MustParseAddr("fd77::1")}}),
		topology.ErrInvalid,
		"--vtep",
	)
}

// With a Member the source keeps its lease by itself, and writes the file after
// the migration as well.
func TestSourceKeepsItself(t *testing.T) {
	c := newCluster(t)
	c.put("config", vxlanConfig)
	f := &file{}
	wrote, changed := make(chan flannel.Env, 100), make(chan struct{}, 100)
	var s *flannel.Source
	admitted := make(chan struct{})
	s = flannel.NewSource(flannel.Options{
		Node: "host1", Keys: c, ReadEnv: f.read, Changed: func() { changed <- struct{}{} },
		Member: func(context.Context) (source.Member, error) {
			select {
			case <-admitted:
				return member1(), nil
			default:
				return source.Member{}, source.ErrNotYet
			}
		},
		WriteEnv: func(e flannel.Env) error { wrote <- e; return f.write(e) },
	})
	c.run(s, changed)
	c.merge(s)
	assert.Empty(t, s.Faults(), "not yet is no fault")
	close(admitted)
	s.Wake()
	e := <-wrote
	assert.Contains(t, c.keys(), flannel.LeaseKey(e.Subnet, netip.Prefix{}))

	c.member("host1", "192.168.77.1") // the same lease
	m, _, err := c.plan()
	require.NoError(t, err)
	require.NoError(t, flannel.Migrate(t.Context(), c, c.own.Prefix(), m))
	own, err := c.own.Snapshot(t.Context())
	require.NoError(t, err)
	for len(wrote) > 0 {
		<-wrote
	}
	merged, ok := s.Merge(own)
	require.True(t, ok)
	assert.Equal(t, own, merged)
	assert.Equal(t, e, <-wrote)
	assert.Empty(t, s.Faults())
}

// watched are keys whose watch the test feeds.
type watched struct {
	flannel.Keys
	feed chan func(deliver func(*topology.Snapshot, error))
}

func (w *watched) Prefix() string { return flannel.DefaultPrefix }

func (w *watched) Watch(ctx context.Context, deliver func(*topology.Snapshot, error)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-w.feed:
			f(deliver)
		}
	}
}

func (w *watched) deliver(s *topology.Snapshot, err error) {
	w.feed <- func(deliver func(*topology.Snapshot, error)) { deliver(s, err) }
	synctest.Wait()
}

// copied is a cache in memory.
type copied struct {
	mu sync.Mutex
	s  *topology.Snapshot
}

func (c *copied) Load() (*topology.Snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s == nil {
		return nil, fs.ErrNotExist
	}
	return c.s, nil
}
func (c *copied) Save(s *topology.Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s = s
}
func (c *copied) Flush()       {}
func (c *copied) File() string { return "kept.json" }

// slow is a cache that writes only when it is flushed.
type slow struct {
	copied
	next *topology.Snapshot
}

func (c *slow) Save(s *topology.Snapshot) { c.next = s }
func (c *slow) Flush()                    { c.copied.Save(c.next) }

func rawKeys(revision int64, kvs ...string) *topology.Snapshot {
	var out []topology.KV
	for i := 0; i < len(kvs); i += 2 {
		out = append(out, topology.KV{Key: kvs[i], Value: []byte(kvs[i+1]), Meta: topology.Meta{ModRevision: revision}})
	}
	return topology.NewRawSnapshot(revision, out)
}

// start runs a source that only follows its keys.
func start(t *testing.T, cache source.Cache) (*flannel.Source, *watched) {
	w := &watched{feed: make(chan func(func(*topology.Snapshot, error)))}
	s := flannel.NewSource(flannel.Options{Node: "host1", Keys: w, Cache: cache})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); assert.NoError(t, <-done) })
	synctest.Wait()
	return s, w
}

// What is on disk is used only where the source itself has read nothing,
// whatever the other sources have.
func TestSourceCache(t *testing.T) {
	own := topology.NewSnapshot(1, nil)
	old, fresh := rawKeys(5, "config", vxlanConfig, "subnets/10.1.8.0-24", "{}"), rawKeys(9, "config", vxlanConfig)
	reserved := func(t *testing.T, s *flannel.Source) int {
		merged, ok := s.Merge(own)
		require.True(t, ok)
		return len(merged.Subnets)
	}
	t.Run("the keys were read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cache := &slow{copied: copied{s: old}}
			s, w := start(t, cache)
			w.deliver(fresh, nil)
			time.Sleep(time.Minute)
			synctest.Wait()
			assert.Zero(t, reserved(t, s))
			assert.Equal(t, fresh, cache.next)
		})
	})
	t.Run("they cannot be read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w := start(t, &copied{s: old})
			_, ok := s.Merge(own)
			assert.False(t, ok, "half a topology would cut endpoints off")
			w.deliver(nil, &topology.Error{Kind: topology.ErrUnavailable, Item: "etcd", What: "does not answer"})
			_, ok = s.Merge(own)
			assert.False(t, ok)
			time.Sleep(3 * time.Second)
			synctest.Wait()
			assert.Equal(t, 1, reserved(t, s))
			w.deliver(fresh, nil)
			assert.Zero(t, reserved(t, s), "the keys replace the copy")
		})
	})
}

// That flannel's keys cannot be read is said, and of them.
func TestSourceFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := start(t, nil)
		own := topology.NewSnapshot(1, []topology.KV{{Key: "nodes/host1", Value: []byte(
			`{"id":"1","vteps":["192.168.77.1"],"encapsulations":["vxlan"]}`)}})
		config := `{"Network":"10.1.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:1::/48","Backend":{"Type":"host-gw"}}`
		w.deliver(rawKeys(1, "config", config), nil)
		_, ok := s.Merge(own)
		require.True(t, ok)
		assert.Empty(t, s.Faults())

		w.deliver(
			nil,
			&topology.Error{Kind: topology.ErrUnavailable, Item: "etcd", What: "permission denied", Remedy: "grant it"},
		)
		require.Len(t, s.Faults(), 1)
		f := s.Faults()[0]
		assert.Equal(t, fault.SourceUnavailable, f.Code)
		assert.Equal(t, "flannel's keys below /coreos.com/network: etcd: permission denied (grant it)", f.String())

		// Its configuration is deleted: forwarding goes on.
		w.deliver(rawKeys(2), nil)
		merged, ok := s.Merge(own)
		require.True(t, ok)
		assert.Contains(t, merged.Networks, flannel.Network)
		require.Len(t, s.Faults(), 1)
		assert.Equal(t, fault.SourceMalformed, s.Faults()[0].Code)
		assert.Contains(t, s.Faults()[0].What, "goes on by what it was")

		// A host that runs flannel ignores a node without IPv6.
		host := flannel.Lease{
			Subnet: prefix("10.1.2.0/24"), IPv6Subnet: prefix("fd00:10:1:2::/64"), BackendType: "host-gw",
			PublicIP: netip.MustParseAddr("192.168.77.2"), PublicIPv6: netip.MustParseAddr("fd77::2"),
		}
		w.deliver(rawKeys(3, "config", config, host.Key(), string(host.Encode())), nil)
		_, ok = s.Merge(own)
		require.True(t, ok)
		require.Len(t, s.Faults(), 1)
		assert.Equal(t, fault.SourceIgnoresNode, s.Faults()[0].Code)
		assert.Empty(t, s.Files())
	})
}

// Without a change of records there is nothing new to look at.
func TestSourceMergeIsStable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := start(t, nil)
		w.deliver(rawKeys(1, "config", vxlanConfig), nil)
		own := topology.NewSnapshot(1, []topology.KV{{Key: "networks/blue", Value: []byte(
			`{"ipv4":"10.2.0.0/16","vni":7,"subnetLenIPv4":24,"transport":"vxlan","mtu":1450}`)}})
		a, _ := s.Merge(own)
		b, _ := s.Merge(own)
		assert.Same(t, a, b)
		alive := own.With(2, []topology.KV{{Key: "alive/host1", Value: []byte(`{"id":"1"}`)}}, nil)
		b, _ = s.Merge(alive)
		assert.Contains(t, b.Alive, "host1")
		assert.Equal(t, a.Networks, b.Networks)
		b.Networks["same map"] = topology.Network{}
		assert.Contains(t, a.Networks, "same map", "shared, so that nobody computes it anew")
	})
}
