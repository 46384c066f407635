package command

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
)

func TestExplain(t *testing.T) {
	traceCluster(t)
	for name, line := range map[string]string{
		"explain-port": "explain vx-host2 --node host1",
		"explain-flow": "explain --node host1 " +
			"table=20, priority=190,arp,metadata=0x64,arp_tpa=10.1.65.0/24 actions=output:vx-host3",
		"explain-code":   "explain bz0304",
		"explain-reason": "explain unknown tunnel key --node host1",
		"explain-json":   "explain vx-host2 --node host1 -o json",
	} {
		t.Run(name, func(t *testing.T) {
			res := baize(t, strings.Fields(line)...)
			require.Equal(t, 0, res.code, "%s%s", res.err, res.out)
			golden(t, name, res.out)
			if strings.HasSuffix(name, "json") {
				conforms(t, "explanation", res.out)
			}
		})
	}
	// A default flow is on every node, under a cookie that everybody can compute.
	f := ovs.Flow{Table: pipeline.TableTunnel, Match: "", Actions: "drop"}
	res := baize(t, "explain", fmt.Sprintf("%#x", ovs.CookieOf(f)), "--node", "host2")
	require.Equal(t, 0, res.code, res.err)
	assert.Contains(t, res.out, "drops, and counts: unknown tunnel key")
	assert.Contains(t, res.out, "nothing: every node has it")
	for line, want := range map[string]struct {
		code int
		says string
	}{
		"explain":                             {cli.ExitUsage, "needs FLOW|PORT|CODE|REASON"},
		"explain BZ9999":                      {cli.ExitNotFound, "fault BZ9999"},
		"explain vx-host7 --node host1":       {cli.ExitNotFound, "did you mean vx-host"},
		"explain spoofed addres --node host1": {cli.ExitNotFound, "did you mean spoofed address?"},
		"explain vx-host2 --node host7":       {cli.ExitNotFound, "node host7"},
		"explain vx-host2":                    {cli.ExitNotFound, "node host9"},
	} {
		res := baize(t, strings.Fields(line)...)
		assert.Equal(t, want.code, res.code, "%s: %s%s", line, res.err, res.out)
		assert.Contains(t, res.err, want.says, line)
	}
	assert.Contains(t, complete(t, "explain", "BZ03"), "BZ0304")
}
