package etcdstore_test

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// member registers a node and leases it a subnet of each family of blue.
func member(t testing.TB, s *etcdstore.Store, name string) {
	t.Helper()
	_, err := s.RegisterNode(t.Context(), node(name))
	require.NoError(t, err)
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		_, err = s.LeaseSubnet(t.Context(), "blue", name, f, false)
		require.NoError(t, err)
	}
}

func snapshot(t testing.TB, s *etcdstore.Store) *topology.Snapshot {
	t.Helper()
	snap, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	return snap
}

// A network that is marked takes nothing new, and goes with its last holder.
func TestDeletion(t *testing.T) {
	t.Parallel()
	s := openAt(t, etcdtest.Start(t))
	ctx := t.Context()
	mustCreate(t, s, blue())
	member(t, s, "a")
	member(t, s, "b")
	before := snapshot(t, s)
	pin := topology.Pin{Network: "blue", Addr: prefix("10.1.0.9/32").Addr(), Node: "b", MAC: "02:00:00:00:00:01"}
	_, err := s.PutPin(ctx, pin)
	require.NoError(t, err)
	require.NoError(t, s.PutNames(ctx, topology.Names{
		Network: "blue", Node: "b", Names: map[string][]netip.Addr{"web": {pin.Addr}},
	}))

	require.ErrorIs(t, s.FinishDeletion(ctx, "blue"), topology.ErrConflict, "it is not marked")
	require.NoError(t, s.LetGo(ctx, "blue", "a"), "nor does a node let go")
	require.Len(t, snapshot(t, s).NodeSubnets("blue", "a"), 2)

	n, err := s.MarkNetwork(ctx, "blue", topology.DeleteUnused)
	require.NoError(t, err)
	require.Equal(t, topology.DeleteUnused, n.Deleting)
	closed := func(err error) {
		t.Helper()
		refused(t, err, topology.ErrConflict, "network blue", "being deleted", "--cancel")
		require.Equal(t, fault.NetworkDeleting, fault.Of(err).Code)
	}
	_, err = s.LeaseSubnet(ctx, "blue", "c", topology.IPv4, false)
	closed(err)
	_, err = s.LeaseSubnet(ctx, "blue", "a", topology.IPv4, true)
	closed(err)
	_, err = s.LeaseSegment(ctx, "blue", "a", "docker0", topology.IPv4)
	closed(err)
	_, err = s.ClaimSubnet(ctx, topology.Subnet{Network: "blue", Prefix: prefix("10.1.77.0/24"), Node: "c"})
	closed(err)
	_, err = s.ReserveSubnet(ctx, topology.Subnet{Network: "blue", Prefix: prefix("10.1.77.0/24")})
	closed(err)
	have, err := s.LeaseSubnet(ctx, "blue", "a", topology.IPv4, false)
	require.NoError(t, err, "what a node has it keeps")
	require.Contains(t, before.Subnets, topology.SubnetID{Network: "blue", Prefix: have.Prefix})
	_, err = s.CreateNetwork(ctx, blue())
	refused(t, err, topology.ErrExists, "being deleted")

	refused(t, s.FinishDeletion(ctx, "blue"), topology.ErrInUse, "a, b")
	require.NoError(t, s.LetGo(ctx, "blue", "a"))
	require.Empty(t, snapshot(t, s).NodeSubnets("blue", "a"))
	require.Len(t, snapshot(t, s).NodeSubnets("blue", "b"), 2)
	require.NoError(t, s.LetGo(ctx, "blue", "b"), "the last one")
	after := snapshot(t, s)
	require.Empty(t, after.Networks)
	require.Empty(t, after.Subnets)
	require.Empty(t, after.Pins)
	require.Empty(t, after.Names)
	require.NoError(t, s.FinishDeletion(ctx, "blue"), "gone is gone")
	require.NoError(t, s.LetGo(ctx, "blue", "b"))
	_, err = s.MarkNetwork(ctx, "blue", topology.DeleteUnused)
	refused(t, err, topology.ErrNotFound, "network blue")
}

