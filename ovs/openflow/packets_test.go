package openflow_test

import (
	"context"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/topology"
)

// Frames go out of a port as they are, and those that a flow sends to the ID come
// in whole, with their port and tunnel key. Those of other IDs do not.
func TestPackets(t *testing.T) {
	o, c := start(t)
	flows := []ovs.BoundFlow{
		flow(0, 100, "in_port=1,dl_type=0x88b5", "set_field:7->tun_id,controller(max_len=65535,id=4711)"),
		flow(0, 100, "in_port=2,tun_id=0x0,dl_type=0x88b5", "controller(max_len=65535,id=4712)"),
		flow(0, 0, "", "drop"),
	}
	require.NoError(t, c.Apply(t.Context(), flows, nil))
	require.Empty(t, audit(t, c, flows).Lines, "the switch says them as they were said")
	p := c.Packets(openflow.PacketsConfig{ID: 4711, Rate: 1000, Burst: 1000})
	require.ErrorIs(t, p.Send(1, 0, nil), openflow.ErrDisconnected)
	in, ready, ended := make(chan openflow.Packet, 100), make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- p.Run(ctx, func() { close(ready) }, func(x openflow.Packet) { in <- x }) }()
	<-ready

	frame := make([]byte, 1464)
	copy(frame, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5})
	frame[1463] = 0xaa
	// The dummy datapath's devices give a frame to the bridge as if it had come in.
	o.Appctl("netdev-dummy/receive", "p2", hex.EncodeToString(frame))
	o.Appctl("netdev-dummy/receive", "p1", hex.EncodeToString(frame))
	select {
	case x := <-in:
		require.Equal(t, openflow.Packet{Port: 1, Key: 7, Frame: frame, Whole: 1464}, x)
	case <-time.After(wait):
		require.Fail(t, "nothing came in")
	}

	require.NoError(t, p.Send(3, 99, frame))
	require.Eventually(t, func() bool {
		return strings.Contains(o.Ofctl("dump-ports", "br-t", "3"), "tx pkts=1,")
	}, wait, tick)
	require.Empty(t, in, "nothing but the one")
	cancel()
	require.NoError(t, <-ended)
}

// The bridge has a meter on what goes to controllers.
func TestPacketsAreMetered(t *testing.T) {
	o, c := start(t)
	require.NoError(t, c.Apply(t.Context(), []ovs.BoundFlow{
		flow(0, 100, "in_port=1,dl_type=0x88b5", "controller(max_len=65535,id=4711)"),
	}, nil))
	p := c.Packets(openflow.PacketsConfig{ID: 4711, Rate: 1, Burst: 2})
	got, ready := make(chan openflow.Packet, 1000), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx, func() { close(ready) }, func(x openflow.Packet) { got <- x }) }()
	<-ready
	frame := hex.EncodeToString(append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5}, make([]byte, 50)...))
	const many = 200
	for range many {
		o.Appctl("netdev-dummy/receive", "p1", frame)
	}
	cancel()
	require.NoError(t, <-ended)
	require.Contains(t, o.Ofctl("dump-meters", "br-t"), "meter=controller pktps burst")
	require.NotEmpty(t, got)
	require.Less(t, len(got), many/2)
}

// The end of ovs-vswitchd is noticed, and its absence has a name.
func TestPacketsConnectionLost(t *testing.T) {
	o, c := start(t)
	p := c.Packets(openflow.PacketsConfig{ID: 1, Rate: 1000, Burst: 1000})
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- p.Run(t.Context(), func() { close(ready) }, func(openflow.Packet) {}) }()
	<-ready
	o.KillVswitchd()
	require.ErrorIs(t, <-ended, topology.ErrUnavailable)
	require.ErrorIs(t, p.Run(t.Context(), func() {}, nil), topology.ErrNotFound)
}
