package etcdstore_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/stretchr/testify/require"
)

// storm leases one subnet for each of n nodes at the same moment, every node
// through a client of its own.
func storm(t *testing.T, n int, endpoints []string, network string, during func()) []topology.Subnet {
	t.Helper()
	stores := make([]*etcdstore.Store, n)
	for i := range stores {
		stores[i] = openAt(t, endpoints...)
	}
	out, errs := make([]topology.Subnet, n), make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			out[i], errs[i] = stores[i].LeaseSubnet(t.Context(), network, fmt.Sprintf("n%d", i), topology.IPv4, false)
		})
	}
	close(start)
	if during != nil {
		during()
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	return out
}

func requireDisjoint(t *testing.T, s *etcdstore.Store, subnets []topology.Subnet) {
	t.Helper()
	seen := map[netip.Prefix]string{}
	for _, sub := range subnets {
		require.Empty(t, seen[sub.Prefix], "%s is leased twice", sub.Prefix)
		seen[sub.Prefix] = sub.Node
	}
	// What etcd says is the truth.
	snap, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	all := snap.SortedSubnets()
	require.Len(t, all, len(subnets))
	for i, a := range all {
		require.Equal(t, seen[a.Prefix], a.Node)
		if i > 0 {
			require.False(t, a.Prefix.Overlaps(all[i-1].Prefix), "%s overlaps %s", a.Prefix, all[i-1].Prefix)
		}
	}
}

func TestLease200AtOnce(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s := openAt(t, ep)
	mustCreate(t, s, topology.Network{Name: "blue", IPv4: prefix("10.1.0.0/16")})
	requireDisjoint(t, s, storm(t, 200, []string{ep}, "blue", nil))
}

// As many nodes as there are subnets: every one gets the one that is left.
func TestLeaseExactlyAsManyAsThereAre(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s := openAt(t, ep)
	mustCreate(t, s, topology.Network{Name: "blue", IPv4: prefix("10.1.0.0/16")})
	// 255 can be leased; leave 200.
	for i := 1; i <= 55; i++ {
		_, err := s.ReserveSubnet(
			t.Context(),
			topology.Subnet{Network: "blue", Prefix: prefix(fmt.Sprintf("10.1.%d.0/24", i*4))},
		)
		require.NoError(t, err)
	}
	got := storm(t, 200, []string{ep}, "blue", nil)
	snap, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	require.Len(t, snap.Subnets, 255)
	seen := map[netip.Prefix]bool{}
	for _, g := range got {
		require.False(t, seen[g.Prefix] || g.Reserved)
		seen[g.Prefix] = true
	}
	_, err = s.LeaseSubnet(t.Context(), "blue", "late", topology.IPv4, false)
	refused(t, err, topology.ErrFull, "network blue", "baize node remove", "n0")
	// One given back is there to be had.
	require.NoError(t, s.ReleaseSubnet(t.Context(), "blue", got[7].Prefix, false))
	sub, err := s.LeaseSubnet(t.Context(), "blue", "late", topology.IPv4, false)
	require.NoError(t, err)
	require.Equal(t, got[7].Prefix, sub.Prefix)
}

func TestLeaseWhileLeaderDies(t *testing.T) {
	t.Parallel()
	c := etcdtest.StartCluster(t, 3)
	s := openAt(t, c.Endpoints...)
	mustCreate(t, s, topology.Network{Name: "blue", IPv4: prefix("10.1.0.0/16")})
	leader := leaderOf(t, c)
	got := storm(t, 60, c.Endpoints, "blue", leader.Stop)
	requireDisjoint(t, s, got)
	leader.Restart()
	require.NoError(t, s.Check(t.Context()))
}

func leaderOf(t *testing.T, c *etcdtest.Cluster) *etcdtest.Member {
	t.Helper()
	for _, m := range c.Members {
		st, err := raw(t, m.Endpoints...).Status(t.Context(), m.Endpoints[0])
		require.NoError(t, err)
		if st.Leader == st.Header.MemberId {
			return m
		}
	}
	require.FailNow(t, "no leader")
	return nil
}

