package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// wires join the parts of several nodes: node i's port j+1 leads to node j.
type wires struct {
	mu       sync.Mutex
	received map[int]func(openflow.Packet)
	echoed   map[int]func(netip.Addr, []byte)
	down     func(from, to int) bool
	// mute is a host that answers no echo requests.
	mute netip.Addr
	// flying are the frames under way.
	flying sync.WaitGroup
}

type wire struct {
	all  *wires
	self int
}

func (w wire) Run(ctx context.Context, connected func(), received func(openflow.Packet)) error {
	w.all.mu.Lock()
	w.all.received[w.self] = received
	w.all.mu.Unlock()
	connected()
	<-ctx.Done()
	return nil
}

func (w wire) Send(port int, key uint64, frame []byte) error {
	w.all.mu.Lock()
	to, down := w.all.received[port-1], w.all.down(w.self, port-1)
	w.all.mu.Unlock()
	if to == nil {
		return openflow.ErrDisconnected
	}
	if !down {
		w.all.flying.Go(func() {
			time.Sleep(time.Millisecond)
			to(openflow.Packet{Port: w.self + 1, Key: key, Frame: frame, Whole: len(frame)})
		})
	}
	return nil
}

// echo is the echo requests of a node.
type echo wire

func (e echo) Run(ctx context.Context, received func(netip.Addr, []byte)) error {
	e.all.mu.Lock()
	e.all.echoed[e.self] = received
	e.all.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (e echo) Send(to netip.Addr, payload []byte) error {
	e.all.mu.Lock()
	back := e.all.echoed[e.self]
	mute := e.all.mute == to
	e.all.mu.Unlock()
	if back == nil {
		return errors.New("no socket yet")
	}
	if mute {
		return nil
	}
	e.all.flying.Go(func() {
		time.Sleep(3 * time.Millisecond)
		back(to, payload)
	})
	return nil
}

func vtep(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}) }

// nodes starts the parts of n nodes. alive says what etcd tells of each.
func nodes(t *testing.T, n int, alive map[string]topology.Liveness) ([]*Part, *wires) {
	t.Helper()
	w := &wires{
		received: map[int]func(openflow.Packet){}, echoed: map[int]func(netip.Addr, []byte){},
		down: func(int, int) bool { return false },
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait(); w.flying.Wait() })
	snapshot := &topology.Snapshot{Nodes: map[string]topology.Node{}, Alive: alive}
	for i := range n {
		snapshot.Nodes[nodeName(i)] = topology.Node{Name: nodeName(i)}
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	var out []*Part
	for i := range n {
		h := hub.New(hub.Identity{Node: nodeName(i)})
		h.SetInUse(map[string]bool{})
		h.SetOwn(snapshot, false)
		h.Hold()
		outcome := part.NewCell[openvswitch.Outcome](nil)
		p := New(Config{Interval: 10 * time.Second}, h, outcome, wire{w, i}, echo{w, i}, logrus.NewEntry(log))
		running.Go(func() { _ = p.Run(ctx) })
		outcome.Set(passOf(i, n))
		out = append(out, p)
	}
	return out, w
}

// passOf is a pass of node i's switch, that has a tunnel to each of the others, and
// a network that is routed beside.
func passOf(i, n int) openvswitch.Outcome {
	o := openvswitch.Outcome{At: time.Now(), Complete: true, Observed: ovs.Observed{Ports: map[string]ovs.ObservedPort{}}}
	blue := topology.NetworkView{Network: topology.Network{Name: "blue", Transport: topology.VXLAN, MTU: 1450}}
	wide := topology.NetworkView{Network: topology.Network{Name: "wide", Transport: topology.VXLAN, MTU: 1400}}
	green := topology.NetworkView{Network: topology.Network{Name: "green", Transport: topology.Route, MTU: 1500}}
	for j := range n {
		if j == i {
			continue
		}
		peer := topology.Peer{Node: nodeName(j), Encap: topology.VXLAN, Local: vtep(i), Remote: vtep(j)}
		blue.Peers, wide.Peers = append(blue.Peers, peer), append(wide.Peers, peer)
		peer.Encap = ""
		green.Peers = append(green.Peers, peer)
		o.Observed.Ports[fmt.Sprint("t", j)] = ovs.ObservedPort{OFPort: j + 1, Port: ovs.Port{
			Name: fmt.Sprint("t", j), Type: "vxlan", ExternalIDs: map[string]string{
				ovs.KeyOwner: ovs.Owner, ovs.KeyRole: ovs.RoleTunnel, ovs.KeyNode: nodeName(j), ovs.KeyEncap: "vxlan",
			},
		}}
	}
	// A host that does not run Baize is no way.
	blue.Peers = append(blue.Peers, topology.Peer{Node: "router1", Encap: topology.VXLAN, Router: &topology.RouterHost{}})
	o.View.Networks = []topology.NetworkView{blue, green, wide}
	return o
}

