package mesh

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// links is a domain of engines, in a time of its own.
type links struct {
	t       testing.TB
	now     time.Time
	engines []*engine
	next    []time.Time
	targets [][]Target
	flying  []flight
	rng     *rand.Rand
	// drops says whether a frame is lost; delay is how long one takes.
	drops func(from, to, size int) bool
	delay func(from, to int) time.Duration
	// stopped are nodes whose agent does not run.
	stopped map[int]bool
	sent    int
	bytes   int
}

type flight struct {
	at       time.Time
	from, to int
	frame    []byte
}

const (
	testInterval = time.Minute
	testSize     = 1464
)

func nodeName(i int) string { return fmt.Sprintf("host%d", i+1) }

func newLinks(t testing.TB, n int) *links {
	l := &links{
		t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), rng: rand.New(rand.NewPCG(1, uint64(n))),
		drops:   func(int, int, int) bool { return false },
		delay:   func(int, int) time.Duration { return time.Millisecond },
		stopped: map[int]bool{}, next: make([]time.Time, n), targets: make([][]Target, n), engines: make([]*engine, n),
	}
	for i := range n {
		for j := range n {
			if i != j {
				l.targets[i] = append(l.targets[i], Target{
					Key: Key{nodeName(j), topology.VXLAN}, Port: j + 1, Size: testSize, Network: "blue", Alive: true, Answers: true,
				})
			}
		}
		l.start(i, 1)
	}
	return l
}

// start starts a node's engine anew.
func (l *links) start(i int, life uint64) {
	l.engines[i] = newEngine(nodeName(i), uint64(i)<<32|life, testInterval)
	l.engines[i].connect(true, l.now)
	l.engines[i].aim(slices.Clone(l.targets[i]), l.now)
	l.next[i] = l.now
	delete(l.stopped, i)
}

// see changes what a node's topology says of a peer.
func (l *links) see(i, peer int, change func(*Target)) {
	for j := range l.targets[i] {
		if l.targets[i][j].Node == nodeName(peer) {
			change(&l.targets[i][j])
		}
	}
	l.engines[i].aim(slices.Clone(l.targets[i]), l.now)
	l.next[i] = l.now
}

func (l *links) send(from int, out []outgoing) {
	for _, o := range out {
		to := o.port - 1
		l.sent++
		l.bytes += len(o.frame)
		if l.stopped[to] || l.drops(from, to, len(o.frame)) {
			continue
		}
		l.flying = append(l.flying, flight{l.now.Add(l.delay(from, to)), from, to, o.frame})
	}
}

// pass lets time go by.
func (l *links) pass(d time.Duration) {
	end := l.now.Add(d)
	for {
		next := end
		for i := range l.engines {
			if !l.stopped[i] {
				next = earliest(next, l.next[i])
			}
		}
		for _, f := range l.flying {
			next = earliest(next, f.at)
		}
		if next.After(l.now) {
			l.now = next
		}
		due := slices.DeleteFunc(slices.Clone(l.flying), func(f flight) bool { return f.at.After(l.now) })
		l.flying = slices.DeleteFunc(l.flying, func(f flight) bool { return !f.at.After(l.now) })
		for _, f := range due {
			if l.stopped[f.to] {
				continue
			}
			out, _, woken, err := l.engines[f.to].receive(f.from+1, f.frame, l.now)
			require.NoError(l.t, err)
			l.send(f.to, out)
			if woken {
				l.next[f.to] = l.now
			}
		}
		for i, e := range l.engines {
			if l.stopped[i] || l.next[i].After(l.now) {
				continue
			}
			var out []outgoing
			out, l.next[i] = e.turn(l.now)
			l.send(i, out)
		}
		if !l.now.Before(end) {
			return
		}
	}
}

// way is what a node says of another.
func (l *links) way(i, j int) Result {
	for _, r := range l.engines[i].results(l.now) {
		if r.Node == nodeName(j) {
			return r
		}
	}
	require.Fail(l.t, "no result")
	return Result{}
}

// becomes lets time go by until a node's verdict on another is what is wanted, at
// most the limit.
func (l *links) becomes(i, j int, want Verdict, limit time.Duration) {
	l.t.Helper()
	for end := l.now.Add(limit); l.way(i, j).Verdict != want; l.pass(100 * time.Millisecond) {
		if l.now.After(end) {
			require.Equal(l.t, want, l.way(i, j).Verdict, "%s of %s after %s: %+v",
				nodeName(i), nodeName(j), limit, l.way(i, j))
		}
	}
}