// What a node answers is in one of its records, and goes with the mark.
func TestDeletionAnsweredAndCancelled(t *testing.T) {
	t.Parallel()
	s := openAt(t, etcdtest.Start(t))
	ctx := t.Context()
	mustCreate(t, s, blue())
	member(t, s, "a")
	require.NoError(t, s.AnswerDeletion(ctx, "blue", "a", []string{"endpoint web"}))
	require.Empty(t, snapshot(t, s).NodeSubnets("blue", "a")[0].UsedBy, "nobody asked")

	_, err := s.MarkNetwork(ctx, "blue", topology.DeleteNow)
	require.NoError(t, err)
	n, err := s.MarkNetwork(ctx, "blue", topology.DeleteUnused)
	require.NoError(t, err)
	require.Equal(t, topology.DeleteNow, n.Deleting, "the stronger mark stays")
	var many []string
	for i := range topology.MaxUsedBy + 3 {
		many = append(many, fmt.Sprintf("endpoint c%d", i))
	}
	require.NoError(t, s.AnswerDeletion(ctx, "blue", "a", many))
	snap := snapshot(t, s)
	holders := snap.Holders("blue")
	require.Len(t, holders, 1)
	require.Equal(t, many[:topology.MaxUsedBy], holders[0].UsedBy)
	require.Equal(t, 3, holders[0].More)
	require.Contains(t, holders[0].Why(), "endpoint c0, endpoint c1")
	require.Contains(t, holders[0].Why(), "and 3 more")
	revision := snap.Revision
	require.NoError(t, s.AnswerDeletion(ctx, "blue", "a", many))
	require.Equal(t, revision, snapshot(t, s).Revision, "the same answer is not written again")

	n, err = s.CancelDeletion(ctx, "blue")
	require.NoError(t, err)
	require.Empty(t, n.Deleting)
	require.NoError(t, s.AnswerDeletion(ctx, "blue", "a", nil))
	for _, sub := range snapshot(t, s).NodeSubnets("blue", "a") {
		require.Empty(t, sub.UsedBy)
	}
	_, err = s.LeaseSubnet(ctx, "blue", "b", topology.IPv4, false)
	require.NoError(t, err)
}

// Reservations go with the network. One for a node waits until the node has let
// go, and is still there where the deletion is cancelled.
func TestDeletionOfReservations(t *testing.T) {
	t.Parallel()
	s := openAt(t, etcdtest.Start(t))
	ctx := t.Context()
	mustCreate(t, s, blue())
	_, err := s.RegisterNode(ctx, node("a"))
	require.NoError(t, err)
	reserve := func(p, owner string) {
		t.Helper()
		_, err := s.ReserveSubnet(ctx, topology.Subnet{Network: "blue", Prefix: prefix(p), Node: owner, Comment: "kept"})
		require.NoError(t, err)
	}
	reserve("10.1.7.0/24", "a")
	reserve("10.1.8.0/24", "never-came")
	reserve("10.1.240.0/20", "")
	for i := range 100 {
		reserve(fmt.Sprintf("10.1.%d.0/24", 100+i), fmt.Sprintf("planned-%d", i))
	}
	_, err = s.MarkNetwork(ctx, "blue", topology.DeleteUnused)
	require.NoError(t, err)
	refused(t, s.FinishDeletion(ctx, "blue"), topology.ErrInUse, "leased by a (")
	require.Len(t, snapshot(t, s).Subnets, 103, "what is refused changes nothing")
	require.Len(t, snapshot(t, s).Holders("blue"), 1)

	// The node has let go, somebody else has not.
	pin := topology.Pin{Network: "blue", Addr: prefix("10.1.0.9/32").Addr(), Node: "b", MAC: "02:00:00:00:00:01"}
	_, err = s.RegisterNode(ctx, node("b"))
	require.NoError(t, err)
	_, err = s.PutPin(ctx, pin)
	require.NoError(t, err)
	carries := func() bool { _, ok := snapshot(t, s).View("a").Find("blue"); return ok }
	require.True(t, carries())
	require.NoError(t, s.LetGo(ctx, "blue", "a"))
	require.False(t, carries())
	require.Len(t, snapshot(t, s).Subnets, 103)
	_, err = s.CancelDeletion(ctx, "blue")
	require.NoError(t, err)
	require.NoError(t, s.AnswerDeletion(ctx, "blue", "a", nil))
	require.True(t, carries())
	own := snapshot(t, s).NodeSubnets("blue", "a")
	require.Len(t, own, 1)
	require.Equal(t, "kept", own[0].Comment)
	require.False(t, own[0].LetGo)

	_, err = s.MarkNetwork(ctx, "blue", topology.DeleteUnused)
	require.NoError(t, err)
	require.NoError(t, s.LetGo(ctx, "blue", "a"))
	require.NoError(t, s.LetGo(ctx, "blue", "b"))
	require.Empty(t, snapshot(t, s).Networks)
	require.Empty(t, snapshot(t, s).Subnets)
}

// Nodes lease while others let go, and the deletion is cancelled and begun again:
// no lease is ever without its network.
func TestDeletionAgainstLeases(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s := openAt(t, ep)
	for range 10 {
		mustCreate(t, s, blue())
		var wg sync.WaitGroup
		for i := range 4 {
			other, name := openAt(t, ep), fmt.Sprintf("n%d", i)
			wg.Go(func() {
				for {
					_, err := other.LeaseSubnet(t.Context(), "blue", name, topology.IPv4, false)
					if errors.Is(err, topology.ErrNotFound) {
						return
					}
					_ = other.LetGo(t.Context(), "blue", name)
				}
			})
		}
		_, _ = s.MarkNetwork(t.Context(), "blue", topology.DeleteUnused)
		_, _ = s.CancelDeletion(t.Context(), "blue")
		_, _ = s.MarkNetwork(t.Context(), "blue", topology.DeleteUnused)
		wg.Wait()
		require.Empty(t, snapshot(t, s).Subnets, "a lease without a network")
	}
}
