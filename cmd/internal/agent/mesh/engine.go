package mesh

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/baize-net/baize/topology"
)

const (
	// fastPace is how often a way is probed of which something was seen.
	fastPace = 500 * time.Millisecond
	// wrongPace is the longest between two probes of a way with which something is
	// wrong.
	wrongPace = 2 * time.Second
	// fastMost bounds how many ways are probed at a faster pace at a time: the others
	// wait for the next round.
	fastMost = 32
	// hurryLeast and hurryEach are the pace while somebody looks: each way takes its
	// part of it.
	hurryLeast = time.Second
	hurryEach  = 5 * time.Millisecond
	// firstEach is how far apart the first probes of all ways are.
	firstEach = 10 * time.Millisecond
	// lateTurn is how late a turn may be. After more this agent has not run, and what
	// it did not hear meanwhile says nothing.
	lateTurn = time.Second
)

// outgoing is a frame for a tunnel.
type outgoing struct {
	port  int
	frame []byte
}

// arrival is a frame that came from a peer.
type arrival struct {
	key   Key
	frame frame
	// rtt is the time that an answer took; 0 where its question is forgotten.
	rtt time.Duration
}

// engine is all the ways from this node. It is pure: it is told what comes and what
// time it is, and says what to send. It is not safe for concurrent use.
type engine struct {
	self     uint64
	life     uint64
	interval time.Duration

	peers  map[Key]*peer
	order  []*peer
	byPort map[int]*peer
	byHash map[uint64]string
	// connected: frames can be sent.
	connected bool
	// planned is when the next turn was to be; hurry until when somebody looks.
	planned, hurry time.Time
	fast           int
	// news: a verdict was passed since it was looked at last.
	news bool
}

// newEngine returns the engine of a node. life tells its runs apart, and is not 0.
func newEngine(node string, life uint64, interval time.Duration) *engine {
	return &engine{self: hashOf(node), life: life, interval: interval, peers: map[Key]*peer{}}
}

// patience is how long a peer may take to answer for the first time, as its agent may
// just be starting, and how long all answers may be late.
func (e *engine) patience() time.Duration { return min(max(e.interval, 15*time.Second), time.Minute) }

// aim takes the ways that there are now.
func (e *engine) aim(targets []Target, now time.Time) {
	slices.SortFunc(targets, func(a, b Target) int {
		return cmp.Or(topology.CompareNames(a.Node, b.Node), cmp.Compare(a.Encap, b.Encap))
	})
	before := e.peers
	e.peers = make(map[Key]*peer, len(targets))
	e.byPort, e.byHash = make(map[int]*peer, len(targets)), make(map[uint64]string, len(targets))
	e.order = e.order[:0]
	spread := min(e.interval, time.Duration(len(targets))*firstEach)
	for i, t := range targets {
		p := before[t.Key]
		if p == nil {
			p = &peer{hash: hashOf(t.Node), since: now}
			p.due = now.Add(spread * time.Duration(i) / time.Duration(len(targets)))
		}
		p.aim(t, now)
		p.touched = true
		e.peers[t.Key], e.byHash[p.hash] = p, t.Node
		e.order = append(e.order, p)
		if t.Port > 0 {
			e.byPort[t.Port] = p
		}
	}
	e.planned, e.news = now, true
}

// connect says whether frames can be sent. What is not sent is not missed.
func (e *engine) connect(connected bool, now time.Time) {
	e.connected, e.planned = connected, now
	for _, p := range e.order {
		p.expected, p.sent, p.suspect = now, 0, 0
		p.touched = true
		if !connected {
			p.verdict, p.since, p.detail = Unknown, now, ""
			e.news = true
		}
	}
}

// pace is how long to wait until the next probe of a way.
func (e *engine) pace(p *peer, now time.Time) time.Duration {
	usual := e.interval
	if now.Before(e.hurry) {
		usual = min(usual, max(hurryLeast, time.Duration(len(e.order))*hurryEach))
	}
	if p.suspect > 0 {
		p.suspect--
	}
	if e.fast >= fastMost {
		return usual
	}
	switch {
	case p.suspect > 0:
		e.fast++
		return min(usual, fastPace)
	case p.verdict.Wrong():
		e.fast++
		return min(usual, wrongPace)
	}
	return usual
}

// turn returns the frames that are due and when the next turn is.
func (e *engine) turn(now time.Time) (out []outgoing, next time.Time) {
	next = now.Add(e.interval)
	if !e.connected {
		e.planned = next
		return nil, next
	}
	late := now.Sub(e.planned) > lateTurn
	e.fast = 0
	for _, p := range e.order {
		if late {
			p.sent = 0
		}
		if p.hastened() && p.due.After(now) {
			e.fast++
		}
	}
	for _, p := range e.order {
		if p.probed() {
			p.overdue(now)
			if !now.Before(p.due) {
				for _, f := range p.probe(now) {
					out = append(out, e.outgoing(p, f))
				}
				p.plan(e.pace(p, now), now)
				p.touched = true
			}
			next = earliest(next, p.due, p.check)
		}
		if p.touched {
			p.touched = false
			p.review(e.patience(), now)
			e.news = e.news || p.passed
			p.passed = false
		}
	}
	e.planned = next
	return out, next
}

