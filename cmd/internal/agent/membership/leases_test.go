package membership

import (
	"context"
	"io"
	"net/netip"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/topology"
)

// stage is a store and a closer that write down what they are asked for. What the store
// does, the hub shows.
type stage struct {
	Store
	Closer
	hub    *hub.Hub
	failed error // of GiveBack
	calls  []string
}

var leased = topology.Subnet{Network: "blue", Prefix: netip.MustParsePrefix("10.1.5.0/24"), Node: "host1"}

func (x *stage) show(subnets ...topology.Subnet) {
	s := topology.NewSnapshot(1, nil)
	s.Nodes = map[string]topology.Node{
		"host1": {Name: "host1", ID: "id", VTEPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
	}
	s.Networks = map[string]topology.Network{"blue": {
		Name: "blue", IPv4: netip.MustParsePrefix("10.1.0.0/16"), SubnetLenIPv4: 24, VNI: 100, Transport: topology.VXLAN,
	}}
	s.Subnets = map[topology.SubnetID]topology.Subnet{}
	for _, sub := range subnets {
		s.Subnets[topology.SubnetID{Network: sub.Network, Prefix: sub.Prefix}] = sub
	}
	x.hub.SetOwn(s, false)
}

func (x *stage) GiveBack(context.Context, string, string) error {
	x.calls = append(x.calls, "give back")
	if x.failed == nil {
		x.show()
	}
	return x.failed
}

func (x *stage) LeaseSubnet(
	context.Context, string, string, topology.Family, bool,
) (topology.Subnet, error) {
	x.calls = append(x.calls, "lease")
	x.show(leased)
	return leased, nil
}

func (x *stage) CloseIdle(string) bool { x.calls = append(x.calls, "close"); return true }
func (x *stage) Reopen(string)         { x.calls = append(x.calls, "open") }

// Where etcd did not answer whether a network was given back, it stays closed: a request
// finds it out before it leases anew.
func TestGivingBackIsFinished(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	x := &stage{hub: hub.New(hub.Identity{Node: "host1", ID: "id"}), failed: topology.ErrUnavailable}
	x.hub.SetInUse(map[string]bool{})
	x.hub.Hold()
	x.show(leased)
	p := New(Config{}, x.hub, x, nil, logrus.NewEntry(log))
	known := part.NewCell[attach.Known](nil)
	known.Set(attach.Known{Complete: true})
	p.Follow(known, nil, nil)
	p.FollowUse(x)
	p.alive = true

	ctx := t.Context()
	require.ErrorIs(t, p.release(ctx, []string{"blue"}), topology.ErrUnavailable)
	require.NoError(t, p.followDeletions(ctx, x.hub.Topology().Get().Stored))
	require.Equal(t, []string{"close", "give back"}, x.calls)
	require.ErrorIs(t, p.Lease(ctx, "blue"), topology.ErrUnavailable)
	x.failed, x.calls = nil, nil
	require.NoError(t, p.Lease(ctx, "blue"))
	require.Equal(t, []string{"give back", "open", "lease"}, x.calls)
	x.calls = nil
	require.NoError(t, p.followDeletions(ctx, x.hub.Topology().Get().Stored))
	require.NoError(t, p.release(ctx, nil))
	require.Equal(t, []string{"open"}, x.calls)
}
