package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// outstanding is for how long an answer is waited for after the last request:
// on a busy machine a packet that goes by way of ovs-vswitchd is late by far
// more than the interval, and late is not lost.
const outstanding = 5 * time.Second

// Pings are echo requests that are sent one every interval, whether or not the
// ones before are answered, until End. ping(8) cannot stand in where losses are
// counted: interrupted, it reports as lost what it has not yet read, and with
// -c it waits for the last answer no longer than twice the slowest one took.
type Pings struct {
	conn    net.PacketConn
	request request
	to      netip.Addr
	stop    chan struct{}
	sender  sync.WaitGroup
	reader  sync.WaitGroup
	end     func() (Echoes, error)

	mu      sync.Mutex
	sent    []sentEcho    // number 1 first
	changed chan struct{} // closed, and made anew, when an answer comes
	unsent  error         // of the last request that could not be sent
	err     error         // what ended the reader
}

type sentEcho struct {
	at       time.Time
	answered bool
	rtt      time.Duration
}

// StartPings begins to send over conn (of ListenICMP), which End closes.
func StartPings(conn net.PacketConn, to netip.Addr, interval time.Duration) *Pings {
	p := &Pings{conn: conn, to: to.Unmap(), stop: make(chan struct{}), changed: make(chan struct{})}
	p.request = newRequest(p.to)
	p.end = sync.OnceValues(p.finish)
	p.reader.Go(p.read)
	p.sender.Go(func() {
		ticks := time.NewTicker(interval)
		defer ticks.Stop()
		for {
			p.send()
			select {
			case <-p.stop:
				return
			case <-ticks.C:
			}
		}
	})
	return p
}

// send sends one. One that cannot be sent is lost like any other.
func (p *Pings) send() {
	p.mu.Lock()
	p.sent = append(p.sent, sentEcho{at: time.Now()})
	number := len(p.sent)
	p.mu.Unlock()
	err := p.conn.SetWriteDeadline(time.Now().Add(outstanding))
	if err == nil {
		err = p.request.write(p.conn, number)
	}
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.unsent = fmt.Errorf("number %d: %w", number, err)
	}
}

// read notes answers until conn is closed.
func (p *Pings) read() {
	buf := make([]byte, 2048)
	for {
		n, _, err := p.conn.ReadFrom(buf)
		now := time.Now()
		p.mu.Lock()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				p.err = fmt.Errorf("ping %s: %w", p.to, err)
			}
		} else if number, ok := p.request.answered(buf[:n]); ok && number <= len(p.sent) {
			if e := &p.sent[number-1]; !e.answered {
				e.answered, e.rtt = true, now.Sub(e.at)
			}
		}
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Sent is how many were sent so far.
func (p *Pings) Sent() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sent)
}

// Await waits until n that were sent after the call are answered.
func (p *Pings) Await(ctx context.Context, n int) error {
	since := p.Sent()
	for {
		p.mu.Lock()
		have, changed, err := 0, p.changed, errors.Join(p.err, p.unsent)
		for _, e := range p.sent[since:] {
			if e.answered {
				have++
			}
		}
		broken := p.err != nil
		p.mu.Unlock()
		if have >= n {
			return nil
		}
		if !broken {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				err = errors.Join(ctx.Err(), err)
			}
		}
		return fmt.Errorf("%d of %d answers to pings from %s came: %w", have, n, p.to, err)
	}
}

// End stops sending, waits until everything is answered, but no longer than
// five seconds from the last request, and returns what came of all. It may be
// called again.
func (p *Pings) End() (Echoes, error) { return p.end() }

func (p *Pings) finish() (Echoes, error) {
	close(p.stop)
	p.sender.Wait()
	p.awaitOutstanding()
	_ = p.conn.Close()
	p.reader.Wait()

	e := Echoes{To: p.to.String(), Sent: len(p.sent), Unsent: p.unsent}
	for i, s := range p.sent {
		if !s.answered {
			e.Missing = append(e.Missing, i+1)
			continue
		}
		e.Received++
		e.RTTs = append(e.RTTs, s.rtt)
	}
	slices.Sort(e.RTTs)
	return e, p.err
}

// awaitOutstanding waits for the answers to what was sent so short a time ago
// that they may still come.
func (p *Pings) awaitOutstanding() {
	for {
		p.mu.Lock()
		var left time.Duration
		for _, e := range slices.Backward(p.sent) {
			if !e.answered {
				left = time.Until(e.at.Add(outstanding))
				break
			}
		}
		changed, broken := p.changed, p.err != nil
		p.mu.Unlock()
		if left <= 0 || broken {
			return
		}
		select {
		case <-changed:
		case <-time.After(left):
		}
	}
}
