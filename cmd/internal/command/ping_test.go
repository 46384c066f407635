package command

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
)

func percent(n int) *int { return &n }

// threeNodes is what three nodes tell of each other: one cannot send to another, whose
// row is not there.
func threeNodes() []api.Way {
	way := func(from, to, state string, out, in int, rtt time.Duration) api.Way {
		return api.Way{From: from, To: to, Encap: topology.VXLAN, Probed: api.Probed{
			State: state, LossOut: percent(out), LossIn: percent(in), RTT: api.Duration(rtt), Passes: 1450, Needed: 1450,
		}}
	}
	narrow := way("host10", "host2", api.StateNarrow, 0, 0, 430*time.Microsecond)
	narrow.Passes = 1350
	return []api.Way{
		way("host1", "host2", api.StateDeaf, 100, 0, 0), way("host1", "host10", api.StateOK, 0, 0, 420*time.Microsecond),
		way("host10", "host1", api.StateLossy, 20, 3, 12*time.Millisecond), narrow,
	}
}

func TestPingMesh(t *testing.T) {
	f := &fakeAgent{ways: threeNodes()}
	f.serve(t)
	res := baize(t, "ping", "--mesh")
	assert.Equal(t, exitProblems, res.code)
	assert.Equal(t, `vxlan   host1    host2  host10
host1       ·  one-way  0.42ms
host2       ?        ·       ?
host10   -20%   ≤1350B       ·

1 of 4 ways ok
  host1 → host2 over vxlan: one way only, 100% lost there
  host10 → host1 over vxlan: lossy, 20% lost there, 3% lost on the way back
  host10 → host2 over vxlan: small frames only, packets up to 1350 bytes pass
`, res.out)

	res = baize(t, "ping", "--mesh", "--color", "always")
	assert.Contains(t, res.out, "\x1b[32m0.42ms\x1b[0m")
	assert.Contains(t, res.out, "\x1b[31mone-way\x1b[0m")
	assert.Contains(t, res.out, "\x1b[33m≤1350B\x1b[0m")
	res = baize(t, "ping", "--mesh", "-o", "json")
	assert.Equal(t, exitProblems, res.code)
	conforms(t, "way", res.out)
	res = baize(t, "ping", "--mesh", "-o", "wide", "--filter", "state=lossy")
	assert.Equal(t, "FROM     TO      ENCAP   STATE   LOSS   LOSS BACK   RTT      PASSES\n"+
		"host10   host1   vxlan   lossy   20%    3%          12.0ms   1450\n", res.out)

	f.ways = f.ways[1:2]
	res = baize(t, "ping", "--mesh")
	assert.Equal(t, cli.ExitOK, res.code)
	assert.Contains(t, res.out, "1 of 1 way ok\n")
}

// A matrix of very many nodes would help nobody: what is wrong is said.
func TestMatrixOfMany(t *testing.T) {
	var list []api.Way
	for i := range 100 {
		for j := range 100 {
			if i != j {
				w := api.Way{From: fmt.Sprint("h", i), To: fmt.Sprint("h", j), Encap: topology.GRE}
				w.State = api.StateOK
				if i == 3 && j == 7 {
					w.State = api.StateSilent
				}
				list = append(list, w)
			}
		}
	}
	var out bytes.Buffer
	drawMatrix(&out, list, false)
	require.Equal(t, "gre: 100 nodes, too many for a matrix\n\n"+
		"9899 of 9900 ways ok\n  h3 → h7 over gre: no answer\n", out.String())
}

func TestPing(t *testing.T) {
	var asked []api.PingRequest
	f := &fakeAgent{ping: func(req api.PingRequest) (api.Pong, error) {
		asked = append(asked, req)
		p := api.Pong{Node: req.Node, Encap: topology.VXLAN, Size: max(req.Size, 80), RTT: api.Duration(len(asked)) * 1e6}
		switch len(asked) {
		case 2:
			p.RTT, p.There = 0, "yes"
		case 3:
			p.RTT, p.There = 0, "no"
		}
		return p, nil
	}}
	f.serve(t)
	res := baize(t, "ping", "host2", "--interval", "20ms", "--size", "1450", "--encap", "vxlan")
	assert.Equal(t, exitProblems, res.code)
	assert.Equal(t, `host2 over vxlan, 1450 bytes: 1.00ms
host2 over vxlan, 1450 bytes: no answer; the probe arrived, so what is lost is the way back
host2 over vxlan, 1450 bytes: no answer; the probe did not arrive
host2 over vxlan, 1450 bytes: 4.00ms
4 probes, 2 answered; least 1.00ms, median 4.00ms, most 4.00ms
`, res.out)
	require.Len(t, asked, 4)
	want := api.PingRequest{Node: "host2", Encap: topology.VXLAN, Size: 1450, Timeout: api.Duration(pingTimeout)}
	assert.Equal(t, want, asked[0])

	res = baize(t, "ping", "host2", "--count", "1", "-o", "json")
	assert.Equal(t, cli.ExitOK, res.code, res.err)
	conforms(t, "pong", res.out)

	for _, args := range [][]string{{"ping"}, {"ping", "host2", "--mesh"}, {"ping", "host2", "--interval", "1ms"}} {
		res = baize(t, args...)
		assert.Equal(t, cli.ExitUsage, res.code, "%v", args)
	}
}

// A name and an address are those of the node that has them.
func TestNodeOf(t *testing.T) {
	kv := func(key, value string) topology.KV { return topology.KV{Key: key, Value: []byte(value)} }
	s := topology.NewSnapshot(1, []topology.KV{
		kv("networks/blue", `{"vni":100,"ipv4":"10.1.0.0/16","subnetLenIPv4":24,"transport":"vxlan","mtu":1450}`),
		kv("nodes/host2", `{"id":"x","vteps":["192.0.2.2"],"encapsulations":["vxlan"]}`),
		kv("subnets/blue/10.1.7.0-24", `{"node":"host2"}`),
		kv("names/blue/host2", `{"names":{"web":["10.1.7.9"]}}`),
		kv("subnets/blue/10.1.9.0-24", `{"reserved":true}`),
		kv("networks/red", `{"vni":200,"ipv4":"10.1.0.0/16","subnetLenIPv4":24,"transport":"vxlan","mtu":1450}`),
		kv("nodes/host3", `{"id":"y","vteps":["192.0.2.3"],"encapsulations":["vxlan"]}`),
		kv("subnets/red/10.1.7.0-24", `{"node":"host3"}`),
		kv("subnets/red/10.1.9.0-24", `{"node":"host3"}`),
		kv("pins/red/10.1.8.8", `{"node":"host3","mac":"02:42:0a:01:08:08"}`),
	})
	require.Empty(t, s.Malformed)
	for name, want := range map[string]string{
		"web": "host2", "web.blue": "host2", "10.1.7.77": "host2", "10.1.8.1": "", "nobody": "",
		"10.1.9.1": "host3", "10.1.8.8": "host3",
	} {
		for range 20 { // of two networks with an address the first counts, always
			assert.Equal(t, want, nodeOf(s, name), name)
		}
	}
}