func everybody(n int) map[string]topology.Liveness {
	out := map[string]topology.Liveness{}
	for i := range n {
		out[nodeName(i)] = topology.Liveness{Node: nodeName(i), Probes: true}
	}
	return out
}

func TestPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parts, w := nodes(t, 3, everybody(3))
		time.Sleep(time.Minute)
		synctest.Wait()
		for i, p := range parts {
			results := p.Results()
			require.Len(t, results, 4, "a tunnel and a path to each")
			for _, r := range results {
				require.Equal(t, Good, r.Verdict, "%d: %+v", i, r)
				require.Equal(t, map[topology.Transport]int{topology.VXLAN: 1450, topology.Route: 1500}[r.Encap], r.Passes)
				require.Equal(t, r.Needed, r.Passes)
				require.Equal(t, map[topology.Transport]string{topology.VXLAN: "blue", topology.Route: "green"}[r.Encap], r.Network)
			}
			require.Empty(t, p.Faults())
		}

		told := part.NewSignal()
		parts[0].FaultsWake(told)
		w.mu.Lock()
		w.down = func(from, to int) bool { return from == 0 && to == 1 }
		w.mu.Unlock()
		time.Sleep(time.Minute)
		require.Len(t, told, 1, "a fault more is told")
		require.Equal(t, []fault.Code{fault.PeerDeaf}, codesOf(parts[0]))
		require.Equal(t, []fault.Code{fault.PeerSilent}, codesOf(parts[1]))
		require.Contains(t, parts[1].Faults()[0].What, "though its host answers ping")
		require.Empty(t, parts[2].Faults())
		w.mu.Lock()
		w.mute = vtep(0)
		w.mu.Unlock()
		time.Sleep(time.Minute)
		require.Equal(t, []fault.Code{fault.PeerSilent, fault.PeerSilent}, codesOf(parts[1]), "the tunnel and the path")
		require.NotContains(t, parts[1].Faults()[1].What, "answers ping")
		w.mu.Lock()
		w.mute = netip.Addr{}
		w.mu.Unlock()

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		pong, err := parts[0].Ping(ctx, "host2", topology.VXLAN, 1000)
		require.NoError(t, err)
		require.Equal(t, Pong{Key: Key{"host2", topology.VXLAN}, Size: 1000, There: "unknown"}, pong)

		w.mu.Lock()
		w.down = func(int, int) bool { return false }
		w.mu.Unlock()
		time.Sleep(time.Minute)
		for _, p := range parts {
			require.Empty(t, p.Faults())
		}
	})
}

func codesOf(p *Part) (out []fault.Code) {
	for _, f := range p.Faults() {
		out = append(out, f.Code)
	}
	return out
}

func TestPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alive := everybody(3)
		alive["host3"] = topology.Liveness{Node: "host3"}
		parts, _ := nodes(t, 3, alive)
		time.Sleep(time.Second)
		synctest.Wait()
		ping := func(node string, encap topology.Transport, size int) (Pong, error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return parts[0].Ping(ctx, node, encap, size)
		}
		pong, err := ping("host2", topology.VXLAN, 1450)
		require.NoError(t, err)
		require.Equal(t, Pong{Key: Key{"host2", topology.VXLAN}, Size: 1450, RTT: 2 * time.Millisecond}, pong)
		pong, err = ping("host2", topology.Route, 0)
		require.NoError(t, err)
		require.Equal(t, Pong{Key: Key{"host2", topology.Route}, Size: 80, RTT: 3 * time.Millisecond}, pong)
		for node, want := range map[string]string{
			"host1": "is this node itself", "host9": "is no peer of this node", "host3": "does not answer probes",
		} {
			_, err := ping(node, topology.VXLAN, 0)
			require.ErrorContains(t, err, want)
		}
		for _, size := range []int{-1, maxFrame - ethernet + 1, 1 << 62} {
			_, err := ping("host2", topology.VXLAN, size)
			require.ErrorIs(t, err, topology.ErrInvalid)
		}
		_, err = ping("host2", "", 0)
		require.ErrorContains(t, err, "has tunnels of 2 encapsulations")
		require.Empty(t, parts[0].waiting)
	})
}

