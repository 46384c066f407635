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
		way              Result
		code             fault.Code
		item, what, find string
	}{
		{badWay(Silent, "host2", topology.VXLAN), fault.PeerSilent, "peer host2 over vxlan", "no frame arrives", "UDP port 4789"},
		{badWay(Deaf, "host2", topology.GRE), fault.PeerDeaf, "peer host2 over gre", "one direction only", "IP protocol 47 (GRE) from 192.0.2.1 to 192.0.2.2"},
		{badWay(Deaf, "host2", topology.Geneve), fault.PeerDeaf, "peer host2 over geneve", "one direction only", "UDP port 6082"},
		{badWay(Lossy, "host2", topology.VXLAN), fault.PeerLossy, "peer host2 over vxlan", "frames are lost", "ip -s link"},
		{badWay(Narrow, "host2", topology.VXLAN), fault.PathMTU, "peer host2 over vxlan", "packets of more than 1350 bytes do not arrive", "baize network update blue --mtu 1350"},
		{badWay(Slow, "host2", topology.Route), fault.PeerSlow, "peer host2 over route", "fastest answers take", "ping 192.0.2.2"},
		{badWay(Misled, "host2", topology.VXLAN), fault.PeerMisled, "peer host2 over vxlan", "come out of its tunnel", "translate addresses"},
	} {
		got := faultsOf([]Result{c.way}, p)
		require.Len(t, got, 1)
		require.Equal(t, c.code, got[0].Code)
		require.Equal(t, c.item, got[0].Item)
		require.Contains(t, got[0].What, c.what)
		require.Contains(t, got[0].Remedy, c.find)
	}
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
