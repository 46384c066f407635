package standalone_test

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/standalone"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

// follow returns the snapshots that a store delivers, the last one at a time.
func follow(t *testing.T, s *standalone.Store) func() *topology.Snapshot {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var last *topology.Snapshot
	done := make(chan error, 1)
	go func() {
		done <- s.Watch(ctx, func(u etcdstore.Update) {
			assert.NoError(t, u.Err)
			last = u.Snapshot
		})
	}()
	t.Cleanup(func() { cancel(); assert.NoError(t, <-done) })
	return func() *topology.Snapshot { synctest.Wait(); return last }
}

// The node, its liveness and its names are told on, as etcd would.
func TestRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := standalone.New("n1", "id1", nil)
		now := follow(t, s)
		assert.Empty(t, now().Nodes)
		ctx, cancel := context.WithCancel(t.Context())
		var states []error
		held := make(chan error, 1)
		go func() {
			held <- s.KeepAlive(ctx, topology.Liveness{Node: "n1", ID: "id1"}, time.Second, func(err error) {
				states = append(states, err)
			})
		}()
		_, err := s.RegisterNode(ctx, topology.Node{Name: "n1", ID: "id1", UnderlayMTU: 1400})
		require.NoError(t, err)
		assert.Equal(t, 1400, now().Nodes["n1"].UnderlayMTU)
		assert.Equal(t, "id1", now().Alive["n1"].ID)
		names := topology.Names{
			Network: "pods", Node: "n1", Names: map[string][]netip.Addr{"web": {netip.MustParseAddr("10.244.1.5")}},
		}
		require.NoError(t, s.PutNames(ctx, names))
		assert.Len(t, now().Names, 1)
		names.Names = nil
		require.NoError(t, s.PutNames(ctx, names))
		assert.Empty(t, now().Names)
		cancel()
		require.NoError(t, <-held)
		assert.Equal(t, []error{nil}, states)
	})
}

// A node that is started again is known at once, if it is the same installation.
func TestLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := topology.Node{Name: "n1", ID: "id1", VTEPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
		last := topology.NewSnapshot(7, []topology.KV{{Key: n.Key(), Value: topology.Encode(n)}})
		assert.Equal(t, n.VTEPs, follow(t, standalone.New("n1", "id1", last))().Nodes["n1"].VTEPs)
		assert.Empty(t, follow(t, standalone.New("n1", "id2", last))().Nodes)
		assert.Empty(t, follow(t, standalone.New("n2", "id1", last))().Nodes)
	})
}

// What nodes would have to agree on is refused, and it is said why.
func TestRefused(t *testing.T) {
	s, ctx := standalone.New("n1", "id1", nil), t.Context()
	_, network := s.CreateNetwork(ctx, topology.Network{Name: "blue"})
	_, lease := s.LeaseSubnet(ctx, "blue", "n1", topology.IPv4, false)
	_, pin := s.PutPin(ctx, topology.Pin{Network: "blue"})
	_, claim := s.ClaimAddress(ctx, topology.Claim{Network: "blue"})
	for _, err := range []error{network, lease, pin, claim} {
		require.ErrorIs(t, err, topology.ErrUnavailable)
		assert.Contains(t, err.Error(), "--kube-subnet-mgr")
	}
	require.ErrorIs(t, s.HandOverNode(ctx, "n1", "id1"), topology.ErrNotFound, "a cleanup has nothing to leave")
}
