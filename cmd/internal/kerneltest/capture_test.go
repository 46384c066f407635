//go:build kernel

package kerneltest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

// captures are of packets that the kernel's datapath forwards: at an endpoint, and where
// the underlay has them, at both ends.
func captures(t *testing.T, l *labkit.Lab, tr topology.Transport) {
	endpoint := func(host string) lab.EndpointStatus {
		for _, e := range l.Endpoints(string(tr)) {
			if e.Node == host {
				return e
			}
		}
		require.Fail(t, "no endpoint of "+host)
		return lab.EndpointStatus{}
	}
	from, to := endpoint("host1"), endpoint("host2")
	pings := l.Ping(l.Netns(from.String()), to.IPs[0], 100*time.Millisecond)
	request := fmt.Sprintf("%s > %s ICMP EchoRequest", from.IPs[0], to.IPs[0])
	inside := fmt.Sprintf(" (%s, %s)\n", tr, tr)
	if tr == topology.Route {
		inside = " (no tunnel)\n"
	}
	out := l.Must("host1", "baize", "capture", "host2", "--both-ends", "--host", to.IPs[0].String(), "--count", "12")
	assert.Contains(t, out, "host1/host2  out  "+request)
	assert.Contains(t, out, "host2/host1  in   "+request)
	assert.Contains(t, out, inside)
	out = l.Must("host1", "baize", "capture", from.Name, to.String(), "--proto", "icmp", "--count", "12")
	assert.Regexp(t, from.String()+" +out  "+request, out)
	assert.Regexp(t, to.String()+" +in   "+request, out)
	require.Empty(t, pings.Ends().Missing, "a capture costs no packet")
}
