package etcdstore_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/fault"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A network that kernels would forward covers no node's underlay address: nobody would have
// a route in it.
func TestRoutedNetworkCoversNoNode(t *testing.T) {
	t.Parallel()
	s := openAt(t, etcdtest.Start(t))
	ctx := t.Context()
	_, err := s.RegisterNode(ctx, node("host1"))
	require.NoError(t, err)
	wide := topology.Network{Name: "wide", IPv4: prefix("192.0.0.0/16"), Transport: topology.Route}
	what := []string{"network wide", "192.0.2.1", "node host1"}
	_, err = s.CreateNetwork(ctx, wide)
	refused(t, err, topology.ErrConflict, what...)
	wide.Transport = topology.VXLAN
	mustCreate(t, s, wide)
	_, err = s.UpdateNetwork(ctx, "wide", func(n *topology.Network) error { n.Transport = topology.Auto; return nil })
	refused(t, err, topology.ErrConflict, what...)
	_, err = s.UpdateNetwork(ctx, "wide", func(n *topology.Network) error {
		n.Transport, n.IPv4 = topology.Auto, prefix("10.9.0.0/16")
		return nil
	})
	require.NoError(t, err)
	_, err = s.UpdateNetwork(ctx, "wide", func(n *topology.Network) error { n.IPv4 = wide.IPv4; return nil })
	refused(t, err, topology.ErrConflict, what...)

	// One that was there before the node can be changed otherwise.
	late := node("host2")
	late.VTEPs = []netip.Addr{netip.MustParseAddr("10.9.0.1")}
	_, err = s.RegisterNode(ctx, late)
	require.NoError(t, err)
	_, err = s.UpdateNetwork(ctx, "wide", func(n *topology.Network) error { n.MTU = 1400; return nil })
	require.NoError(t, err)
}

func TestNetworks(t *testing.T) {
	t.Parallel()
	s := openAt(t, etcdtest.Start(t))
	ctx := t.Context()
	n := mustCreate(t, s, blue())
	require.EqualValues(t, 100, n.VNI)
	require.Equal(t, topology.VXLAN, n.Transport)
	_, err := s.CreateNetwork(ctx, blue())
	refused(t, err, topology.ErrExists, "network blue")
	red := blue()
	red.Name, red.VNI = "red", 100
	_, err = s.CreateNetwork(ctx, red)
	refused(t, err, topology.ErrConflict, "VNI 100", "network blue")
	red.VNI = 102
	mustCreate(t, s, red)
	_, err = s.CreateNetwork(ctx, topology.Network{Name: "none"})
	refused(t, err, topology.ErrInvalid, "network none")
	green := blue()
	green.Name = "green"
	require.EqualValues(t, 101, mustCreate(t, s, green).VNI)
	green.Name = "pink"
	require.EqualValues(t, 103, mustCreate(t, s, green).VNI)

	up, err := s.UpdateNetwork(ctx, "blue", func(n *topology.Network) error { n.MTU = 1400; return nil })
	require.NoError(t, err)
	require.Equal(t, 1400, up.MTU)
	same, err := s.UpdateNetwork(ctx, "blue", func(*topology.Network) error { return nil })
	require.NoError(t, err)
	require.Equal(t, up, same, "nothing changed, nothing written")
	_, err = s.UpdateNetwork(ctx, "blue", func(n *topology.Network) error { n.VNI = 102; return nil })
	refused(t, err, topology.ErrConflict, "network red")
	_, err = s.UpdateNetwork(ctx, "blue", func(n *topology.Network) error { n.MTU = 1; return nil })
	refused(t, err, topology.ErrInvalid, "MTU 1")
	_, err = s.UpdateNetwork(ctx, "nope", func(*topology.Network) error { return nil })
	refused(t, err, topology.ErrNotFound, "network nope")

	// Leased: what leases are built on stays.
	sub, err := s.LeaseSubnet(ctx, "blue", "a", topology.IPv4, false)
	require.NoError(t, err)
	for what, change := range map[string]func(*topology.Network){
		"the prefix":        func(n *topology.Network) { n.IPv4 = prefix("10.0.0.0/8") },
		"the subnet length": func(n *topology.Network) { n.SubnetLenIPv4 = 26 },
		"the VNI":           func(n *topology.Network) { n.VNI = 500 },
	} {
		_, err = s.UpdateNetwork(ctx, "blue", func(n *topology.Network) error { change(n); return nil })
		refused(t, err, topology.ErrInUse, what, "leased by a")
	}
	_, err = s.UpdateNetwork(ctx, "blue", func(n *topology.Network) error { n.Transport = topology.GRE; return nil })
	require.NoError(t, err)
	refused(t, s.DeleteNetwork(ctx, "blue"), topology.ErrInUse, "network blue", "leased by a", "baize subnet release")
	require.NoError(t, s.ReleaseSubnet(ctx, "blue", sub.Prefix, false))

	pin := topology.Pin{Network: "blue", Addr: sub.Prefix.Addr(), Node: "b", MAC: "02:00:00:00:00:01"}
	_, err = s.PutPin(ctx, pin)
	require.NoError(t, err)
	refused(t, s.DeleteNetwork(ctx, "blue"), topology.ErrInUse, "pinned by b")
	require.NoError(t, s.DeletePin(ctx, pin))

	_, err = s.ReserveSubnet(ctx, topology.Subnet{Network: "blue", Prefix: prefix("10.1.9.0/24")})
	require.NoError(t, err)
	_, err = s.UpdateNetwork(ctx, "blue", func(n *topology.Network) error { n.IPv4 = prefix("10.9.0.0/16"); return nil })
	refused(t, err, topology.ErrInUse, "10.1.9.0/24")
	up, err = s.UpdateNetwork(ctx, "blue", func(n *topology.Network) error { n.VNI = 500; return nil })
	require.NoError(t, err)
	require.EqualValues(t, 500, up.VNI)
	require.NoError(t, s.DeleteNetwork(ctx, "blue"))
	refused(t, s.DeleteNetwork(ctx, "blue"), topology.ErrNotFound)
	snap, err := s.Snapshot(ctx)
	require.NoError(t, err)
	require.Empty(t, snap.Subnets, "the reservation went along")
	require.Len(t, snap.Networks, 3)
}

