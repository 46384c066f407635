package labkit

import (
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// stormRate is what the network allows during a storm, in frames a second.
const stormRate = 200

// Storm has host1/c1 flood the network as fast as it can, and requires that others lose
// nothing of their pings, each from one endpoint to another, and that no more arrives on
// the wire of host2 than the network allows. A quiet endpoint, host1/quiet, is made first.
func (l *Lab) Storm(network string, pings ...[2]string) {
	from := l.Endpoint("host1/c1")
	src, own := testkit.MAC(l.T, from.MAC), from.IPs[0]
	a, wire := l.Inside(from), l.Wire("host2")
	// What the flooder itself loses, whose own queue it fills, is its own affair.
	l.Must("host1", "ip", "netns", "add", "quiet")
	l.Must("host1", "baize", "endpoint", "add", "quiet", "--network", network, "--netns", "quiet")
	l.T.Cleanup(func() { _, _ = l.Run("host1", "baize", "endpoint", "remove", "quiet") })
	l.Must("host1", "baize", "network", "update", network, "--bum", fmt.Sprint(stormRate))
	l.Await("the meter has the network's rate", func() (bool, string) {
		out := l.Must("host1", "ovs-ofctl", "-O", "OpenFlow14", "dump-meters", "br-baize")
		return strings.Contains(out, fmt.Sprintf("rate=%d ", stormRate)), out
	})
	flooded := func(to net.HardwareAddr, mark string) []byte {
		return testkit.Frame(to, src, testkit.OtherExperimental, []byte(mark))
	}
	storms := []struct {
		kind, mark string
		frame      []byte
	}{
		{"broadcast", "storm 1.", flooded(testkit.Broadcast, "storm 1.")},
		{"multicast", "storm 2.", flooded(net.HardwareAddr{1, 0, 0x5e, 1, 2, 3}, "storm 2.")},
		{"unknown unicast", "storm 3.", flooded(net.HardwareAddr{2, 0, 0, 9, 9, 9}, "storm 3.")},
		{"gratuitous ARP", "storm 4.", append(testkit.ARPRequest(src, src, own, own), "storm 4."...)},
	}
	for _, x := range storms {
		storm := func() { l.flood(a, x.kind, x.frame, []byte(x.mark), wire) }
		var lost []string
		for _, p := range pings {
			inner := storm
			storm = func() {
				if n := l.Lost(p[0], p[1], inner); n > 0 {
					lost = append(lost, fmt.Sprintf("%s to %s: %d", p[0], p[1], n))
				}
			}
		}
		storm()
		require.Empty(l.T, lost, "packets lost to a storm of %s", x.kind)
	}
	l.Must("host1", "baize", "network", "update", network, "--bum", fmt.Sprint(topology.DefaultBUM))
}

// flood sends a frame for two seconds, and looks at what of it is on the wire and is counted.
func (l *Lab) flood(from *testkit.Socket, kind string, frame, mark []byte, wire *testkit.Socket) {
	l.T.Helper()
	before := l.AgentStatus("host1").Drops[pipeline.DropFlood]
	begin, sent := time.Now(), 0
	for ; time.Since(begin) < 2*time.Second; sent++ {
		from.Send(l.T, frame)
	}
	l.Await("what is beyond the limit is counted", func() (bool, string) {
		n := l.AgentStatus("host1").Drops[pipeline.DropFlood] - before
		return n > 0, fmt.Sprint(n)
	})
	took, n := time.Since(begin), wire.Count(mark)
	l.T.Logf("%s: %d sent, %d on the wire in %v", kind, sent, n, took.Round(time.Millisecond))
	require.Positive(l.T, n, kind)
	// A second's worth at once, and the rate.
	require.LessOrEqual(l.T, float64(n), stormRate*(2+1.2*took.Seconds()), kind)
	require.Less(l.T, n, sent, kind)
}
