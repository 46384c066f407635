package trace_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// told is an explanation as text.
func told(e trace.Explanation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", e.Kind, e.Text)
	for _, d := range e.Details {
		fmt.Fprintf(&b, "%s: %s\n", d.Name, d.Value)
	}
	return b.String() + e.Remedy
}

// installed is the flow that a text is in.
func installed(t *testing.T, f *trace.Facts, text string) openflow.Installed {
	t.Helper()
	for _, x := range f.Observed.Flows {
		if strings.Contains(fmt.Sprintf("table=%d,%s,actions=%s", x.Table, x.Match, x.Actions), text) {
			return x
		}
	}
	require.Fail(t, "no flow has "+text)
	return openflow.Installed{}
}

func TestExplainFlow(t *testing.T) {
	w := newWorld(t, topology.VXLAN)
	f := w.facts["host1"]
	steer := installed(t, f, "table=20,metadata=0x64,arp,arp_tpa=10.1.2.0/24")
	number := f.Observed.Switch.Ports["vx-host2"].OFPort
	const meaning = "flow: to the node of a subnet\n" +
		"table: 20 steer: frames of local endpoints, to the node that owns the address: by ARP or ND target, " +
		"then by MAC range\nbecause of: subnets/blue/10.1.2.0-24 at revision 6\n"
	const match = "arp,metadata=0x64,arp_tpa=10.1.2.0/24"
	for name, line := range map[string]string{
		"dump-flows": fmt.Sprintf(" cookie=%#x, duration=7s, table=20, n_packets=3, n_bytes=9, "+
			"priority=190,%s actions=output:%d", steer.Cookie, match, number),
		"with names": fmt.Sprintf(`cookie=%#x, table=20, priority=190,%s actions=output:"vx-host2"`,
			steer.Cookie, match),
		"names, not quoted": "table=20, priority=190,arp,metadata=0x64,arp_tpa=10.1.2.0/24 actions=output:vx-host2",
		"without a cookie":  fmt.Sprintf("table=20, priority=190,%s actions=output:%d", match, number),
		"cookie":            fmt.Sprintf("%#x", steer.Cookie),
		"cookie=":           fmt.Sprintf("cookie=%#x", steer.Cookie),
	} {
		got, ok := f.Flow(line)
		require.True(t, ok, name)
		require.Len(t, got, 1, name)
		require.Equal(t, meaning+"packets: 0\n", told(got[0]), name)
		require.Equal(
			t,
			`table=20 priority=190,metadata=0x64,arp,arp_tpa=10.1.2.0/24 actions=output:"vx-host2"`,
			got[0].Subject,
		)
	}
	got, _ := f.Flow(
		fmt.Sprintf("cookie=%#x, table=20, priority=190,arp,metadata=0x64,arp_tpa=10.1.2.0/24 actions=drop", steer.Cookie),
	)
	require.Contains(t, told(got[0]), "changed: by hand")
	got, _ = f.Flow(fmt.Sprintf("%#x", installed(t, f, "table=10,in_port").Cookie))
	require.NotEmpty(t, got)

	spoofed := pipelineFlow(t, f, pipeline.DropAddress)
	got, _ = f.Flow(fmt.Sprintf("%#x", spoofed.Cookie))
	require.Contains(t, told(got[0]), "drops, and counts: spoofed address\n")
	require.Contains(
		t,
		told(got[0]),
		"meaning: A packet, or an ARP message, has a sender that its endpoint was not given.",
	)

	// Not ours, and what does not see a packet because of it.
	got, _ = f.Flow("cookie=0x77, table=20, priority=195,arp,arp_tpa=10.1.2.7 actions=drop")
	require.Equal(t, "flow: not a flow of Baize's: it is left alone, and shown by 'baize status'\n"+
		"table: 20 steer: frames of local endpoints, to the node that owns the address: "+
		"by ARP or ND target, then by MAC range\n"+
		"shadows: ARP or ND for an address nobody leases (1 flows, in whole or in part)\n"+
		"shadows: broadcast, multicast and unknown unicast (1 flows, in whole or in part)\n"+
		"shadows: to be looked up one by one (1 flows, in whole or in part)\n"+
		"shadows: to the node of a subnet (4 flows, in whole or in part)\n"+
		"'ovs-ofctl -O OpenFlow14 del-flows br-baize cookie=0x77/-1,table=20', if nobody needs it", told(got[0]))
	got, _ = f.Flow("cookie=0x77, table=99, ct_state=+trk actions=learn(table=1)")
	require.Contains(t, told(got[0]), "table: 99, which Baize does not use")
	require.Contains(t, told(got[0]), "not understood: ct_state=+trk, learn(table=1)")
	require.Contains(t, told(got[0]), "shadows: nothing")
	got, _ = f.Flow("cookie=0xba12000000000001, table=20, priority=1 actions=drop")
	require.Contains(t, told(got[0]), "should not have now")
	got, _ = f.Flow("0xba12000000000001")
	require.Contains(t, told(got[0]), "no flow that this node has, or should have, has this cookie; it has Baize's mark")
	got, _ = f.Flow("0x12345678")
	require.Contains(t, told(got[0]), "it is not Baize's")
	foreign(f, 20, "ip", "drop")
	f.Observed.Flows[len(f.Observed.Flows)-1].Cookie = 0x12345678
	got, _ = f.Flow("0x12345678")
	require.Contains(t, told(got[0]), "not a flow of Baize's")

	drop(f, "arp_tpa=10.1.2.0/24")
	got, _ = f.Flow(fmt.Sprintf("%#x", steer.Cookie))
	require.Contains(t, told(got[0]), "missing: the switch does not have it")
	_, ok := f.Flow("nonsense")
	require.False(t, ok)
}