// healthy requires that all ways but those that are named are good.
func (l *links) healthy(but ...[2]int) {
	l.t.Helper()
	for i := range l.engines {
		for j := range l.engines {
			if i != j && !l.stopped[i] && !slices.Contains(but, [2]int{i, j}) {
				require.Equal(l.t, Good, l.way(i, j).Verdict, "%s of %s", nodeName(i), nodeName(j))
			}
		}
	}
}

func up(t testing.TB, n int) *links {
	l := newLinks(t, n)
	l.pass(2 * time.Minute)
	l.healthy()
	return l
}

const soon = 2 * time.Minute

func TestHealthy(t *testing.T) {
	l := up(t, 3)
	r := l.way(0, 1)
	require.Equal(t, Result{
		Key: Key{"host2", topology.VXLAN}, Verdict: Good, Since: r.Since, LossOut: 0, LossIn: 0,
		RTT: 2 * time.Millisecond, RTTMax: 2 * time.Millisecond, Passes: 1450, Needed: 1450, Network: "blue",
	}, r)
}

// Both sides see that nothing comes, and who gets the other's frames knows that it
// is one direction only.
func TestOneWay(t *testing.T) {
	l := up(t, 3)
	l.drops = func(from, to, _ int) bool { return from == 0 && to == 1 }
	l.becomes(0, 1, Deaf, soon)
	l.becomes(1, 0, Silent, soon)
	l.healthy([2]int{0, 1}, [2]int{1, 0})
	l.pass(time.Hour)
	require.Equal(t, Deaf, l.way(0, 1).Verdict)
	require.Equal(t, Silent, l.way(1, 0).Verdict)
	l.drops = func(int, int, int) bool { return false }
	l.becomes(0, 1, Good, soon)
	l.becomes(1, 0, Good, soon)
	l.pass(time.Hour)
	l.healthy()
}

func TestSilent(t *testing.T) {
	l := up(t, 3)
	l.drops = func(from, to, _ int) bool { return from+to == 1 }
	l.becomes(0, 1, Silent, soon)
	l.becomes(1, 0, Silent, soon)
	l.healthy([2]int{0, 1}, [2]int{1, 0})
	l.drops = func(int, int, int) bool { return false }
	l.becomes(0, 1, Good, soon)
	l.becomes(1, 0, Good, soon)
}

func TestLossy(t *testing.T) {
	for _, percent := range []int{20, 50} {
		l := up(t, 2)
		l.drops = func(from, to, _ int) bool { return from == 0 && to == 1 && l.rng.IntN(100) < percent }
		l.becomes(0, 1, Lossy, 10*time.Minute)
		l.pass(soon)
		require.InDelta(t, percent, l.way(0, 1).LossOut, 20)
		require.Less(t, l.way(0, 1).LossIn, 5)
		l.becomes(1, 0, Lossy, 10*time.Minute)
		l.drops = func(int, int, int) bool { return false }
		l.becomes(0, 1, Good, 10*time.Minute)
		l.becomes(1, 0, Good, 10*time.Minute)
	}
}

func TestSlow(t *testing.T) {
	l := up(t, 2)
	l.delay = func(int, int) time.Duration { return 100 * time.Millisecond }
	l.becomes(0, 1, Slow, 2*soon)
	require.Equal(t, 200*time.Millisecond, l.way(0, 1).RTT.Round(time.Millisecond))
	l.delay = func(int, int) time.Duration { return time.Millisecond }
	l.becomes(0, 1, Good, soon)
}

// What passes is found to the byte, in each direction by itself, and again when it
// changes.
func TestPathMTU(t *testing.T) {
	l := up(t, 2)
	for _, most := range []int{1414, 600, 1463} {
		l.drops = func(from, _, size int) bool { return from == 0 && size > most }
		l.becomes(0, 1, Narrow, 2*soon)
		l.pass(soon)
		require.Equal(t, most-14, l.way(0, 1).Passes)
		require.Equal(t, fmt.Sprint(most-14), l.way(0, 1).Detail)
		require.Equal(t, Good, l.way(1, 0).Verdict)
		l.drops = func(int, int, int) bool { return false }
		l.becomes(0, 1, Good, soon)
		require.Equal(t, 1450, l.way(0, 1).Passes)
	}
	// Smaller, without being well between.
	for _, most := range []int{1414, 900} {
		l.drops = func(from, _, size int) bool { return from == 0 && size > most }
		l.pass(10 * time.Minute)
		require.Equal(t, Narrow, l.way(0, 1).Verdict)
		require.Equal(t, fmt.Sprint(most-14), l.way(0, 1).Detail)
	}
}

