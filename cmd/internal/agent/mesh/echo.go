package mesh

import (
	"cmp"
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/part"
)

// Where packets go without encapsulation, the way is the path from host to host.
// It is probed with echo requests, which the other host's kernel answers: nothing
// need listen there, and hosts whose agents do not run answer as well. To the engine
// a host that answers is a peer like others: what its agent would say of what came
// there is made up of what came back. So a loss counts as one on the way there,
// wherever it was.

// Echo sends echo requests and receives their replies; hostnet.Echo is one.
type Echo interface {
	Run(ctx context.Context, received func(from netip.Addr, payload []byte)) error
	Send(to netip.Addr, payload []byte) error
}

// firstPath is the least number that stands for a path in the place of a port: no
// OpenFlow port has as large a one.
const firstPath = 1 << 20

// path is the way to a host without encapsulation.
type path struct {
	Key
	port int
	to   netip.Addr
	// rx is what came back, by stream; seq counts the answers.
	rx  [streams]receiver
	seq uint32
}

// overheadEcho are the bytes of an IP packet with an echo request that are not its
// payload.
func overheadEcho(to netip.Addr) int {
	const header = 8
	if to.Is6() {
		return 40 + header
	}
	return 20 + header
}

// The payload: life of this agent, number, stream; then zeros.
const echoSize = 13

func (p *path) payload(f frame, life uint64) []byte {
	b := make([]byte, 0, max(echoSize, f.length-ethernet-overheadEcho(p.to)))
	b = binary.BigEndian.AppendUint64(b, life)
	b = binary.BigEndian.AppendUint32(b, f.seq)
	b = append(b, byte(f.stream))
	return b[:cap(b)]
}

// reflected is the answer that an agent would have sent.
func (p *path) reflected(payload []byte, self, life uint64, now time.Time) (frame, bool) {
	if len(payload) < echoSize || binary.BigEndian.Uint64(payload) != life || payload[12] >= streams {
		return frame{}, false
	}
	seq, s := binary.BigEndian.Uint32(payload[8:]), stream(payload[12])
	p.rx[s].take(seq, len(payload), now)
	p.seq++
	f := frame{
		kind: kindAnswer, length: headerSize, from: hashOf(p.Node), to: self, life: 1, seq: p.seq,
		answers: seq, answersStream: s, heardLife: life,
	}
	for i := range p.rx {
		f.heard[i] = p.rx[i].heard()
	}
	return f, true
}

// aimPaths gives paths the numbers that stand for their ports. It needs p.mu.
func (p *Part) aimPaths(targets []Target) {
	before := p.paths
	p.paths, p.pathsByAddr, p.pathsByPort = map[Key]*path{}, map[netip.Addr]*path{}, map[int]*path{}
	for i := range targets {
		t := &targets[i]
		if !t.Echo {
			continue
		}
		x := before[t.Key]
		if x == nil || x.to != t.Remote {
			p.lastPath++
			x = &path{Key: t.Key, port: firstPath + p.lastPath, to: t.Remote}
		}
		t.Port = x.port
		p.paths[t.Key], p.pathsByAddr[x.to], p.pathsByPort[x.port] = x, x, x
	}
}

// sendEcho sends a probe of a path.
func (p *Part) sendEcho(o outgoing) {
	f, err := decode(o.frame)
	if err != nil || f.kind != kindProbe {
		return
	}
	p.mu.Lock()
	var to netip.Addr
	var payload []byte
	if x := p.pathsByPort[o.port]; x != nil {
		to, payload = x.to, x.payload(f, p.engine.life)
	}
	p.mu.Unlock()
	if payload == nil {
		return
	}
	// One that is too large for the link is lost like one on the way.
	if err := p.echo.Send(to, payload); err != nil {
		p.log.Debugf("echo request to %s: %v", to, err)
	}
}

// echoed takes a reply.
func (p *Part) echoed(from netip.Addr, payload []byte) {
	now := time.Now()
	p.mu.Lock()
	if len(payload) >= echoSize && payload[12] == askingHost {
		p.hostReplied(from, payload, now)
		p.mu.Unlock()
		return
	}
	x := p.pathsByAddr[from]
	if x == nil {
		p.mu.Unlock()
		return
	}
	f, ok := x.reflected(payload, p.engine.self, p.engine.life, now)
	port := x.port
	p.mu.Unlock()
	if ok {
		p.take(port, f.encode(), now)
	}
}

// A silent peer's host is asked as well, at the same pace: where it answers, what is
// lost are the tunnel's packets.

// askingHost, in the place of a stream, marks such a request.
const askingHost = 0xff

// hostAnswered is for how long an answer of a host counts.
const hostAnswered = 30 * time.Second

// host is what is known of a host whose frames do not come.
type host struct {
	// answeredAt is when it answered an echo request last; said is what was reported.
	answeredAt time.Time
	said       bool
}

func (h *host) answers(now time.Time) bool {
	return !h.answeredAt.IsZero() && now.Sub(h.answeredAt) < hostAnswered
}

// silentHosts returns the hosts to ask: those of silent tunnels that frames go to now.
// Hosts that are not silent any more are forgotten. It needs p.mu.
func (p *Part) silentHosts(out []outgoing, now time.Time) (ask []netip.Addr) {
	if p.echo == nil {
		return nil
	}
	before := p.hosts
	p.hosts = map[netip.Addr]*host{}
	for _, w := range p.engine.order {
		if w.verdict != Silent || w.Echo {
			continue
		}
		h := cmp.Or(p.hosts[w.Remote], before[w.Remote], &host{}) // one host may have several tunnels
		p.hosts[w.Remote] = h
		if h.said != h.answers(now) {
			h.said, p.engine.news = h.answers(now), true
		}
	}
	for _, o := range out {
		if w := p.engine.byPort[o.port]; w != nil && w.verdict == Silent && !w.Echo && !slices.Contains(ask, w.Remote) {
			ask = append(ask, w.Remote)
		}
	}
	return ask
}

// askHosts sends echo requests to hosts.
func (p *Part) askHosts(hosts []netip.Addr) {
	payload := binary.BigEndian.AppendUint64(nil, p.engine.life) // it never changes
	payload = append(payload, 0, 0, 0, 0, askingHost)
	for _, a := range hosts {
		if err := p.echo.Send(a, payload); err != nil {
			p.log.Debugf("echo request to %s: %v", a, err)
		}
	}
}

// hostReplied notes the reply of a silent host. It needs p.mu.
func (p *Part) hostReplied(from netip.Addr, payload []byte, now time.Time) {
	h := p.hosts[from]
	if h == nil || len(payload) < echoSize || binary.BigEndian.Uint64(payload) != p.engine.life {
		return
	}
	if h.answeredAt = now; !h.said {
		p.turn.Wake()
	}
}

// echoPause is how long after a failure the sockets are opened again.
const echoPause = time.Minute

// listenEchoes holds the sockets.
func (p *Part) listenEchoes(ctx context.Context) error {
	for ctx.Err() == nil {
		err := p.echo.Run(ctx, p.echoed)
		if ctx.Err() != nil {
			return nil
		}
		p.log.Warnf("paths without encapsulation are not probed: %v", err)
		if !part.Sleep(ctx, echoPause) {
			return nil
		}
	}
	return nil
}
