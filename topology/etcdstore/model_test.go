package etcdstore_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdfake"
	"github.com/baize-net/baize/topology/etcdstore"
)

// Many clients of the store use a few records at once, with faults between any two of
// their steps. What they were answered must be possible had they come one after the other,
// each at a moment between its call and its answer: the store is linearizable.

var (
	modelSeed  = flag.Uint64("model-seed", 0, "the one seed of TestModel; 0: the first -model-runs")
	modelRuns  = flag.Int("model-runs", 40, "how many seeds TestModel runs; with -short a quarter of them")
	modelCalls = flag.Int("model-calls", 30, "how many calls each client makes")
)

// call is what a client asks: object is what it is about, by is the node that asks.
type call struct{ object, verb, by, key string }

// Answers. Others are values.
const (
	done     = "done"
	refusal  = "refused"
	unknown  = "unknown" // the call may have done it, at any time
	noRecord = "-"
)

// state is what an object is in the model: values by key.
type state string

func (s state) values() map[string]string {
	out := map[string]string{}
	for word := range strings.FieldsSeq(string(s)) {
		k, v, _ := strings.Cut(word, "=")
		out[k] = v
	}
	return out
}

func stateOf(values map[string]string) state {
	var words []string
	for _, k := range slices.Sorted(maps.Keys(values)) {
		words = append(words, k+"="+values[k])
	}
	return state(strings.Join(words, " "))
}

func (s state) with(k, v string) state {
	values := s.values()
	values[k] = v
	return stateOf(values)
}

func (s state) without(gone func(k, v string) bool) state {
	values := s.values()
	maps.DeleteFunc(values, gone)
	return stateOf(values)
}

// next are the states that a call leads to, if it is answered so.
func next(s state, c call, answer string) []state {
	if answer == unknown {
		return append(possible(s, c), s)
	}
	have := s.values()
	switch c.verb {
	case "read":
		return when(answer == string(s), s)
	case "pin", "register":
		owner, taken := have["owner"]
		if taken && owner != c.by {
			return when(answer == refusal, s)
		}
		return when(answer == done, s.with("owner", c.by))
	case "unpin":
		return when(answer == done, s.without(func(_, v string) bool { return v == c.by }))
	case "hand over":
		return when(answer == done, s.without(func(string, string) bool { return true }))
	case "lease":
		for prefix, owner := range have {
			if owner == c.by {
				return when(answer == prefix, s)
			}
		}
		_, taken := have[answer]
		if answer == refusal {
			return when(len(have) == len(subnets), s)
		}
		return when(!taken && slices.Contains(subnets, answer), s.with(answer, c.by))
	case "give back":
		return when(answer == done, s.without(func(_, v string) bool { return v == c.by }))
	case "release":
		return removed(s, answer, c.key)
	case "create":
		if _, there := have[c.by]; there {
			return when(answer == refusal, s)
		}
		return when(answer != refusal && !slices.Contains(slices.Collect(maps.Values(have)), answer), s.with(c.by, answer))
	case "delete":
		return removed(s, answer, c.by)
	}
	panic("no verb " + c.verb)
}

// removed is what a removal leads to. Where its request has to be repeated it cannot be told
// from another client's of the same moment: both say that it is done, and it is.
func removed(s state, answer, key string) []state {
	_, there := s.values()[key]
	return when(answer == done || !there, s.without(func(k, _ string) bool { return k == key }))
}

func when(holds bool, s state) []state {
	if holds {
		return []state{s}
	}
	return nil
}

// possible are the states that a call may lead to whose answer was lost.
func possible(s state, c call) []state {
	var out []state
	answers := []string{done, refusal}
	switch c.verb {
	case "read":
		return nil
	case "lease":
		answers = subnets
	case "create":
		answers = vnis
	}
	for _, answer := range answers {
		out = append(out, next(s, c, answer)...)
	}
	return out
}

// vnis are those that networks may get: no more of them are there at once.
var vnis = []string{"101", "102", "103"}