func TestLease(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s := openAt(t, ep)
	ctx := t.Context()
	_, err := s.LeaseSubnet(ctx, "blue", "a", topology.IPv4, false)
	refused(t, err, topology.ErrNotFound, "network blue")
	mustCreate(t, s, blue())
	mustCreate(t, s, topology.Network{Name: "four", IPv4: prefix("10.2.0.0/29"), SubnetLenIPv4: 30})

	first, err := s.LeaseSubnet(ctx, "blue", "a", topology.IPv4, false)
	require.NoError(t, err)
	require.NotZero(t, first.ModRevision)
	require.True(t, prefix("10.1.0.0/16").Contains(first.Prefix.Addr()))
	six, err := s.LeaseSubnet(ctx, "blue", "a", topology.IPv6, false)
	require.NoError(t, err)
	require.True(t, prefix("fd00:1::/48").Contains(six.Prefix.Addr()))

	// After a reboot: the same again, nothing written.
	again, err := openAt(t, ep).LeaseSubnet(ctx, "blue", "a", topology.IPv4, false)
	require.NoError(t, err)
	require.Equal(t, first, again)

	// Full of containers: one more.
	more, err := s.LeaseSubnet(ctx, "blue", "a", topology.IPv4, true)
	require.NoError(t, err)
	require.NotEqual(t, first.Prefix, more.Prefix)
	snap, err := s.Snapshot(ctx)
	require.NoError(t, err)
	require.Len(t, snap.NodeSubnets("blue", "a"), 3)

	_, err = s.LeaseSubnet(ctx, "four", "a", topology.IPv6, false)
	refused(t, err, topology.ErrInvalid, "network four", "IPv6")
	_, err = s.LeaseSubnet(ctx, "four", "a", topology.IPv4, false)
	require.NoError(t, err)
	_, err = s.LeaseSubnet(ctx, "four", "b", topology.IPv4, false)
	refused(t, err, topology.ErrFull, "network four", "a")
}

func TestReservation(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s := openAt(t, ep)
	ctx := t.Context()
	n := mustCreate(t, s, topology.Network{Name: "blue", IPv4: prefix("10.1.0.0/24"), SubnetLenIPv4: 26})
	reserve := func(sub topology.Subnet) (topology.Subnet, error) {
		sub.Network = "blue"
		return s.ReserveSubnet(ctx, sub)
	}
	for _, bad := range []string{"10.2.0.0/26", "10.1.0.0/24", "10.0.0.0/8", "fd00::/64"} {
		_, err := reserve(topology.Subnet{Prefix: prefix(bad)})
		refused(t, err, topology.ErrInvalid, bad)
	}
	_, err := reserve(topology.Subnet{Prefix: prefix("10.1.0.65/26")})
	refused(t, err, topology.ErrInvalid, "10.1.0.64/26")

	// Half the network, in one piece of another length.
	r, err := reserve(topology.Subnet{Prefix: prefix("10.1.0.128/25"), Comment: "for the printers"})
	require.NoError(t, err)
	require.True(t, r.Reserved)
	again, err := reserve(topology.Subnet{Prefix: prefix("10.1.0.128/25"), Comment: "for the printers"})
	require.NoError(t, err)
	require.Equal(t, r, again, "nothing changed, nothing written")
	_, err = reserve(topology.Subnet{Prefix: prefix("10.1.0.192/26")})
	refused(t, err, topology.ErrConflict, "10.1.0.128/25", "reserved")

	a, err := s.LeaseSubnet(ctx, "blue", "a", topology.IPv4, false)
	require.NoError(t, err)
	require.Equal(t, prefix("10.1.0.64/26"), a.Prefix)
	_, err = s.LeaseSubnet(ctx, "blue", "b", topology.IPv4, false)
	refused(t, err, topology.ErrFull)
	_, err = reserve(topology.Subnet{Prefix: a.Prefix, Node: "b"})
	refused(t, err, topology.ErrConflict, "node a leases")

	// The node's own lease becomes its reservation, and outlives the node.
	mine, err := reserve(topology.Subnet{Prefix: a.Prefix, Node: "a"})
	require.NoError(t, err)
	require.Equal(t, a.CreateRevision, mine.CreateRevision)
	_, err = s.RegisterNode(ctx, node("a"))
	require.NoError(t, err)
	removed, err := s.RemoveNode(ctx, "a", false)
	require.NoError(t, err)
	require.Equal(t, []string{"nodes/a"}, removed)
	_, err = s.LeaseSubnet(ctx, "blue", "b", topology.IPv4, false)
	refused(t, err, topology.ErrFull)
	back, err := s.LeaseSubnet(ctx, "blue", "a", topology.IPv4, false)
	require.NoError(t, err)
	require.Equal(t, mine.Prefix, back.Prefix)
	require.True(t, back.Reserved)

	require.NoError(t, s.ReleaseSubnet(ctx, "blue", a.Prefix, false))
	refused(t, s.ReleaseSubnet(ctx, "blue", a.Prefix, false), topology.ErrNotFound, "10.1.0.64/26")
	snap, err := s.Snapshot(ctx)
	require.NoError(t, err)
	touched := snap.Networks["blue"]
	require.Equal(t, n.CreateRevision, touched.CreateRevision)
	touched.Meta = n.Meta
	require.Equal(t, n, touched, "the network was touched, not changed")
}