// All rows come together, however many ways a node has.
func TestRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = rowPart/2 + 3
		parts, w := nodes(t, n, everybody(n))
		time.Sleep(30 * time.Second)
		w.mu.Lock()
		w.down = func(from, to int) bool { return from == 5 }
		w.mu.Unlock()
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		rows := parts[0].Rows(ctx)
		require.Len(t, rows, n-1, "one node's answers do not come")
		require.Equal(t, "host1", rows[0].Node)
		for _, row := range rows {
			require.Len(t, row.Results, 2*(n-1), row.Node)
			for _, r := range row.Results {
				want := Good
				if r.Node == "host6" && r.Encap == topology.VXLAN {
					want = Silent
				}
				require.Equal(t, want, r.Verdict, "%s of %s over %s", row.Node, r.Node, r.Encap)
			}
		}
		require.Empty(t, parts[0].waiting)
	})
}

// Whoever asks at the same time gets the same rows, and none waits for another.
func TestRowsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parts, _ := nodes(t, 3, everybody(3))
		time.Sleep(time.Minute)
		began := time.Now()
		var asked sync.WaitGroup
		var rows [10][]Row
		for i := range rows {
			asked.Go(func() { rows[i] = parts[0].Rows(t.Context()) })
		}
		asked.Wait()
		require.Less(t, time.Since(began), rowTimeout)
		for _, r := range rows {
			require.Len(t, r, 3)
		}
		require.Empty(t, parts[0].waiting)
	})
}

// A frame with another key, one that is cut and one from nowhere are no probes.
func TestPartTakesOnlyProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parts, w := nodes(t, 2, everybody(2))
		time.Sleep(time.Minute)
		f := frame{kind: kindProbe, length: headerSize, from: 99, to: hashOf("host1"), life: 1, seq: 1}.encode()
		for _, p := range []openflow.Packet{
			{Port: 2, Key: 100, Frame: f}, {Port: 2, Key: pipeline.ProbeKey, Frame: f[:60]},
			{Port: 77, Key: pipeline.ProbeKey, Frame: f},
		} {
			w.received[0](p)
		}
		time.Sleep(time.Minute)
		require.Empty(t, parts[0].Faults())
		w.received[0](openflow.Packet{Port: 2, Key: pipeline.ProbeKey, Frame: f})
		time.Sleep(time.Minute)
		require.Equal(t, []fault.Code{fault.PeerMisled}, codesOf(parts[0]))
	})
}

// BenchmarkRound is a round of a thousand peers.
func BenchmarkRound(b *testing.B) {
	const n = 1000
	now := time.Unix(1_000_000, 0)
	e := newEngine("self", 1, time.Minute)
	var targets []Target
	for i := range n {
		targets = append(targets, Target{
			Key: Key{fmt.Sprint("p", i), topology.VXLAN}, Port: i + 1, Size: testSize, Network: "blue",
			Alive: true, Answers: true,
		})
	}
	e.aim(targets, now)
	e.connect(true, now)
	peers := map[int]*frame{}
	for i := range n {
		peers[i+1] = &frame{
			kind: kindAnswer, from: hashOf(targets[i].Node), to: e.self, life: 1, heardLife: 1, length: headerSize,
		}
	}
	for b.Loop() {
		for end := now.Add(time.Minute); now.Before(end); {
			out, next := e.turn(now)
			for _, o := range out {
				f, err := decode(o.frame)
				require.NoError(b, err)
				p := peers[o.port]
				p.seq++
				p.answers, p.answersStream, p.heard[f.stream] = f.seq, f.stream, heard{f.seq, 1, 1}
				_, _, _, err = e.receive(o.port, p.encode(), now)
				require.NoError(b, err)
			}
			now = earliest(next, end)
		}
	}
}