// A family can be added under leases; what leases are built on cannot change.
func TestFamilyIsAdded(t *testing.T) {
	t.Parallel()
	s := openAt(t, etcdtest.Start(t))
	ctx := t.Context()
	four := blue()
	four.IPv6 = netip.Prefix{}
	mustCreate(t, s, four)
	_, err := s.LeaseSubnet(ctx, "blue", "a", topology.IPv4, false)
	require.NoError(t, err)
	add := func(n *topology.Network) error {
		n.IPv6, n.SubnetLenIPv6 = prefix("fd00:1::/48"), 64
		return nil
	}
	_, err = s.UpdateNetwork(ctx, "blue", func(n *topology.Network) error { n.IPv4 = prefix("10.0.0.0/8"); return add(n) })
	refused(t, err, topology.ErrInUse, "the prefix", "leased by a", "create another network")
	_, err = s.UpdateNetwork(ctx, "blue", func(n *topology.Network) error { n.VNI = 7; return add(n) })
	refused(t, err, topology.ErrInUse, "leased by a")
	up, err := s.UpdateNetwork(ctx, "blue", add)
	require.NoError(t, err)
	require.Equal(t, prefix("fd00:1::/48"), up.IPv6)
	_, err = s.LeaseSubnet(ctx, "blue", "a", topology.IPv6, false)
	require.NoError(t, err)
	_, err = s.UpdateNetwork(ctx, "blue", func(n *topology.Network) error { n.IPv6 = netip.Prefix{}; return nil })
	refused(t, err, topology.ErrInUse, "leased by a")
}