// Frames of the size that is needed were lost for a while, and pass again before it is
// known which sizes pass: nothing is ever said of sizes.
func TestSizesLostByChance(t *testing.T) {
	searched := 0
	for d := time.Duration(0); d < 2*testInterval; d += time.Second / 2 {
		l := up(t, 2)
		m := &l.engines[0].peers[Key{"host2", topology.VXLAN}].mtu
		var until time.Time
		l.drops = func(from, _, size int) bool {
			if from != 0 || size < testSize {
				return false
			}
			if until.IsZero() {
				until = l.now.Add(d)
			}
			return !l.now.After(until)
		}
		for until.IsZero() || l.now.Before(until) {
			l.pass(10 * time.Millisecond)
		}
		if m.fails > 0 && !m.searching() {
			break // it was known by then
		}
		if m.searching() {
			searched++
		}
		for range 2000 {
			l.pass(10 * time.Millisecond)
			require.NotEqual(t, Narrow, l.way(0, 1).Verdict, "lost for %s", d)
		}
		l.pass(soon)
		require.Equal(t, 1450, l.way(0, 1).Passes)
	}
	require.Positive(t, searched)
}

// A larger MTU of a network is proven before anything is said.
func TestPathMTUNeeded(t *testing.T) {
	l := up(t, 2)
	l.drops = func(_, _, size int) bool { return size > testSize }
	l.see(0, 1, func(p *Target) { p.Size = 2000 })
	l.becomes(0, 1, Narrow, 2*soon)
	require.Equal(t, fmt.Sprint(testSize-14), l.way(0, 1).Detail)
}

// What is lost of larger frames than networks need, which somebody sends with 'baize
// ping --size', says nothing: neither once nor again and again.
func TestLargerThanNeeded(t *testing.T) {
	l := up(t, 2)
	p := l.engines[0].peers[Key{"host2", topology.VXLAN}]
	for range 20 {
		for range 2 * missesToFail {
			p.next(kindProbe, large, 9014, l.now) // does not arrive
		}
		l.pass(time.Minute)
		l.healthy()
	}
	require.Equal(t, 1450, l.way(0, 1).Passes)
}

// What was lost while nothing passed, as when ovs-vswitchd starts again, says nothing of
// sizes afterwards.
func TestOutageIsNoMatterOfSize(t *testing.T) {
	l := up(t, 2)
	for range testkit.Fewer(200, 20) {
		l.drops = func(int, int, int) bool { return true }
		l.pass(time.Duration(l.rng.IntN(40_000)) * time.Millisecond)
		l.drops = func(int, int, int) bool { return false }
		for range 300 {
			l.pass(100 * time.Millisecond)
			require.NotEqual(t, Narrow, l.way(0, 1).Verdict)
			require.NotEqual(t, Narrow, l.way(1, 0).Verdict)
		}
		l.pass(time.Duration(l.rng.IntN(120)) * time.Second)
	}
}

// An agent that is started anew, one that stops and one that never answered probes.
func TestAgents(t *testing.T) {
	l := up(t, 3)
	l.start(1, 2)
	l.pass(soon)
	l.healthy()

	l.stopped[2] = true
	l.see(0, 2, func(p *Target) { p.Alive, p.Answers = false, false })
	l.becomes(0, 2, Down, 2*soon)
	l.pass(time.Hour)
	require.Equal(t, Down, l.way(0, 2).Verdict)
	l.start(2, 3)
	l.becomes(0, 2, Good, soon)
	l.see(0, 2, func(p *Target) { p.Alive, p.Answers = true, true })
	l.pass(soon)
	l.healthy()

	l.stopped[2] = true
	l.see(0, 2, func(p *Target) { p.Alive, p.Answers = true, false })
	l.pass(time.Hour)
	require.Equal(t, Unasked, l.way(0, 2).Verdict)
}