func earliest(t time.Time, more ...time.Time) time.Time {
	for _, x := range more {
		if !x.IsZero() && x.Before(t) {
			t = x
		}
	}
	return t
}

func (e *engine) outgoing(p *peer, f frame) outgoing {
	f.from, f.life = e.self, e.life
	return outgoing{p.Port, f.encode()}
}

var errStranger = errors.New("a probe from no peer")

// receive takes a frame that came out of a port, and returns what to send for it.
// woken: something is due earlier than was planned.
func (e *engine) receive(port int, b []byte, now time.Time) (out []outgoing, got arrival, woken bool, err error) {
	p := e.byPort[port]
	if p == nil {
		return nil, got, false, errStranger
	}
	f, err := decode(b)
	if err != nil {
		return nil, got, false, err
	}
	if f.from != p.hash || f.to != e.self {
		p.mislead(e.byHash[f.from], now)
		return nil, got, false, errStranger
	}
	got = arrival{key: p.Key, frame: f}
	switch f.kind {
	case kindAsk:
		if p.token(now) {
			out = append(out, e.outgoing(p, e.rowPart(p, int(f.seq), now)))
		}
		return out, got, false, nil
	case kindRow:
		return nil, got, false, nil
	case kindAnswer:
		if r := p.tx[f.answersStream].find(f.answers); r != nil {
			got.rtt = r.at.age(now)
		}
	}
	calm := !p.hastened()
	answer, due := p.take(f, e.life, now)
	if due {
		out = append(out, e.outgoing(p, answer))
	}
	p.touched = true
	if calm && p.suspect > 0 || p.verdict == Silent || p.verdict == Down {
		p.due, woken = earliest(p.due, now.Add(fastPace)), true
		e.planned = earliest(e.planned, p.due)
	}
	return out, got, woken, nil
}

// mislead notes a frame of another node, or for another.
func (p *peer) mislead(by string, now time.Time) {
	p.misledAt, p.misledBy = now, by
	if by == "" {
		p.misledBy = "a node that this one does not know"
	}
}

// ask returns the question for a part of a peer's row.
func (e *engine) ask(p *peer, first int) outgoing {
	return e.outgoing(p, frame{kind: kindAsk, to: p.hash, seq: uint32(first), length: headerSize})
}

// rowPart returns a part of this node's row.
func (e *engine) rowPart(p *peer, first int, now time.Time) frame {
	f := frame{kind: kindRow, to: p.hash, seq: uint32(first), answers: uint32(len(e.order))}
	if first < len(e.order) {
		var list []entry
		for _, q := range e.order[first:min(len(e.order), first+rowPart)] {
			list = append(list, entryOf(q.result(now), q.hash))
		}
		f.body = encodeEntries(list)
	}
	f.length = headerSize + len(f.body)
	return f
}

func entryOf(r Result, hash uint64) entry {
	percent := func(n int) uint8 {
		if n < 0 {
			return unknown
		}
		return uint8(n)
	}
	return entry{
		peer: hash, encap: r.Encap, verdict: r.Verdict, lossOut: percent(r.LossOut), lossIn: percent(r.LossIn),
		rtt: uint32(min(r.RTT.Microseconds(), 1<<32-1)), passes: uint16(min(r.Passes, maxFrame)),
	}
}

// ways returns a way to each node that may answer, of several a good one.
func (e *engine) ways() map[string]Key {
	out := map[string]Key{}
	for _, p := range e.order {
		mute := p.verdict == Silent || p.verdict == Deaf || p.verdict == Down
		if e.connected && p.probed() && !p.Echo && !mute && (out[p.Node].Node == "" || p.verdict == Good) {
			out[p.Node] = p.Key
		}
	}
	return out
}

// quicken makes the pace of all ways faster for a while.
func (e *engine) quicken(now time.Time) {
	if !now.Before(e.hurry) {
		each := min(e.interval, max(hurryLeast, time.Duration(len(e.order))*hurryEach))
		for i, p := range e.order {
			p.due = earliest(p.due, now.Add(each*time.Duration(i)/time.Duration(len(e.order))))
		}
		e.planned = now
	}
	e.hurry = now.Add(hurryFor)
}

// results are what is known of all ways, by node and encapsulation.
func (e *engine) results(now time.Time) []Result {
	out := make([]Result, len(e.order))
	for i, p := range e.order {
		out[i] = p.result(now)
	}
	return out
}