func TestRenameNetwork(t *testing.T) {
	t.Parallel()
	s := openAt(t, etcdtest.Start(t))
	ctx := t.Context()
	was := mustCreate(t, s, blue())
	red := blue()
	red.Name = "red"
	mustCreate(t, s, red)
	_, err := s.ReserveSubnet(ctx, topology.Subnet{Network: "blue", Prefix: prefix("10.1.9.0/24"), Comment: "VMs"})
	require.NoError(t, err)
	sub, err := s.LeaseSubnet(ctx, "blue", "a", topology.IPv4, false)
	require.NoError(t, err)

	_, err = s.RenameNetwork(ctx, "blue", "red")
	refused(t, err, topology.ErrExists, "network red")
	_, err = s.RenameNetwork(ctx, "nope", "azure")
	refused(t, err, topology.ErrNotFound, "network nope")
	_, err = s.RenameNetwork(ctx, "blue", "a/b")
	refused(t, err, topology.ErrInvalid, "a/b")
	_, err = s.RenameNetwork(ctx, "blue", "azure")
	refused(t, err, topology.ErrInUse, "its name", "leased by a")
	require.NoError(t, s.ReleaseSubnet(ctx, "blue", sub.Prefix, false))

	now, err := s.RenameNetwork(ctx, "blue", "azure")
	require.NoError(t, err)
	require.Equal(t, was.VNI, now.VNI)
	snap, err := s.Snapshot(ctx)
	require.NoError(t, err)
	require.Len(t, snap.Networks, 2)
	require.Equal(t, now, snap.Networks["azure"])
	require.Len(t, snap.Subnets, 1)
	require.Equal(t, "azure", snap.SortedSubnets()[0].Network)
	require.Equal(t, "VMs", snap.SortedSubnets()[0].Comment)
}

// Created at once: no VNI twice; and of one name, exactly one.
func TestCreateNetworksAtOnce(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s := openAt(t, ep)
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for i := range 20 {
		other := openAt(t, ep)
		wg.Go(func() {
			n := blue()
			n.Name = fmt.Sprintf("n%d", i)
			_, err := other.CreateNetwork(t.Context(), n)
			require.NoError(t, err)
			n.Name = "one"
			_, errs[i] = other.CreateNetwork(t.Context(), n)
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		require.ErrorIs(t, err, topology.ErrExists)
	}
	require.Equal(t, 1, won)
	snap, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	require.Len(t, snap.Networks, 21)
	seen := map[uint32]string{}
	for _, n := range snap.Networks {
		require.Empty(t, seen[n.VNI])
		seen[n.VNI] = n.Name
		require.Less(t, n.VNI, uint32(121))
	}
}

func TestDeleteNetworkAgainstLeases(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s := openAt(t, ep)
	for range 10 {
		mustCreate(t, s, blue())
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() { _, _ = s.LeaseSubnet(t.Context(), "blue", fmt.Sprintf("n%d", i), topology.IPv4, false) })
		}
		var err error
		wg.Go(func() { err = s.DeleteNetwork(t.Context(), "blue") })
		wg.Wait()
		snap, serr := s.Snapshot(t.Context())
		require.NoError(t, serr)
		if err == nil {
			require.Empty(t, snap.Subnets, "a lease without a network")
			continue
		}
		require.ErrorIs(t, err, topology.ErrInUse)
		for id := range snap.Subnets {
			require.NoError(t, s.ReleaseSubnet(t.Context(), "blue", id.Prefix, false))
		}
		require.NoError(t, s.DeleteNetwork(t.Context(), "blue"))
	}
}

func TestUnknownFieldsSurvive(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s, c := openAt(t, ep), raw(t, ep)
	ctx := t.Context()
	keeps := func(rel string) {
		t.Helper()
		var m map[string]any
		require.NoError(t, json.Unmarshal([]byte(getRaw(t, c, rel)), &m))
		require.Equal(t, map[string]any{"x": []any{1.0, "y"}}, m["future"], rel)
	}
	const future = `"future":{"x":[1,"y"]}`
	putRaw(
		t,
		c,
		"networks/blue",
		`{"ipv4":"10.1.0.0/16","subnetLenIPv4":24,"vni":7,"transport":"vxlan","mtu":1450,`+future+`}`,
	)
	_, err := s.UpdateNetwork(ctx, "blue", func(n *topology.Network) error { n.MTU, n.Extra = 1400, nil; return nil })
	require.NoError(t, err)
	keeps("networks/blue")
	putRaw(t, c, "nodes/a", `{"id":"id-a",`+future+`}`)
	_, err = s.RegisterNode(ctx, node("a"))
	require.NoError(t, err)
	keeps("nodes/a")
	putRaw(t, c, "subnets/blue/10.1.1.0-24", `{"node":"a",`+future+`}`)
	_, err = s.ReserveSubnet(ctx, topology.Subnet{Network: "blue", Prefix: prefix("10.1.1.0/24"), Node: "a"})
	require.NoError(t, err)
	keeps("subnets/blue/10.1.1.0-24")
	keeps("networks/blue")
	putRaw(t, c, "pins/blue/10.1.2.3", `{"node":"a","mac":"02:00:00:00:00:01",`+future+`}`)
	_, err = s.PutPin(
		ctx,
		topology.Pin{Network: "blue", Addr: prefix("10.1.2.3/32").Addr(), Node: "a", MAC: "02:00:00:00:00:02"},
	)
	require.NoError(t, err)
	keeps("pins/blue/10.1.2.3")
}

