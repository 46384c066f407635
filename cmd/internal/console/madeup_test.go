package console

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// madeUp are the records of a cluster of n hosts in segments of 40, of which all carry
// blue, every second green, and every tenth lab.
func madeUp(n int) []topology.Record {
	network := func(name string, vni uint32, t topology.Transport, v4, v6 string) topology.Network {
		out := topology.Network{Name: name, VNI: vni, Transport: t, IPv4: netip.MustParsePrefix(v4)}
		if v6 != "" {
			out.IPv6 = netip.MustParsePrefix(v6)
		}
		return out.Defaults()
	}
	nets := []topology.Network{
		network("blue", 100, topology.VXLAN, "10.1.0.0/16", "fd00:10:1::/48"),
		network("green", 200, topology.Geneve, "10.2.0.0/16", ""),
		network("lab", 300, topology.VXLAN, "10.3.0.0/20", ""),
	}
	var out []topology.Record
	for _, net := range nets {
		out = append(out, net)
	}
	for i := range n {
		name := fmt.Sprintf("host%d", i+1)
		out = append(out, topology.Node{
			Name: name, ID: name, Hostname: name + ".example.net", Version: "v0.2.0", Datapath: "system", UnderlayMTU: 1500,
			VTEPs:          []netip.Addr{netip.AddrFrom4([4]byte{192, 168, byte(77 + i/40), byte(11 + i%40)})},
			Encapsulations: []topology.Transport{topology.VXLAN, topology.GRE, topology.Geneve},
		}, topology.Liveness{Node: name, ID: name})
		for k, net := range nets {
			if i%[]int{1, 2, 10}[k] != 0 || (k == 2 && i > 150) {
				continue
			}
			for _, f := range net.Families() {
				at := uint64(i + 1)
				if k == 2 {
					at = uint64(i/10 + 1)
				}
				out = append(out, topology.Subnet{Network: net.Name, Node: name, Prefix: topology.SubnetAt(net, f, at)})
			}
		}
	}
	return out
}

func keyOf(r topology.Record) string { return topology.DefaultPrefix + "/" + r.Key() }

func put(t testing.TB, etcd string, records ...topology.Record) {
	t.Helper()
	kvs := map[string]string{}
	for _, r := range records {
		kvs[keyOf(r)] = string(topology.Encode(r))
	}
	etcdtest.Put(t, etcd, kvs)
}

// snapshotOf has records as etcd would, the earlier ones the older.
func snapshotOf(records ...topology.Record) *topology.Snapshot {
	var kvs []topology.KV
	for i, r := range records {
		kvs = append(kvs, topology.KV{
			Key: r.Key(), Value: topology.Encode(r), Meta: topology.Meta{CreateRevision: int64(i + 1), ModRevision: int64(i + 1)},
		})
	}
	return topology.NewSnapshot(int64(len(records)), kvs)
}

// follow is what 'baize console' does with etcd.
func follow(t testing.TB, etcd string) *part.Cell[Topology] {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := etcdstore.Open(ctx, etcdstore.Config{Endpoints: []string{etcd}})
	require.NoError(t, err)
	cell, ended := part.NewCell[Topology](nil), make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Watch(ctx, func(u etcdstore.Update) { cell.Set(Topology{Snapshot: u.Snapshot, Err: u.Err}) })
	}()
	t.Cleanup(func() { cancel(); <-ended; _ = s.Close() })
	return cell
}

func cell[T any](v T) *part.Cell[T] {
	out := part.NewCell[T](nil)
	out.Set(v)
	return out
}

// agentOf is what the agent of a host says.
func agentOf(host string) Agent {
	return Agent{Status: &api.Status{
		Node: host, Version: "v0.2.0", Bridge: "br-baize", Datapath: "system", OVSVersion: "3.1.0", Ready: true, Flows: 64,
		Ports: 5, Networks: []api.Network{}, Drops: map[string]uint64{"spoofed": 3},
		Peers: []api.Peer{{Node: "host2", Encap: topology.VXLAN, Port: "vx-host2", OFPort: 3, Alive: true}},
		Endpoints: []api.Endpoint{
			{Name: "web", Node: host, Network: "blue", IPs: []netip.Addr{netip.MustParseAddr("10.1.1.2")},
				MAC: "02:42:0a:01:01:02", Container: "shop-web-1", Image: "nginx"},
			{Name: "db", Node: host, Network: "green", IPs: []netip.Addr{netip.MustParseAddr("10.2.1.2")},
				MAC: "02:42:0a:02:01:02", Container: "shop-db-1", Image: "postgres"},
		},
	}}
}

