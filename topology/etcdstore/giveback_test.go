package etcdstore_test

import (
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
)

// A node gives back what it has, and nothing else; the network of an operator stays.
func TestGiveBack(t *testing.T) {
	t.Parallel()
	s := openAt(t, etcdtest.Start(t))
	ctx := t.Context()
	mustCreate(t, s, blue())
	member(t, s, "a")
	member(t, s, "b")
	pin := topology.Pin{Network: "blue", Addr: prefix("10.1.0.9/32").Addr(), Node: "a", MAC: "02:00:00:00:00:01"}
	_, err := s.PutPin(ctx, pin)
	require.NoError(t, err)
	require.NoError(t, s.PutNames(ctx, topology.Names{
		Network: "blue", Node: "a", Names: map[string][]netip.Addr{"web": {pin.Addr}},
	}))
	reserved, err := s.ReserveSubnet(ctx, topology.Subnet{Network: "blue", Prefix: prefix("10.1.7.0/24"), Node: "a"})
	require.NoError(t, err)

	require.NoError(t, s.GiveBack(ctx, "blue", "a"))
	after := snapshot(t, s)
	require.Equal(t, []topology.Subnet{reserved}, after.NodeSubnets("blue", "a"), "what a person reserved stays")
	require.Len(t, after.NodeSubnets("blue", "b"), 2)
	require.Empty(t, after.Pins)
	require.Empty(t, after.Names)
	require.NoError(t, s.GiveBack(ctx, "blue", "b"))
	require.Contains(t, snapshot(t, s).Networks, "blue")
	revision := snapshot(t, s).Revision
	require.NoError(t, s.GiveBack(ctx, "blue", "b"), "nothing is left")
	require.NoError(t, s.GiveBack(ctx, "none", "b"))
	require.Equal(t, revision, snapshot(t, s).Revision)
}

// U3: a network that was created for Docker goes with its last part, whoever gives that
// back, also when several do it at once.
func TestGiveBackOfDockersNetwork(t *testing.T) {
	t.Parallel()
	s := openAt(t, etcdtest.Start(t))
	ctx := t.Context()
	docker := blue()
	docker.CreatedBy = topology.CreatedByDocker
	for range 10 {
		mustCreate(t, s, docker)
		names := []string{"a", "b", "c"}
		for _, name := range names {
			member(t, s, name)
		}
		require.NoError(t, s.GiveBack(ctx, "blue", "c"))
		require.Contains(t, snapshot(t, s).Networks, "blue")
		var both sync.WaitGroup
		errs := make([]error, 2)
		for i := range errs {
			both.Go(func() { errs[i] = s.GiveBack(ctx, "blue", names[i]) })
		}
		both.Wait()
		require.Equal(t, []error{nil, nil}, errs)
		after := snapshot(t, s)
		require.Empty(t, after.Networks)
		require.Empty(t, after.Subnets)
	}

	mustCreate(t, s, docker)
	member(t, s, "a")
	_, err := s.ReserveSubnet(ctx, topology.Subnet{Network: "blue", Prefix: prefix("10.1.7.0/24"), Comment: "printers"})
	require.NoError(t, err)
	require.NoError(t, s.GiveBack(ctx, "blue", "a"))
	require.Contains(t, snapshot(t, s).Networks, "blue", "somebody reserved a part of it")
}