// subnets are those of network tiny that can be leased: its first one is not.
var subnets = []string{"10.3.1.0/24", "10.3.2.0/24", "10.3.3.0/24"}

var model = porcupine.NondeterministicModel{
	Init: func() []any { return []any{state("")} },
	Step: func(s, c, answer any) []any {
		var out []any
		for _, n := range next(s.(state), c.(call), answer.(string)) {
			out = append(out, n)
		}
		return out
	},
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := map[string][]porcupine.Operation{}
		for _, o := range history {
			object := o.Input.(call).object
			parts[object] = append(parts[object], o)
		}
		return slices.Collect(maps.Values(parts))
	},
}

// modelled is one run.
type modelled struct {
	*testing.T
	cluster *etcdfake.Cluster
	actors  []*actor

	clock   atomic.Int64
	mu      sync.Mutex
	history []porcupine.Operation
}

// newModelled makes a cluster with a few nodes and a small network, and clients.
func newModelled(t *testing.T, seed uint64, clients int) *modelled {
	m := &modelled{T: t, cluster: etcdfake.New()}
	s := openFake(t, m.cluster.Host("setup"))
	_, err := s.CreateNetwork(t.Context(), topology.Network{Name: "tiny", VNI: 7, IPv4: prefix("10.3.0.0/22")})
	require.NoError(t, err)
	mustCreate(t, s, blue())
	_, err = s.RegisterNode(t.Context(), node("shared"))
	require.NoError(t, err)
	require.NoError(t, s.HandOverNode(t.Context(), "shared", ""))
	for i := range clients {
		a := &actor{
			host: m.cluster.Host(fmt.Sprint("h", i)), name: fmt.Sprint("n", i), id: i,
			random: rand.New(rand.NewPCG(seed, uint64(i))), fault: func() stepFault { return noFault },
		}
		a.s, err = etcdstore.Open(t.Context(), etcdstore.Config{
			Backend: stepping{a.host, a}, Endpoints: []string{"fake"},
			Jitter: func(d time.Duration) time.Duration { return d/2 + time.Duration(a.random.Int64N(int64(d))) },
		})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, a.s.Close()) })
		_, err = a.s.RegisterNode(t.Context(), node(a.name))
		require.NoError(t, err)
		m.actors = append(m.actors, a)
	}
	return m
}

