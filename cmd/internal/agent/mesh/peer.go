package mesh

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Target is a way to a peer that is to be probed.
type Target struct {
	Key
	// Port is the tunnel's OpenFlow number; 0 while it has none.
	Port int
	// Local and Remote are the ends of the tunnel in the underlay.
	Local, Remote netip.Addr
	// Size is the largest frame that endpoints send there, in bytes with the Ethernet
	// header; Network is a network that has it.
	Size    int
	Network string
	// Alive: the peer's agent runs, as far as etcd tells. Answers: it answers probes.
	Alive, Answers bool
	// Echo: it is a path without encapsulation. Many networks let no echo request
	// pass: one that was never answered says nothing.
	Echo bool
}

// The limits of what is held against a way. A busy machine must not reach one: what
// is late is not lost, and what is lost once is forgotten.
const (
	// grace is how long a frame may be under way before it counts as lost.
	grace = 2 * time.Second
	// silence is how long nothing may have come, and silentFrames how many frames
	// must be unanswered, before a peer is silent.
	silence      = 12 * time.Second
	silentFrames = 10
	// deafFrames must be lost in a row, over deafTime at least.
	deafFrames = 10
	deafTime   = 6 * time.Second
	// lossyFrames must have been counted, lossyPercent and lossyRuns lost; less than
	// mendedPercent ends it.
	lossyFrames   = 48
	lossyPercent  = 10
	lossyRuns     = 7
	mendedPercent = 4
	// slowTime is more than an answer may take; slowFrames that take longer, and none
	// that does not for a while, make a peer slow. slowMended in a row that take less
	// than slowEnd end it.
	slowTime   = 100 * time.Millisecond
	slowEnd    = 70 * time.Millisecond
	slowFrames = 10
	slowMended = 3
	// mended is how many frames must arrive in a row before a silent or deaf peer is
	// neither.
	mended = 4
	// suspectFrames are sent at the fast pace after something was seen.
	suspectFrames = 40
	// rtts are how many answers' times are kept.
	rtts = 32
)

// peer is what is known of one way.
type peer struct {
	Target
	hash uint64
	tx   [streams]sender
	rx   [streams]receiver
	// life is the peer's, lifeAt when it was seen first.
	life   uint64
	lifeAt time.Time
	// heardAt is when the last frame came; since when the peer can be expected to
	// answer. sent counts small frames since heardAt, the first at sentAt.
	heardAt, expected, sentAt time.Time
	sent                      int
	// inRow are small frames that arrived in a row, there and back.
	inRow int
	mtu   pathMTU
	rtt   []time.Duration // the last, in a ring
	rttAt int
	// late are the answers in a row that took long, since lateAt; quick those that did
	// not.
	late, quick int
	lateAt      time.Time
	// misled is when a frame of another node came out of this tunnel last, and by
	// whom as far as is known.
	misledAt time.Time
	misledBy string
	// suspect counts the frames that are still to be sent at the fast pace.
	suspect int
	// due is when the next frames are to be sent, check when the last must have been
	// answered.
	due, check time.Time
	// touched: something happened since the last review.
	touched bool
	// tokens bound the answers.
	tokens   float64
	tokensAt time.Time

	verdict Verdict
	since   time.Time
	detail  string
	// passed: the verdict is another than when it was looked at last.
	passed bool
}

// aim takes what the topology says of the way now.
func (p *peer) aim(t Target, now time.Time) {
	if !t.Alive && !t.Echo {
		t.Answers = p.Answers // what the agent was able to do it still is, if only etcd lost it
	}
	if t.Alive && t.Answers && t.Port > 0 && !(p.Alive && p.Answers && p.Port > 0) {
		p.expected, p.sent = now, 0
	}
	p.Target = t
	p.mtu.need(t.Size)
}

// probed reports whether frames are sent there.
func (p *peer) probed() bool { return p.Port > 0 && p.Answers }

// doubt makes the pace fast for a while.
func (p *peer) doubt() { p.suspect = suspectFrames }

// hastened reports whether the way is probed at a faster pace than usual.
func (p *peer) hastened() bool { return p.suspect > 0 || p.verdict.Wrong() }

// overdue doubts a way whose last probe must have been answered by now.
func (p *peer) overdue(now time.Time) {
	if p.check.IsZero() || now.Before(p.check) {
		return
	}
	p.check = time.Time{}
	if p.sent > 0 && !p.hastened() && p.verdict != Down {
		p.doubt()
		p.due = now
	}
}

// plan sets when the next frames are due, and when those that were sent now must have
// been answered.
func (p *peer) plan(wait time.Duration, now time.Time) {
	if p.check = (time.Time{}); wait > grace {
		p.check = now.Add(grace)
	}
	// From the time that it was due: rounds keep their distance.
	if p.due = p.due.Add(wait); p.due.Before(now) {
		p.due = now.Add(wait)
	}
}