func pipelineFlow(t *testing.T, f *trace.Facts, class string) ovs.BoundFlow {
	t.Helper()
	bound, _ := f.Wanted.Bind(f.Observed.Switch.OFPorts())
	for _, b := range bound {
		if b.Class == class {
			return b
		}
	}
	require.Fail(t, "no flow of class "+class)
	return ovs.BoundFlow{}
}

func TestExplainPort(t *testing.T) {
	w := newWorld(t, topology.Auto)
	f := w.facts["host1"]
	o := f.Observed.Switch
	for name, want := range map[string]string{
		"vx-host2": "port: the vxlan tunnel to node host2\n" +
			"ends: 192.0.2.1 → 192.0.2.2\nbecause of: nodes/host2 at revision 5\n" +
			"networks: blue (VNI 100, 10.1.2.0/24 fd00:10:1:2::/64)\n",
		"bzc1": "port: endpoint c1 in network blue\n" +
			"addresses: 10.1.1.2,fd00:10:1:1::2\nMAC: 02:42:0a:01:01:02\n",
		fmt.Sprint(o.Ports["bzc1"].OFPort): "port: endpoint c1 in network blue\n",
		"bn-blue":                          "port: this host's own port in network blue: what its kernel routes",
	} {
		e, ok := f.Port(name)
		require.True(t, ok, name)
		require.Contains(t, told(e), want)
		require.Contains(t, told(e), "link: up")
		require.Regexp(t, `flows: [1-9]\d* name it`, told(e))
	}
	o.Ports["eth9"] = ovs.ObservedPort{Port: ovs.Port{Name: "eth9"}, OFPort: 99}
	e, ok := f.Port("eth9")
	require.True(t, ok)
	require.Contains(
		t,
		told(e),
		`not a port of Baize's: frames from it are dropped, and counted as "from a port that is not Baize's"`,
	)
	dead := o.Ports["vx-host3"]
	dead.Error = "File exists"
	o.Ports["vx-host3"] = dead
	e, _ = f.Port("vx-host3")
	require.Contains(t, told(e), "error: File exists")
	delete(o.Ports, "bzc1")
	e, _ = f.Port("bzc1")
	require.Contains(t, told(e), "missing: the bridge does not have it")
	old := o.Ports["vx-host2"]
	old.Name = "vx-old"
	o.Ports["vx-old"] = old
	e, _ = f.Port("vx-old")
	require.Contains(t, told(e), "superfluous")
	_, ok = f.Port("nothing")
	require.False(t, ok)
}

func TestExplainDrop(t *testing.T) {
	w := newWorld(t, topology.VXLAN)
	f := w.facts["host1"]
	for _, class := range pipeline.DropClasses() {
		for _, as := range []string{class, "dropped " + class + ":"} {
			e, ok := f.Drop(as)
			require.True(t, ok, as)
			require.Equal(t, class, e.Subject)
			require.Contains(t, told(e), "flow: ")
		}
	}
	e, ok := f.Drop("tunnel to host2 is down")
	require.True(t, ok)
	require.Contains(t, told(e), "tunnel to host2")
	_, ok = f.Drop("nothing of the kind")
	require.False(t, ok)
}