// does makes a call and notes what was answered.
func (m *modelled) does(ctx context.Context, a *actor, c call) (answer string) {
	c.by = a.name
	if c.object == "networks" {
		c.by = fmt.Sprint("net", a.random.IntN(3))
	}
	if c.verb == "release" {
		c.key = subnets[a.random.IntN(len(subnets))]
	}
	began := m.clock.Add(1)
	a.unanswered = false
	answer = m.ask(ctx, a, c)
	ended := m.clock.Add(1)
	if answer == unknown {
		ended = math.MaxInt64
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.unanswered && slices.Contains([]string{"create", "register", "lease", "hand over"}, c.verb) {
		// etcd may have done it and others undone it before it was repeated, which nothing in
		// etcd tells any more: it is as if it had been asked for twice.
		twice := porcupine.Operation{ClientId: a.id + len(m.actors), Input: c, Call: began, Output: unknown, Return: ended}
		m.history = append(m.history, twice)
	}
	m.history = append(m.history, porcupine.Operation{ClientId: a.id, Input: c, Call: began, Output: answer, Return: ended})
	return answer
}

// told is what an error says, or the answer where there is none.
func told(answer string, err error) string {
	switch {
	case err == nil:
		return answer
	case errors.Is(err, topology.ErrConflict), errors.Is(err, topology.ErrExists), errors.Is(err, topology.ErrFull),
		errors.Is(err, topology.ErrNotFound), errors.Is(err, topology.ErrInUse):
		return refusal
	}
	return unknown
}

var modelAddr = netip.MustParseAddr("10.1.200.9")

// ask makes the call of the store.
func (m *modelled) ask(ctx context.Context, a *actor, c call) string {
	pin := topology.Pin{Network: "blue", Addr: modelAddr, Node: a.name, MAC: fmt.Sprintf("02:00:00:00:00:%02x", a.id)}
	switch c.verb {
	case "read":
		s, err := a.s.Snapshot(ctx)
		return told(func() string { return string(read(s, c.object)) }(), err)
	case "pin":
		_, err := a.s.PutPin(ctx, pin)
		return told(done, err)
	case "unpin":
		return told(done, a.s.DeletePin(ctx, pin))
	case "lease":
		sub, err := a.s.LeaseSubnet(ctx, "tiny", a.name, topology.IPv4, false)
		return told(sub.Prefix.String(), err)
	case "release":
		return told(done, a.s.ReleaseSubnet(ctx, "tiny", prefix(c.key), true))
	case "give back":
		return told(done, a.s.GiveBack(ctx, "tiny", a.name))
	case "create":
		n, err := a.s.CreateNetwork(ctx, topology.Network{
			Name: c.by, IPv4: prefix("10.50.0.0/16"), MTU: 1400 - a.id, // each makes one of its own
		})
		return told(fmt.Sprint(n.VNI), err)
	case "delete":
		return told(done, a.s.DeleteNetwork(ctx, c.by))
	case "register":
		n := node("shared")
		n.ID = a.name
		_, err := a.s.RegisterNode(ctx, n)
		return told(done, err)
	case "hand over":
		return told(done, a.s.HandOverNode(ctx, "shared", ""))
	}
	panic("no verb " + c.verb)
}

// read is an object as etcd has it.
func read(s *topology.Snapshot, object string) state {
	values := map[string]string{}
	if s == nil {
		return ""
	}
	switch object {
	case "address":
		if p, there := s.Pins[topology.PinID{Network: "blue", Addr: modelAddr}]; there {
			values["owner"] = p.Node
		}
	case "subnets":
		for id, sub := range s.Subnets {
			values[id.Prefix.String()] = sub.Node
		}
	case "networks":
		for _, n := range s.Networks {
			if strings.HasPrefix(n.Name, "net") {
				values[n.Name] = fmt.Sprint(n.VNI)
			}
		}
	case "node":
		if n := s.Nodes["shared"]; n.ID != "" {
			values["owner"] = n.ID
		}
	}
	return stateOf(values)
}

// verbs are what can be done to each object.
var verbs = map[string][]string{
	"address":  {"pin", "pin", "unpin", "read"},
	"subnets":  {"lease", "lease", "give back", "release", "read"},
	"networks": {"create", "create", "delete", "read"},
	"node":     {"register", "register", "hand over", "read"},
}

// linearizable requires that the history is possible.
func (m *modelled) linearizable() {
	m.Helper()
	for _, history := range model.Partition(m.history) {
		result := porcupine.CheckOperationsTimeout(model.ToModel(), history, time.Minute)
		if result == porcupine.Ok {
			continue
		}
		slices.SortFunc(history, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
		for _, o := range history {
			m.Logf("%4d to %4d: n%d: %+v: %v", o.Call, min(o.Return, 9999), o.ClientId, o.Input, o.Output)
		}
		m.Errorf("not linearizable: %s", result)
	}
}

// count is how many answers there are of a kind.
func (m *modelled) count(answer string) (n int) {
	for _, o := range m.history {
		if o.Output == answer {
			n++
		}
	}
	return n
}

// TestModel is random: clients, calls and faults, of requests, hosts and the cluster.
func TestModel(t *testing.T) {
	t.Parallel()
	calls, lost := 0, 0
	runs := *modelRuns
	if testing.Short() {
		runs /= 4
	}
	for i := range runs {
		seed := uint64(i + 1)
		if *modelSeed != 0 {
			seed = *modelSeed
		}
		if !t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			var m *modelled
			synctest.Test(t, func(t *testing.T) { m = runModel(t, seed) })
			m.T = t
			m.linearizable()
			calls, lost = calls+len(m.history), lost+m.count(unknown)
		}) || *modelSeed != 0 {
			return
		}
	}
	t.Logf("%d calls, %d without an answer, or perhaps done twice", calls, lost)
	require.Positive(t, lost, "the faults have to be ones that are felt")
	require.Less(t, lost, calls/3)
}

