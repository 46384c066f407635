//go:build system

package domaintest

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// varying is what another lab has otherwise: revisions, names of ports.
var varying = regexp.MustCompile(`revision \d+|bz[0-9a-f]{8,}`)

// sameWords are lines without what varies, and without their alignment.
func sameWords(text string) string {
	var out []string
	for line := range strings.Lines(varying.ReplaceAllString(text, "…")) {
		out = append(out, strings.Join(strings.Fields(line), " "))
	}
	return strings.TrimSpace(strings.Join(out, "\n"))
}

// docs/trace.md is true: its commands show what it says, in a lab like that of
// 'make lab'.
func TestTraceDocs(t *testing.T) {
	t.Parallel()
	const page = "../../../docs/trace.md"
	d := up(t, topology.VXLAN, lab.Config{NoProof: true, Networks: []lab.NetworkSpec{{
		Name: "blue", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:10:1::/48")},
	}}})
	try := testkit.Marked(t, page)
	shown := 0
	for _, b := range testkit.Blocks(t, page) {
		command, ok := strings.CutPrefix(b.Lines[0], "$ ")
		if !ok {
			continue
		}
		if shown == 1 {
			d.Must("host1", "sh", "-c", try["harm"])
		}
		out, err := d.Run("host1", "sh", "-c", command)
		assert.Equal(t, shown == 1, err != nil, "the exit code is not 0 where the packet is dropped: %s", command)
		assert.Equal(t, sameWords(strings.Join(b.Lines[1:], "\n")), sameWords(out), command)
		shown++
	}
	require.Equal(t, 4, shown)
	d.Must("host1", "sh", "-c", try["repair"])
	// An address that is not the endpoint's own, and that the kernel sends from.
	d.Must("host1/c1", "ip", "address", "add", "10.1.7.7/32", "dev", "eth0")
	_, err := d.Run("host1/c1", "ping", "-c", "2", "-i", "0.2", "-W", "1", "-I", "10.1.7.7", "10.1.65.2")
	require.Error(t, err)
	d.Must("host1/c1", "ip", "address", "del", "10.1.7.7/32", "dev", "eth0")
	out := d.Must("host1", "sh", "-c", try["drops"])
	require.Regexp(
		t,
		`(?m)^spoofed address, in guard\n  \S+ ago  \d packets? from endpoint c1: \S+(nw_src=10\.1\.|arp_spa=10\.1\.7\.7)`,
		out,
	)

	ping := d.PingEndpoint("host1/c1", "host3/c1", 50*time.Millisecond)
	out = d.Must("host1", "sh", "-c", try["live"])
	ping.Ends()
	require.Regexp(t, `steer +to the node of a subnet \(\+[1-9]\d*\)`, out)
	require.Contains(t, out, "packets have come as far as the hosts that were asked can see: to deliver on host3")
}
