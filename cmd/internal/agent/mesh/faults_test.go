package mesh

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

func badWay(v Verdict, node string, encap topology.Transport) Result {
	return Result{
		Key: Key{node, encap}, Local: netip.MustParseAddr("192.0.2.1"), Remote: netip.MustParseAddr("192.0.2.2"),
		Verdict: v, Since: time.Unix(0, 0), Needed: 1450, Network: "blue", Detail: "1350",
	}
}

func TestFaults(t *testing.T) {
	p := ports{topology.Geneve: 6082}
	for _, c := range []struct {
		verdict    Verdict
		encap      topology.Transport
		code       fault.Code
		what, find string
	}{
		{Silent, topology.VXLAN, fault.PeerSilent, "no frame arrives", "192.0.2.2 does not answer ping either"},
		{Deaf, topology.GRE, fault.PeerDeaf, "one direction only", "IP protocol 47 (GRE) from 192.0.2.1 to 192.0.2.2"},
		{Deaf, topology.Geneve, fault.PeerDeaf, "one direction only", "UDP port 6082"},
		{Lossy, topology.VXLAN, fault.PeerLossy, "frames are lost", "ip -s link"},
		{Narrow, topology.VXLAN, fault.PathMTU, "more than 1350 bytes do not arrive", "network update blue --mtu 1350"},
		{Slow, topology.Route, fault.PeerSlow, "fastest answers take", "ping 192.0.2.2"},
		{Misled, topology.VXLAN, fault.PeerMisled, "come out of its tunnel", "translate addresses"},
	} {
		got := faultsOf([]Result{badWay(c.verdict, "host2", c.encap)}, p)
		require.Len(t, got, 1)
		require.Equal(t, c.code, got[0].Code)
		require.Equal(t, "peer host2 over "+string(c.encap), got[0].Item)
		require.Contains(t, got[0].What, c.what)
		require.Contains(t, got[0].Remedy, c.find)
	}
	alive := badWay(Silent, "host2", topology.VXLAN)
	alive.HostAnswers = true
	got := faultsOf([]Result{alive}, p)
	require.Contains(t, got[0].What, "though its host answers ping")
	require.Contains(t, got[0].Remedy, "something drops UDP port 4789 from 192.0.2.2 to 192.0.2.1")
	for _, v := range []Verdict{Unknown, Good, Unasked, Down} {
		require.Empty(t, faultsOf([]Result{badWay(v, "host2", topology.VXLAN)}, p))
	}
}

// A thousand peers with one trouble are one fault.
func TestManyFaults(t *testing.T) {
	var list []Result
	for i := range 1000 {
		v := Good
		if i < 900 {
			v = Silent
		}
		list = append(list, badWay(v, fmt.Sprint("host", i+1), topology.VXLAN))
	}
	got := faultsOf(list, nil)
	require.Len(t, got, 1)
	require.Equal(t, "900 of 1000 peers, among them host1, host2, host3", got[0].Item)
	require.Equal(t, fault.PeerSilent, got[0].Code)
	require.Len(t, faultsOf(list[:mostFaults], nil), mostFaults)
}