func runModel(t *testing.T, seed uint64) *modelled {
	m := newModelled(t, seed, 5)
	// One only watches; its requests have no faults, its host has.
	watcher, clients := m.actors[0], m.actors[1:]
	var updates etcdstore.Update
	watching, stop := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() {
		watched <- watcher.s.Watch(watching, func(u etcdstore.Update) {
			if u.Snapshot != nil && updates.Snapshot != nil && u.Snapshot.Revision < updates.Snapshot.Revision {
				t.Errorf("revision %d is followed by %d", updates.Snapshot.Revision, u.Snapshot.Revision)
			}
			updates = u
		})
	}()
	var running sync.WaitGroup
	for _, a := range clients {
		a.fault = func() stepFault {
			if a.random.IntN(4) == 0 {
				time.Sleep(time.Duration(a.random.Int64N(int64(100 * time.Millisecond))))
			}
			if x := stepFault(a.random.IntN(12)); x <= lostAfter {
				return x
			}
			return noFault
		}
		running.Go(func() { m.client(t, a) })
	}
	ended := make(chan struct{})
	go func() { running.Wait(); close(ended) }()
	m.harm(rand.New(rand.NewPCG(seed, 99)), ended)
	for _, a := range clients {
		a.fault = func() stepFault { return noFault }
	}
	pass(time.Minute)
	s, err := m.actors[1].s.Snapshot(t.Context())
	require.NoError(t, err)
	require.NoError(t, updates.Err)
	for object := range verbs {
		require.Equal(t, read(s, object), read(updates.Snapshot, object), "who watches sees what is there")
	}
	stop()
	require.NoError(t, <-watched)
	return m
}

// client makes calls, one after the other. Some are given up.
func (m *modelled) client(t *testing.T, a *actor) {
	objects := slices.Sorted(maps.Keys(verbs))
	for range *modelCalls {
		object := objects[a.random.IntN(len(objects))]
		ctx, cancel := t.Context(), context.CancelFunc(func() {})
		if a.random.IntN(10) == 0 {
			ctx, cancel = context.WithTimeout(ctx, time.Duration(a.random.Int64N(int64(50*time.Millisecond))))
		}
		pause := 20 * time.Millisecond
		if m.does(ctx, a, call{object: object, verb: verbs[object][a.random.IntN(len(verbs[object]))]}) == unknown {
			pause = 2 * time.Second // etcd is down, for example
		}
		cancel()
		time.Sleep(time.Duration(a.random.Int64N(int64(pause))))
	}
}

// harm does things to hosts and the cluster until the clients have ended.
func (m *modelled) harm(random *rand.Rand, ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case <-time.After(time.Duration(random.Int64N(int64(2 * time.Second)))):
		}
		h := m.actors[random.IntN(len(m.actors))].host
		lasts := time.Duration(random.Int64N(int64(4 * time.Second)))
		heal := func() { h.Set(etcdfake.Faults{}) }
		switch random.IntN(6) {
		case 0:
			h.Set(etcdfake.Faults{Cut: true})
		case 1:
			h.Set(etcdfake.Faults{Refused: true})
		case 2:
			h.Set(etcdfake.Faults{LoseAnswers: true})
		case 3:
			h.Set(etcdfake.Faults{Delay: 500 * time.Millisecond, StallWatches: true})
		case 4:
			m.cluster.SetLeader(false)
			heal = func() { m.cluster.SetLeader(true) }
		case 5:
			m.cluster.Stop()
			heal, lasts = m.cluster.Start, lasts/4
		}
		time.Sleep(lasts)
		heal()
	}
}