func TestNodes(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s, c := openAt(t, ep), raw(t, ep)
	ctx := t.Context()
	a, err := s.RegisterNode(ctx, node("a"))
	require.NoError(t, err)
	again, err := s.RegisterNode(ctx, node("a"))
	require.NoError(t, err)
	require.Equal(t, a, again, "nothing changed, nothing written")
	stop, _ := alive(t, s, topology.Liveness{Node: "a", ID: a.ID, Hostname: "first.example"}, 5*time.Second)

	twin := node("a")
	twin.ID, twin.Hostname = "twin", "second.example"
	_, err = s.RegisterNode(ctx, twin)
	refused(t, err, topology.ErrConflict, "node a", "first.example", "second.example")
	err = s.KeepAlive(ctx, topology.Liveness{Node: "a", ID: "twin", Hostname: "second.example"}, 5*time.Second, nil)
	refused(t, err, topology.ErrConflict, "node a", "first.example", "second.example")
	moved := node("a")
	moved.Hostname = "renamed.example"
	_, err = s.RegisterNode(ctx, moved)
	require.NoError(t, err)
	_, err = s.RemoveNode(ctx, "a", false)
	refused(t, err, topology.ErrInUse, "first.example", "--force")

	refused(t, s.HandOverNode(ctx, "a", ""), topology.ErrInUse, "first.example")

	// A clean stop shows at once, and the name stays its installation's until it
	// is handed over.
	stop()
	require.Empty(t, getRaw(t, c, "alive/a"))
	_, err = s.RegisterNode(ctx, twin)
	refused(t, err, topology.ErrConflict, "renamed.example", "second.example", "baize node hand-over a")
	require.Equal(t, fault.NodeOwned, fault.Of(err).Code)
	err = s.KeepAlive(ctx, topology.Liveness{Node: "a", ID: "twin", Hostname: "second.example"}, 5*time.Second, nil)
	refused(t, err, topology.ErrConflict, "renamed.example", "second.example", "baize node hand-over a")
	require.NoError(t, s.HandOverNode(ctx, "a", twin.ID))
	_, err = s.RegisterNode(ctx, twin)
	refused(t, err, topology.ErrConflict, "renamed.example")
	require.NoError(t, s.HandOverNode(ctx, "a", a.ID))
	before := getRaw(t, c, "nodes/a")
	require.NoError(t, s.HandOverNode(ctx, "a", ""))
	require.Equal(t, before, getRaw(t, c, "nodes/a"), "done before: nothing is written")
	refused(t, s.HandOverNode(ctx, "nope", ""), topology.ErrNotFound, "node nope")
	_, err = s.RegisterNode(ctx, twin)
	require.NoError(t, err)
	_, err = s.RegisterNode(ctx, node("a"))
	refused(t, err, topology.ErrConflict, "second.example")

	// A malformed record is the node's own to replace.
	putRaw(t, c, "nodes/a", "{")
	_, err = s.RegisterNode(ctx, twin)
	require.NoError(t, err)
	_, err = s.RemoveNode(ctx, "nope", false)
	refused(t, err, topology.ErrNotFound, "node nope")
}

func TestRemoveNodeWithMuch(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s, c := openAt(t, ep), raw(t, ep)
	ctx := t.Context()
	mustCreate(t, s, blue())
	_, err := s.RegisterNode(ctx, node("a"))
	require.NoError(t, err)
	for i := range 200 {
		putRaw(t, c, fmt.Sprintf("subnets/blue/10.1.%d.0-24", i+1), `{"node":"a"}`)
		putRaw(t, c, fmt.Sprintf("pins/blue/10.1.250.%d", i+1), `{"node":"a","mac":"02:00:00:00:00:01"}`)
	}
	putRaw(t, c, "subnets/blue/10.1.201.0-24", `{"node":"b"}`)
	putRaw(t, c, "subnets/blue/10.1.202.0-24", `{"node":"a","reserved":true}`)
	removed, err := s.RemoveNode(ctx, "a", false)
	require.NoError(t, err)
	require.Len(t, removed, 401)
	require.Equal(t, "nodes/a", removed[0])
	snap, err := s.Snapshot(ctx)
	require.NoError(t, err)
	require.Len(t, snap.Subnets, 2)
	require.Empty(t, snap.Pins)
}