// matrixOf is a made-up matrix of n hosts: those of one segment are near each other,
// host7 is far from all, and host3 loses packets on the way to host5.
func matrixOf(n int) Latency {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // made up, and the same each time
	out := Latency{At: time.Date(2026, 11, 29, 14, 2, 0, 0, time.UTC)}
	for i := range n {
		out.Hosts = append(out.Hosts, fmt.Sprintf("host%d", i+1))
		rtt, loss := make([]float64, n), make([]float64, n)
		for j := range n {
			rtt[j] = 0.2 + 0.1*r.Float64()
			if i/40 != j/40 {
				rtt[j] += 0.5
			}
			if i == 6 || j == 6 {
				rtt[j] += 2.2
			}
			if i == 2 && j == 4 {
				loss[j] = 0.12
			}
		}
		rtt[i], loss[i] = -1, -1
		out.RTT, out.Loss = append(out.RTT, rtt), append(out.Loss, loss)
	}
	return out
}

// ratesOf are those of host1's tunnels.
func ratesOf() Rates {
	return Rates{At: time.Date(2026, 11, 29, 14, 2, 0, 0, time.UTC), Links: []LinkRate{
		{A: "host1", B: "host2", Encap: topology.VXLAN, AB: 940e6, BA: 12.5e6},
		{A: "host1", B: "host3", Encap: topology.VXLAN, AB: 8_200, BA: -1},
	}}
}

func findingsOf() []Finding {
	return []Finding{
		{Outcome: Passed, Check: "node", Item: "host1", Node: "host1", What: "ready, etcd 3 of 3, 2 ms"},
		{Outcome: Passed, Check: "switch", Item: "br-baize", Node: "host1", What: "64 flows as wanted, none foreign"},
		{Outcome: Failed, Code: fault.UnderlayMTU, Check: "path MTU", Item: "host1 → host3", Node: "host1",
			What:   "64 bytes pass, 1450 do not (largest: 1380)",
			Remedy: "lower the network's MTU: 'baize network update blue --mtu 1380'"},
		{Outcome: Warned, Code: fault.ReversePathStrict, Check: "kernel", Item: "rp_filter", Node: "host2",
			What: "strict on eth0", Evidence: "net.ipv4.conf.eth0.rp_filter = 1", Remedy: "set it to 2"},
		{Outcome: NotSeen, Check: "path MTU", Item: "host1 → host2", Node: "host1", What: "its agent does not answer since 14:02"},
	}
}

func eventsOf() []Event {
	at := time.Date(2026, 11, 29, 13, 20, 0, 0, time.UTC)
	return []Event{
		{At: at, What: "joined", Item: "node host3", Node: "host3"},
		{At: at.Add(4 * time.Minute), What: "leased 10.1.3.0/24", Item: "subnet", Node: "host3", Network: "blue"},
		{At: at.Add(19 * time.Minute), Severity: fault.Warning, Code: fault.NodeDown, Item: "node host2", Node: "host2",
			What: "its agent is not alive; its forwarding may go on"},
		{At: at.Add(21 * time.Minute), What: "alive again", Item: "node host2", Node: "host2"},
		{At: at.Add(40 * time.Minute), Severity: fault.Error, Code: fault.UnderlayMTU, Item: "host1 → host3", Node: "host1",
			What: "64 bytes pass, 1450 do not"},
	}
}

// tracer answers with a made-up way: packets for 10.1.3.9 end on host3.
type tracer struct{}

func (tracer) Trace(_ context.Context, r TraceRequest) (Trace, error) {
	if r.From != "host1/web" {
		return Trace{}, &topology.Error{
			Kind: topology.ErrNotFound, Item: "endpoint " + r.From, What: "there is none",
			Remedy: "'baize endpoint list' shows the names",
		}
	}
	out := Trace{
		From: r.From, To: r.To, Packet: fmt.Sprintf("%s/%d, 74 bytes", r.Protocol, r.Port), Delivered: true, Verdict: "Delivered to api on host3.",
		Hops: []TraceHop{
			{Node: "host1", Wire: "vx-host3 · 192.168.77.11 → 192.168.77.13 · VNI 100", Steps: []TraceStep{
				{Stage: "guard", Outcome: Passed, What: "from its own address and MAC"},
				{Stage: "steer", Outcome: Passed, What: "10.1.3.0/24 is host3's"},
				{Stage: "tunnel", Outcome: Passed, What: "into vx-host3", Evidence: "0 % lost, 0.4 ms, 1450 pass"},
			}},
			{Node: "host3", Steps: []TraceStep{
				{Stage: "classify", Outcome: Passed, What: "VNI 100 is blue"},
				{Stage: "local", Outcome: Passed, What: "10.1.3.2 is api's"},
			}},
		},
	}
	if r.To == "10.1.3.9" {
		out.Delivered, out.Code, out.Verdict = false, fault.Unreachable, "Dropped on host3: no endpoint has 10.1.3.9."
		out.Remedy = "'baize endpoint list --node host3' shows what is there"
		steps := out.Hops[1].Steps
		out.Hops[1].Steps = append(slices.Clone(steps[:1]), TraceStep{
			Stage: "local", Outcome: Failed, What: "nobody has 10.1.3.9 here", Evidence: "table 30",
		})
	}
	return out, nil
}