// TestModelEveryStep goes through every step of every call: the request or its answer is
// lost there, or another client comes in between.
func TestModelEveryStep(t *testing.T) {
	t.Parallel()
	const steps = 6
	runs := 0
	for object, all := range verbs {
		for _, first := range slices.Compact(slices.Sorted(slices.Values(all))) {
			for _, other := range slices.Compact(slices.Sorted(slices.Values(all))) {
				for at := range steps {
					for _, x := range []stepFault{noFault, lostBefore, lostAfter, lostLong} {
						var m *modelled
						synctest.Test(t, func(t *testing.T) { m = oneStep(t, object, first, other, at, x) })
						m.T = t
						m.linearizable()
						runs++
					}
				}
			}
		}
	}
	t.Logf("%d runs", runs)
}

// oneStep makes a call; before its request of number at another client makes one of its
// own, and the request has a fault.
func oneStep(t *testing.T, object, first, other string, at int, x stepFault) *modelled {
	m := newModelled(t, 1, 2)
	a, b := m.actors[0], m.actors[1]
	for _, verb := range []string{first, other} { // something may be there already
		m.does(t.Context(), b, call{object: object, verb: verb})
	}
	n := 0
	a.fault = func() stepFault {
		n++
		if n != at+1 {
			return noFault
		}
		if x != lostLong {
			m.does(t.Context(), b, call{object: object, verb: other})
		}
		return x
	}
	a.meanwhile = func() { m.does(t.Context(), b, call{object: object, verb: other}) }
	m.does(t.Context(), a, call{object: object, verb: first})
	a.fault = func() stepFault { return noFault }
	m.does(t.Context(), b, call{object: object, verb: "read"})
	return m
}

// A removal whose answer is lost is repeated, and spares what somebody else has put there
// since.
func TestRepeatedRemovals(t *testing.T) {
	t.Parallel()
	first := topology.Subnet{Network: "tiny", Prefix: prefix(subnets[0])}
	for object, c := range map[string]struct {
		put    func(ctx context.Context, a *actor) error
		remove func(ctx context.Context, a *actor) error
	}{
		"networks": {
			func(ctx context.Context, a *actor) error {
				_, err := a.s.CreateNetwork(ctx, topology.Network{Name: "net0", IPv4: prefix("10.50.0.0/16"), MTU: 1400 - a.id})
				return err
			},
			func(ctx context.Context, a *actor) error { return a.s.DeleteNetwork(ctx, "net0") },
		},
		"subnets": {
			func(ctx context.Context, a *actor) error {
				sub := first
				sub.Node = a.name
				_, err := a.s.ClaimSubnet(ctx, sub)
				return err
			},
			func(ctx context.Context, a *actor) error { return a.s.ReleaseSubnet(ctx, "tiny", first.Prefix, true) },
		},
		"node": {
			func(ctx context.Context, a *actor) error {
				n := node("shared")
				n.ID = a.name
				_, err := a.s.RegisterNode(ctx, n)
				return err
			},
			func(ctx context.Context, a *actor) error { return a.s.HandOverNode(ctx, "shared", "") },
		},
	} {
		t.Run(object, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newModelled(t, 1, 3)
				a, before, after := m.actors[0], m.actors[1], m.actors[2]
				require.NoError(t, c.put(t.Context(), before))
				requests, came := 0, false
				a.fault = func() stepFault {
					if requests++; requests == 2 { // the first one reads, this one removes
						return lostLong
					}
					return noFault
				}
				a.meanwhile = func() {
					came = true
					require.NoError(t, c.put(t.Context(), after), "it was removed")
				}
				require.NoError(t, c.remove(t.Context(), a))
				require.True(t, came)
				require.NotEmpty(t, read(snapshot(t, after.s), object), "what came after it is still there")
			})
		})
	}
}