// notice doubts a way on which a frame was lost, unless that is known.
func (p *peer) notice() {
	if !p.verdict.Wrong() {
		p.doubt()
	}
}

// next returns the frame of a stream, with a number of its own.
func (p *peer) next(k kind, s stream, size int, now time.Time) frame {
	f := frame{kind: k, stream: s, length: size, to: p.hash, heardLife: p.life}
	f.seq = p.tx[s].send(size, now)
	for i := range p.rx {
		f.heard[i] = p.rx[i].heard()
	}
	return f
}

// probe returns the frames of one turn: a small one, and one of the size that is
// tried.
func (p *peer) probe(now time.Time) []frame {
	if p.sent++; p.sent == 1 {
		p.sentAt = now
	}
	out := []frame{p.next(kindProbe, small, headerSize, now)}
	if size := p.mtu.next(); size > headerSize {
		out = append(out, p.next(kindProbe, large, size, now))
	}
	return out
}

// take takes a frame of the peer, and returns the answer that it asks for.
func (p *peer) take(f frame, life uint64, now time.Time) (answer frame, due bool) {
	if f.life != p.life {
		p.life, p.lifeAt = f.life, now
		p.rx = [streams]receiver{}
	}
	p.heardAt, p.sent = now, 0
	if p.rx[f.stream].take(f.seq, f.length, now) > 0 && f.stream == small {
		p.inRow = 0
		p.notice()
	} else {
		p.inRow++
	}
	if f.heardLife == life || f.heardLife == 0 {
		p.judge(f, now)
	}
	if f.kind == kindAnswer {
		if r := p.tx[f.answersStream].find(f.answers); r != nil && f.answersStream == small {
			p.answered(r.at.age(now), now)
		}
	}
	if f.kind != kindProbe || !p.token(now) {
		return frame{}, false
	}
	answer = p.next(kindAnswer, small, headerSize, now)
	answer.answers, answer.answersStream = f.seq, f.stream
	return answer, true
}

// judge takes what the peer says came to it.
func (p *peer) judge(f frame, now time.Time) {
	if f.heardLife == 0 { // it has heard nothing yet
		f.heard = [streams]heard{}
	}
	p.tx[small].judge(f.heard[small], p.lifeAt, grace, now, func(r record) {
		switch {
		case r.fate == lost:
			p.inRow = 0
			p.notice()
		case p.verdict == Deaf:
			p.doubt()
		}
	})
	p.tx[large].judge(f.heard[large], p.lifeAt, grace, now, func(r record) {
		// Sizes are to blame only where small frames arrive.
		if r.fate == arrived || p.fit() {
			p.mtu.tried(int(r.size), r.fate == arrived)
		}
		if p.mtu.suspicious() && p.suspect == 0 {
			p.doubt()
		}
	})
}

// fit reports whether the loss of a large frame says something about its size.
func (p *peer) fit() bool {
	switch p.verdict {
	case Silent, Deaf, Misled:
		return false
	}
	c := p.tx[small].count(p.tx[small].next, p.heardAt)
	return c.lostLast < 2 && c.percent() < 50
}

// answered takes the time of an answer.
func (p *peer) answered(d time.Duration, now time.Time) {
	if len(p.rtt) < rtts {
		p.rtt = append(p.rtt, d)
	} else {
		p.rtt[p.rttAt] = d
	}
	p.rttAt = (p.rttAt + 1) % rtts
	if d < slowEnd {
		p.quick++
	} else {
		p.quick = 0
	}
	if d <= slowTime {
		p.late = 0
		return
	}
	if p.late++; p.late == 1 {
		p.lateAt = now
	}
	if p.suspect == 0 && p.verdict != Slow {
		p.suspect = slowFrames
	}
}

// lastRTTs returns the times of the last n answers; fewer where there are not as
// many.
func (p *peer) lastRTTs(n int) []time.Duration {
	n = min(n, len(p.rtt))
	out := make([]time.Duration, 0, n)
	for i := range n {
		out = append(out, p.rtt[(p.rttAt-1-i+2*len(p.rtt))%len(p.rtt)])
	}
	return out
}

const (
	answersRate  = 50.0 // a second
	answersBurst = 100.0
)

// token reports whether one more answer may be sent.
func (p *peer) token(now time.Time) bool {
	if p.tokensAt.IsZero() {
		p.tokens = answersBurst
	} else {
		p.tokens = min(answersBurst, p.tokens+answersRate*now.Sub(p.tokensAt).Seconds())
	}
	p.tokensAt = now
	if p.tokens < 1 {
		return false
	}
	p.tokens--
	return true
}