// Short interruptions, frames that are late and a node that stood still are no
// faults: nothing is ever said.
func TestBusyMachine(t *testing.T) {
	l := up(t, 3)
	never := func() {
		l.t.Helper()
		l.healthy()
	}
	for range testkit.Fewer(100, 5) {
		l.drops = func(int, int, int) bool { return true } // all, for three seconds
		l.pass(time.Duration(l.rng.IntN(3000)) * time.Millisecond)
		never()
		l.drops = func(int, int, int) bool { return false }
		l.delay = func(int, int) time.Duration { return time.Duration(l.rng.IntN(1500)) * time.Millisecond }
		l.pass(time.Duration(l.rng.IntN(20_000)) * time.Millisecond)
		never()
		l.delay = func(int, int) time.Duration { return time.Millisecond }
		l.pass(time.Minute + time.Duration(l.rng.IntN(180))*time.Second)
		never()
	}
	// Frames that get lost now and then, over hours.
	l.drops = func(int, int, int) bool { return l.rng.IntN(100) == 0 }
	for range testkit.Fewer(600, 5) {
		l.pass(time.Minute)
		never()
	}
	// This agent stood still for a while: what came meanwhile comes late.
	for range 20 {
		l.next[0] = l.now.Add(25 * time.Second)
		l.delay = func(_, to int) time.Duration {
			if to == 0 {
				return time.Until(l.next[0])
			}
			return time.Millisecond
		}
		l.pass(20 * time.Second)
		l.delay = func(int, int) time.Duration { return time.Millisecond }
		l.pass(time.Minute)
		never()
	}
}

// A frame of another node, and one that no peer sent.
func TestStrangers(t *testing.T) {
	l := up(t, 3)
	f := frame{kind: kindProbe, length: headerSize, from: hashOf("host3"), to: hashOf("host1"), life: 9, seq: 1}
	_, _, _, err := l.engines[0].receive(2, f.encode(), l.now)
	require.ErrorIs(t, err, errStranger)
	l.becomes(0, 1, Misled, soon)
	require.Equal(t, "host3", l.way(0, 1).Detail)
	l.becomes(0, 1, Good, 2*maxAge)
	f.from = hashOf("host2")
	_, _, _, err = l.engines[0].receive(77, f.encode(), l.now)
	require.ErrorIs(t, err, errStranger)
	l.healthy()
}

// While there is no connection to the switch nothing is known, and nothing is held
// against anybody.
func TestDisconnected(t *testing.T) {
	l := up(t, 2)
	l.engines[0].connect(false, l.now)
	l.drops = func(int, int, int) bool { return true }
	l.pass(time.Hour)
	require.Equal(t, Unknown, l.way(0, 1).Verdict)
	require.Equal(t, Silent, l.way(1, 0).Verdict)
	l.drops = func(int, int, int) bool { return false }
	l.engines[0].connect(true, l.now)
	l.next[0] = l.now
	l.becomes(0, 1, Good, soon)
	l.becomes(1, 0, Good, soon)
}

// The cost of a thousand peers, of which nothing is wrong: a probe of each kind and
// its answer for each peer in each direction, spread over the round.
func TestCost(t *testing.T) {
	n := testkit.Fewer(1000, 10)
	e := newEngine("self", 1, testInterval)
	now := time.Unix(1_000_000, 0)
	peers := map[int]*engine{}
	var targets []Target
	for i := range n {
		targets = append(targets, Target{
			Key: Key{fmt.Sprint("p", i), topology.VXLAN}, Port: i + 1, Size: testSize, Network: "blue",
			Alive: true, Answers: true,
		})
		peers[i+1] = newEngine(fmt.Sprint("p", i), 1, testInterval)
		peers[i+1].aim([]Target{{Key: Key{"self", topology.VXLAN}, Port: 1, Alive: true, Answers: true}}, now)
		peers[i+1].connect(true, now)
	}
	e.aim(targets, now)
	e.connect(true, now)
	frames, most := 0, 0
	run := func(d time.Duration) {
		for end := now.Add(d); now.Before(end); {
			out, next := e.turn(now)
			frames += len(out)
			most = max(most, len(out))
			for _, o := range out {
				answers, _, _, err := peers[o.port].receive(1, o.frame, now)
				require.NoError(t, err)
				for _, a := range answers {
					_, _, _, err := e.receive(o.port, a.frame, now)
					require.NoError(t, err)
				}
			}
			now = earliest(next, end)
		}
	}
	run(testInterval)
	frames, most = 0, 0
	run(10 * testInterval)
	require.Equal(t, 10*n*2, frames, "two frames for each peer a round")
	require.LessOrEqual(t, most, 20, "no bursts")
}