func TestKeepAliveReacquires(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	p := newProxy(t, ep)
	c := raw(t, ep)
	s := open(t, quick(p.endpoint))
	_, states := alive(t, s, topology.Liveness{Node: "a", ID: "1", Hostname: "h"}, 5*time.Second)
	key := topology.DefaultPrefix + "/alive/a"
	back := func() { // lost, then held
		t.Helper()
		require.Error(t, receive(t, states))
		require.NoError(t, receive(t, states))
		require.Contains(t, getRaw(t, c, "alive/a"), `"id":"1"`)
	}
	got, err := c.Get(t.Context(), key)
	require.NoError(t, err)
	_, err = c.Revoke(t.Context(), clientv3.LeaseID(got.Kvs[0].Lease))
	require.NoError(t, err)
	back()
	_, err = c.Delete(t.Context(), key)
	require.NoError(t, err)
	back()
	p.set(false, true)
	require.ErrorIs(t, receive(t, states), topology.ErrUnavailable)
	require.Eventually(t, func() bool { return getRaw(t, c, "alive/a") == "" }, patience, 50*time.Millisecond)
	p.set(false, false)
	require.NoError(t, receive(t, states))
	require.NotEmpty(t, getRaw(t, c, "alive/a"))
}

// What somebody writes by hand under the key is no agent's, and does not expire:
// it keeps no agent out, neither one that runs nor one that starts.
func TestKeepAliveReplacesWhatIsNoAgents(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s, c := open(t, quick(ep)), raw(t, ep)
	put := func(value string) {
		_, err := c.Put(t.Context(), topology.DefaultPrefix+"/alive/a", value)
		require.NoError(t, err)
	}
	put(`{}`)
	_, states := alive(t, s, topology.Liveness{Node: "a", ID: "1", Hostname: "h"}, 5*time.Second)
	require.Contains(t, getRaw(t, c, "alive/a"), `"id":"1"`)
	for _, value := range []string{`{"hostname":"h"}`, `nonsense`} {
		put(value)
		require.Error(t, receive(t, states))
		require.NoError(t, receive(t, states))
		require.Contains(t, getRaw(t, c, "alive/a"), `"id":"1"`)
	}
}

// The name was taken while this agent was cut off.
func TestKeepAliveTaken(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	p := newProxy(t, ep)
	s, other := open(t, quick(p.endpoint)), openAt(t, ep)
	states := make(chan error, 10)
	done := make(chan error, 1)
	go func() {
		done <- s.KeepAlive(t.Context(), topology.Liveness{Node: "a", ID: "1", Hostname: "first"}, time.Second, func(err error) { states <- err })
	}()
	require.NoError(t, receive(t, states))
	p.set(false, true)
	c := raw(t, ep)
	require.Eventually(t, func() bool { return getRaw(t, c, "alive/a") == "" }, patience, 50*time.Millisecond)
	alive(t, other, topology.Liveness{Node: "a", ID: "2", Hostname: "second"}, 5*time.Second)
	p.set(false, false)
	refused(t, receive(t, done), topology.ErrConflict, "first", "second")
}

// An agent that starts anew takes its own key over, whatever lease it is on.
func TestKeepAliveAfterKill(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s, c := openAt(t, ep), raw(t, ep)
	lease, err := c.Grant(t.Context(), 1)
	require.NoError(t, err)
	_, err = c.Put(
		t.Context(),
		topology.DefaultPrefix+"/alive/a",
		`{"id":"1","hostname":"h"}`,
		clientv3.WithLease(lease.ID),
	)
	require.NoError(t, err)
	alive(t, s, topology.Liveness{Node: "a", ID: "1", Hostname: "h"}, 5*time.Second)
	require.Eventually(t, func() bool {
		ttl, err := c.TimeToLive(t.Context(), lease.ID)
		return err == nil && ttl.TTL < 0
	}, patience, 50*time.Millisecond)
	require.NotEmpty(t, getRaw(t, c, "alive/a"))
}