// review passes the verdict. patience is how long a peer may take to answer for
// the first time, or be slow.
func (p *peer) review(patience time.Duration, now time.Time) {
	v, detail := p.reviewed(patience, now)
	if v == p.verdict {
		if v == Narrow && p.detail != detail {
			p.detail, p.passed = detail, true
		}
		return
	}
	p.verdict, p.since, p.detail = v, now, detail
	p.passed = true
	if v.Wrong() {
		p.doubt()
	}
}

func (p *peer) reviewed(patience time.Duration, now time.Time) (Verdict, string) {
	if v, detail, apart := p.unheard(patience, now); apart {
		return v, detail
	}
	switch {
	case !p.misledAt.IsZero() && now.Sub(p.misledAt) < maxAge:
		return Misled, p.misledBy
	case p.heardAt.IsZero():
		return Unknown, ""
	case p.deaf():
		return Deaf, ""
	}
	out, in := p.tx[small].count(p.tx[small].next, now), p.rx[small].count(p.rx[small].highest, now)
	if p.lossy(out) || p.lossy(in) {
		return Lossy, fmt.Sprintf("%d of %d frames were lost on the way there, %d of %d on the way here",
			out.lost, out.total, in.lost, in.total)
	}
	if passes, smaller := p.mtu.found(); smaller {
		return Narrow, fmt.Sprint(passes - ethernet)
	}
	if p.slow(patience, now) {
		return Slow, slices.Min(p.lastRTTs(slowFrames)).Round(time.Millisecond).String()
	}
	if out.total == 0 && in.total == 0 {
		return Unknown, ""
	}
	return Good, ""
}

// unheard is the verdict where nothing can be, or is, heard from the peer.
func (p *peer) unheard(patience time.Duration, now time.Time) (v Verdict, detail string, apart bool) {
	switch {
	case p.Alive && !p.Answers:
		return Unasked, "", true
	case p.Port <= 0:
		return Unknown, "", true
	case p.Echo && p.heardAt.IsZero():
		return Unasked, "", true
	case !p.silent(patience, now):
		return Unknown, "", false
	case !p.Alive:
		return Down, "", true
	}
	return Silent, silentText(p.heardAt), true
}

func silentText(heardAt time.Time) string {
	if heardAt.IsZero() {
		return "nothing has come from it since this agent started"
	}
	return "the last frame came at " + heardAt.Format(time.TimeOnly)
}

// silent reports whether nothing comes from the peer.
func (p *peer) silent(newcomer time.Duration, now time.Time) bool {
	if (p.verdict == Silent || p.verdict == Down) && p.inRow < mended {
		return true
	}
	last, patience := p.heardAt, silence
	if last.Before(p.expected) {
		last, patience = p.expected, max(silence, newcomer)
	}
	return p.sent >= silentFrames && now.Sub(last) >= patience && now.Sub(p.sentAt) >= silence/2
}

// deaf reports whether nothing that is sent arrives.
func (p *peer) deaf() bool {
	c := p.tx[small].count(p.tx[small].next, p.heardAt)
	if p.verdict == Deaf {
		return c.lostLast > 0 || p.inRow < mended
	}
	return c.lostLast >= deafFrames && c.lostSince.age(p.heardAt) >= deafTime
}

func (p *peer) lossy(c counted) bool {
	if p.verdict == Lossy {
		return c.total > 0 && 100*c.lost >= mendedPercent*c.total
	}
	return c.total >= lossyFrames && c.runs >= lossyRuns && 100*c.lost >= lossyPercent*c.total
}

func (p *peer) slow(patience time.Duration, now time.Time) bool {
	if p.verdict == Slow {
		return p.quick < slowMended
	}
	return p.late >= slowFrames && now.Sub(p.lateAt) >= patience
}

// result is what is known of the way.
func (p *peer) result(now time.Time) Result {
	r := Result{
		Key: p.Key, Local: p.Local, Remote: p.Remote, Verdict: p.verdict, Since: p.since, LossOut: -1, LossIn: -1,
		Needed: p.Size - ethernet, Network: p.Network, Detail: p.detail,
	}
	percent := func(c counted) int {
		if x := c.percent(); x != unknown {
			return int(x)
		}
		return -1
	}
	r.LossOut = percent(p.tx[small].count(p.tx[small].next, now))
	r.LossIn = percent(p.rx[small].count(p.rx[small].highest, now))
	if p.verdict == Silent {
		r.LossIn = 100
	}
	if all := p.lastRTTs(rtts); len(all) > 0 {
		slices.SortFunc(all, cmp.Compare[time.Duration])
		r.RTT, r.RTTMax = all[len(all)/2], all[len(all)-1]
	}
	if p.mtu.passes > 0 {
		r.Passes = p.mtu.passes - ethernet
	}
	return r
}