// Reservations of odd lengths and leases at the same moment never overlap.
func TestReserveAgainstLease(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s := openAt(t, ep)
	mustCreate(t, s, topology.Network{Name: "blue", IPv4: prefix("10.1.0.0/22"), SubnetLenIPv4: 28})
	var wg sync.WaitGroup
	for i := range 20 {
		other := openAt(t, ep)
		wg.Go(func() {
			_, err := other.LeaseSubnet(t.Context(), "blue", fmt.Sprintf("n%d", i), topology.IPv4, false)
			if !errors.Is(err, topology.ErrFull) {
				require.NoError(t, err)
			}
		})
		wg.Go(func() {
			_, err := other.ReserveSubnet(
				t.Context(),
				topology.Subnet{Network: "blue", Prefix: prefix(fmt.Sprintf("10.1.%d.%d/27", i/8, i%8*32))},
			)
			if !errors.Is(err, topology.ErrConflict) {
				require.NoError(t, err)
			}
		})
	}
	wg.Wait()
	snap, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	all := snap.SortedSubnets()
	for i := 1; i < len(all); i++ {
		require.False(t, all[i].Prefix.Overlaps(all[i-1].Prefix), "%s overlaps %s", all[i].Prefix, all[i-1].Prefix)
	}
}

// A subnet whose value cannot be read belongs to somebody all the same.
func TestLeaseAroundMalformed(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s, c := openAt(t, ep), raw(t, ep)
	ctx := t.Context()
	mustCreate(t, s, topology.Network{Name: "blue", IPv4: prefix("10.1.0.0/29"), SubnetLenIPv4: 30})
	putRaw(t, c, "subnets/blue/10.1.0.4-30", "{")
	_, err := s.LeaseSubnet(ctx, "blue", "a", topology.IPv4, false)
	require.ErrorIs(t, err, topology.ErrFull)
	refused(t, s.ReleaseSubnet(ctx, "blue", prefix("10.1.0.4/30"), false), topology.ErrInvalid, "subnets/blue/10.1.0.4-30")
	refused(t, s.DeleteNetwork(ctx, "blue"), topology.ErrInUse, "subnets/blue/10.1.0.4-30")
	require.NoError(t, s.ReleaseSubnet(ctx, "blue", prefix("10.1.0.4/30"), true))
	_, err = s.LeaseSubnet(ctx, "blue", "a", topology.IPv4, false)
	require.NoError(t, err)
}

func TestReleaseWhileAlive(t *testing.T) {
	t.Parallel()
	s := openAt(t, etcdtest.Start(t))
	ctx := t.Context()
	mustCreate(t, s, blue())
	stop, _ := alive(t, s, topology.Liveness{Node: "a", ID: "1", Hostname: "host-a"}, 5*time.Second)
	sub, err := s.LeaseSubnet(ctx, "blue", "a", topology.IPv4, false)
	require.NoError(t, err)
	refused(t, s.ReleaseSubnet(ctx, "blue", sub.Prefix, false), topology.ErrInUse, "node a", "--force")
	require.NoError(t, s.ReleaseSubnet(ctx, "blue", sub.Prefix, true))
	sub, err = s.LeaseSubnet(ctx, "blue", "a", topology.IPv4, false)
	require.NoError(t, err)
	stop()
	require.NoError(t, s.ReleaseSubnet(ctx, "blue", sub.Prefix, false))
}

func TestLeaseCancelled(t *testing.T) {
	t.Parallel()
	s := openAt(t, etcdtest.Start(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.LeaseSubnet(ctx, "blue", "a", topology.IPv4, false)
	require.ErrorIs(t, err, context.Canceled)
}

// What a node has for docker0 is told apart from what it has for endpoints.
func TestLeaseSegment(t *testing.T) {
	t.Parallel()
	s := openAt(t, etcdtest.Start(t))
	mustCreate(t, s, topology.Network{Name: "blue", IPv4: prefix("10.1.0.0/16")})
	plain, err := s.LeaseSubnet(t.Context(), "blue", "host1", topology.IPv4, false)
	require.NoError(t, err)
	docker, err := s.LeaseSegment(t.Context(), "blue", "host1", "docker0", topology.IPv4)
	require.NoError(t, err)
	require.NotEqual(t, plain.Prefix, docker.Prefix)
	require.Equal(t, "docker0", docker.Segment)

	again, err := s.LeaseSegment(t.Context(), "blue", "host1", "docker0", topology.IPv4)
	require.NoError(t, err)
	require.Equal(t, docker, again)
	again, err = s.LeaseSubnet(t.Context(), "blue", "host1", topology.IPv4, false)
	require.NoError(t, err)
	require.Equal(t, plain, again)

	// Lost, it is taken again as what it was.
	require.NoError(t, s.ReleaseSubnet(t.Context(), "blue", docker.Prefix, true))
	claimed, err := s.ClaimSubnet(
		t.Context(),
		topology.Subnet{Network: "blue", Prefix: docker.Prefix, Node: "host1", Segment: "docker0"},
	)
	require.NoError(t, err)
	require.Equal(t, "docker0", claimed.Segment)
	_, err = s.ClaimSubnet(t.Context(), topology.Subnet{Network: "blue", Prefix: docker.Prefix, Node: "host1"})
	refused(t, err, topology.ErrConflict)

	// A reservation does not turn it into one for endpoints.
	kept, err := s.ReserveSubnet(t.Context(), topology.Subnet{Network: "blue", Prefix: docker.Prefix, Node: "host1"})
	require.NoError(t, err)
	require.Equal(t, "docker0", kept.Segment)
	require.True(t, kept.Reserved)
}