func TestPins(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s := openAt(t, ep)
	ctx := t.Context()
	pin := topology.Pin{Network: "blue", Addr: prefix("10.1.2.3/32").Addr(), Node: "a", MAC: "02:00:00:00:00:01"}
	_, err := s.PutPin(ctx, pin)
	refused(t, err, topology.ErrNotFound, "network blue")
	mustCreate(t, s, blue())
	first, err := s.PutPin(ctx, pin)
	require.NoError(t, err)
	again, err := s.PutPin(ctx, pin)
	require.NoError(t, err)
	require.Equal(t, first, again, "nothing changed, nothing written")
	out := pin
	out.Addr = prefix("10.9.0.1/32").Addr()
	_, err = s.PutPin(ctx, out)
	refused(t, err, topology.ErrInvalid, "10.9.0.1", "10.1.0.0/16")
	out = pin
	out.MAC = "01:00:5e:00:00:01"
	_, err = s.PutPin(ctx, out)
	refused(t, err, topology.ErrInvalid, "multicast")

	a, err := s.RegisterNode(ctx, node("a"))
	require.NoError(t, err)
	stop, _ := alive(t, s, topology.Liveness{Node: "a", ID: a.ID}, 5*time.Second)
	taken := pin
	taken.Node, taken.MAC = "b", "02:00:00:00:00:02"
	_, err = s.PutPin(ctx, taken)
	refused(t, err, topology.ErrConflict, "10.1.2.3", "node a", "alive")
	stop()
	_, err = s.PutPin(ctx, taken)
	refused(t, err, topology.ErrConflict, "10.1.2.3", "node a", "agent does not run", "baize node remove a")
	// Once there is no such node, its address is free; so is one whose pin was left behind.
	removed, err := s.RemoveNode(ctx, "a", false)
	require.NoError(t, err)
	require.Contains(t, removed, pin.Key())
	putRaw(t, raw(t, ep), pin.Key(), `{"node":"a","mac":"02:00:00:00:00:01"}`)
	first, err = s.PutPin(ctx, pin)
	require.NoError(t, err)
	moved, err := s.PutPin(ctx, taken)
	require.NoError(t, err)
	require.Equal(t, first.CreateRevision, moved.CreateRevision)
	// The old owner comes late with its removal.
	require.NoError(t, s.DeletePin(ctx, pin))
	snap, err := s.Snapshot(ctx)
	require.NoError(t, err)
	require.Len(t, snap.Pins, 1)
	require.NoError(t, s.DeletePin(ctx, taken))
	require.NoError(t, s.DeletePin(ctx, taken))
}

func TestNames(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s := openAt(t, ep)
	ctx := t.Context()
	web := topology.Names{
		Network: "blue",
		Node:    "a",
		Names:   map[string][]netip.Addr{"web": {prefix("10.1.2.3/32").Addr()}},
	}
	refused(t, s.PutNames(ctx, web), topology.ErrNotFound, "network blue")
	foreign := web
	foreign.Layout = "other"
	refused(t, s.PutNames(ctx, foreign), topology.ErrNotFound, "node a")
	mustCreate(t, s, blue())
	refused(t, s.PutNames(ctx, web), topology.ErrNotFound, "node a")
	_, err := s.RegisterNode(ctx, node("a"))
	require.NoError(t, err)
	revision := func() int64 {
		snap, err := s.Snapshot(ctx)
		require.NoError(t, err)
		return snap.Names[topology.NamesID{Network: "blue", Node: "a"}].ModRevision
	}
	require.NoError(t, s.PutNames(ctx, web))
	first := revision()
	require.NotZero(t, first)
	require.NoError(t, s.PutNames(ctx, web))
	require.Equal(t, first, revision(), "nothing changed, nothing written")
	none := web
	none.Names = nil
	require.NoError(t, s.PutNames(ctx, none))
	require.NoError(t, s.PutNames(ctx, none))
	require.Zero(t, revision())

	require.NoError(t, s.PutNames(ctx, web))
	removed, err := s.RemoveNode(ctx, "a", false)
	require.NoError(t, err)
	require.Contains(t, removed, web.Key())
	_, err = s.RegisterNode(ctx, node("a"))
	require.NoError(t, err)
	require.NoError(t, s.PutNames(ctx, web))
	require.NoError(t, s.DeleteNetwork(ctx, "blue"))
	require.Zero(t, revision())
}
