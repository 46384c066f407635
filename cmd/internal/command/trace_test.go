package command

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
)

// traceCluster has names of containers on two nodes, and an agent of host9, which
// is no node: nothing is read of this machine.
func traceCluster(t *testing.T) {
	t.Helper()
	s := cluster(t)
	// Agents that started a moment ago are behind the nodes that are alive.
	asked := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		asked <- s.Questions(ctx, func(q topology.Question) {
			for _, n := range q.Nodes {
				a := topology.NodeAnswer{Node: n, Error: "the agent does not know the topology yet"}
				if err := s.PutAnswer(ctx, q, a); ctx.Err() == nil { // else the test is over, and nobody waits for it
					assert.NoError(t, err)
				}
			}
		})
	}()
	t.Cleanup(func() {
		stop()
		assert.NoError(t, <-asked)
	})
	a := netip.MustParseAddr
	for _, n := range []topology.Names{
		{Network: "blue", Node: "host1", Names: map[string][]netip.Addr{"web": {a("10.1.153.2"), a("fd00:10:1:99::2")}}},
		{Network: "blue", Node: "host3", Names: map[string][]netip.Addr{"db": {a("10.1.65.2"), a("fd00:10:1:41::2")}}},
		{Network: "red", Node: "host2", Names: map[string][]netip.Addr{"mail": {a("10.2.139.2")}}},
	} {
		require.NoError(t, s.PutNames(t.Context(), n))
	}
	t.Setenv("BAIZE_NODE", "host9")
	(&fakeAgent{endpoints: []api.Endpoint{
		{Name: "c1", Network: "blue", IPs: []netip.Addr{a("10.1.99.2")}, MAC: "02:42:0a:01:63:02", Container: "shop"},
	}}).serve(t)
}

// What etcd alone knows, as it is told.
func TestTraceComputed(t *testing.T) {
	traceCluster(t)
	for name, line := range map[string]string{
		"trace":           "trace web db",
		"trace-verbose":   "trace web 10.1.65.2 --proto tcp --port 443 --verbose",
		"trace-pin":       "trace 10.1.65.2 10.1.0.99 --arp",
		"trace-nd":        "trace host1/web host3/db --nd",
		"trace-broadcast": "trace web --broadcast",
		"trace-json":      "trace web db -o json",
	} {
		t.Run(name, func(t *testing.T) {
			res := baize(t, strings.Fields(line)...)
			require.Equal(t, 0, res.code, "%s%s", res.err, res.out)
			golden(t, name, res.out)
			if strings.HasSuffix(name, "json") {
				conforms(t, "trace", res.out)
			}
		})
	}
	res := baize(t, "trace", "web", "10.1.200.1")
	assert.Equal(t, exitProblems, res.code)
	assert.Contains(t, res.out, "dropped on host1, in steer: ARP or ND for an address nobody leases")
	assert.Contains(t, res.out, "→ 'baize subnet list --network blue'")
}

func TestTraceArguments(t *testing.T) {
	traceCluster(t)
	for line, want := range map[string]struct {
		code int
		says string
	}{
		"trace":                                 {cli.ExitUsage, "needs SOURCE and DESTINATION"},
		"trace --drops web":                     {cli.ExitUsage, "--drops is of the whole host"},
		"trace web db --live --for 1ms":         {cli.ExitUsage, "for"},
		"trace web":                             {cli.ExitUsage, "needs SOURCE and DESTINATION"},
		"trace web db extra":                    {cli.ExitUsage, "it takes only [SOURCE] [DESTINATION]"},
		"trace web db --arp --nd":               {cli.ExitUsage, "only one of"},
		"trace web db --arp --port 80":          {cli.ExitUsage, "only one of"},
		"trace web db --port 80":                {cli.ExitUsage, "--port needs --proto tcp or udp"},
		"trace web db --proto sctp":             {cli.ExitUsage, "sctp"},
		"trace web db --ttl 0":                  {cli.ExitUsage, "ttl"},
		"trace wbe db":                          {cli.ExitNotFound, "did you mean web?"},
		"trace web bd":                          {cli.ExitNotFound, "did you mean db?"},
		"trace host7/web db":                    {cli.ExitNotFound, "node host7"},
		"trace host3/web db":                    {cli.ExitNotFound, "endpoint host3/web"},
		"trace web 192.0.2.1":                   {cli.ExitNotFound, "no network has it"},
		"trace web mail":                        {cli.ExitConflict, "different networks (blue, red), which never see each o"},
		"trace 10.1.65.2 fd00:10:1:99::2":       {cli.ExitConflict, "no addresses of the same family"},
		"trace 10.1.200.1 web":                  {cli.ExitNotFound, "no node leases this address in network blue"},
		"trace web db --network green":          {cli.ExitNotFound, "network green"},
		"trace mail db --network red":           {cli.ExitNotFound, "endpoint db"},
		"trace c1 db":                           {exitProblems, ""},
		"trace shop db":                         {exitProblems, ""},
		"trace 10.2.139.2 10.2.125.2 -o nothin": {cli.ExitUsage, "output"},
	} {
		res := baize(t, strings.Fields(line)...)
		assert.Equal(t, want.code, res.code, "%s: %s%s", line, res.err, res.out)
		assert.Contains(t, res.err, want.says, line)
	}
}

func TestTraceCompletion(t *testing.T) {
	traceCluster(t)
	for line, want := range map[string][]string{
		"trace ":                     {"c1", "db", "web", "mail"},
		"trace c1 ":                  {"c1", "db", "web", "mail"},
		"trace c1 d":                 {"db"},
		"trace --arp c1 w":           {"web"},
		"trace c1 web ":              nil,
		"trace c1 web --proto ":      {"icmp", "tcp", "udp"},
		"trace c1 web --network b":   {"blue"},
		"trace c1 web --output ":     {"text", "json", "yaml", "jsonpath="},
		"trace c1 web --node host1":  {"host1"},
		"schema tr":                  {"trace"},
		"trace c1 web --broadcast d": nil,
	} {
		assert.Equal(t, want, complete(t, strings.Split(line, " ")...), line)
	}
}
