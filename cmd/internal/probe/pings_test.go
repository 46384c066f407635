package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const every = 10 * time.Millisecond

// network is one in memory, and a host that answers.
type network struct {
	net.PacketConn
	t *testing.T
	// answer gives the delay of every answer to a request; it is lost where
	// there is none.
	answer func(number int) []time.Duration
	refuse map[int]error // writes that fail
	in     chan []byte
	closed chan struct{}
	close  func() error
}

func newNetwork(t *testing.T, answer func(number int) []time.Duration) *network {
	n := &network{t: t, answer: answer, in: make(chan []byte, 1000), closed: make(chan struct{})}
	n.close = sync.OnceValue(func() error { close(n.closed); return nil })
	return n
}

func (n *network) SetWriteDeadline(time.Time) error { return nil }
func (n *network) Close() error                     { return n.close() }

func (n *network) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case m := <-n.in:
		if m == nil {
			return 0, nil, errors.New("the interface is gone")
		}
		return copy(b, m), nil, nil
	case <-n.closed:
		return 0, nil, net.ErrClosed
	}
}

func (n *network) WriteTo(b []byte, to net.Addr) (int, error) {
	protocol, reply := protocolICMP, icmp.Type(ipv4.ICMPTypeEchoReply)
	if to.(*net.IPAddr).IP.To4() == nil {
		protocol, reply = protocolICMPv6, ipv6.ICMPTypeEchoReply
	}
	m, err := icmp.ParseMessage(protocol, b)
	require.NoError(n.t, err)
	number := int(binary.BigEndian.Uint64(m.Body.(*icmp.Echo).Data[tokenLen:]))
	if err := n.refuse[number]; err != nil {
		return 0, err
	}
	n.in <- b // a raw socket sees requests as well
	m.Type = reply
	b, err = m.Marshal(nil)
	require.NoError(n.t, err)
	for _, delay := range n.answer(number) {
		time.AfterFunc(delay, func() { n.in <- b })
	}
	return len(b), nil
}

var targets = []netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd00::2")}

// The last requests have no answer yet when the end is asked for.
func TestPingsWaitForAnswersThatAreOnTheirWay(t *testing.T) {
	for _, to := range targets {
		synctest.Test(t, func(t *testing.T) {
			p := StartPings(newNetwork(t, func(number int) []time.Duration {
				if number > 50 { // as by a detour
					return []time.Duration{time.Second}
				}
				return []time.Duration{time.Millisecond}
			}), to, every)
			time.Sleep(60*every - every/2)
			e, err := p.End()
			require.NoError(t, err)
			assert.Equal(t, 60, e.Sent)
			assert.Equal(t, 60, e.Received)
			assert.Empty(t, e.Missing)
			assert.Equal(t, time.Second, e.Slowest())
			assert.Equal(t, time.Millisecond, e.Median())
		})
	}
}

// What is lost is missing, to the very last one; that another answer comes twice
// does not make up for it, nor does the wait for it last for ever.
func TestPingsReportWhatIsLost(t *testing.T) {
	for _, to := range targets {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t, func(number int) []time.Duration {
				switch number {
				case 3, 4, 5, 9, 19, 20:
					return nil
				case 7, 8:
					return []time.Duration{time.Millisecond, 2 * time.Millisecond}
				}
				return []time.Duration{time.Millisecond}
			})
			n.refuse = map[int]error{12: errors.New("no route to host")}
			p := StartPings(n, to, every)
			time.Sleep(20*every - every/2)
			begin := time.Now()
			e, err := p.End()
			require.NoError(t, err)
			assert.Equal(t, outstanding, time.Since(begin)+every/2)
			assert.Equal(t, 20, e.Sent)
			assert.Equal(t, 13, e.Received)
			assert.Len(t, e.RTTs, 13)
			assert.Equal(t, []int{3, 4, 5, 9, 12, 19, 20}, e.Missing)
			assert.Equal(t, 3, e.Row())
			assert.ErrorContains(t, e.Unsent, "number 12: no route to host")

			again, err := p.End()
			require.NoError(t, err)
			assert.Equal(t, e, again)
		})
	}
}

// Where everything young is answered, an old loss is not waited for.
func TestPingsEndAtOnceWhereNothingIsOutstanding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := StartPings(newNetwork(t, func(number int) []time.Duration {
			if number == 1 {
				return nil
			}
			return []time.Duration{0}
		}), targets[0], every)
		time.Sleep(outstanding + every/2)
		begin := time.Now()
		e, err := p.End()
		require.NoError(t, err)
		assert.Zero(t, time.Since(begin))
		assert.Equal(t, []int{1}, e.Missing)
	})
}

// Another sender's answers, and what is no answer at all, stand for nothing.
func TestPingsKnowTheirAnswers(t *testing.T) {
	for _, to := range targets {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t, func(number int) []time.Duration {
				if number == 2 {
					return nil
				}
				return []time.Duration{time.Millisecond}
			})
			p := StartPings(n, to, every)
			time.Sleep(2*every - every/2)
			reply := icmp.Type(ipv4.ICMPTypeEchoReply)
			if to.Is6() {
				reply = ipv6.ICMPTypeEchoReply
			}
			stray := func(r request, number uint64, size int) {
				data := binary.BigEndian.AppendUint64(r.token[:], number)
				m := icmp.Message{Type: reply, Body: &icmp.Echo{ID: r.id, Seq: 2, Data: data[:size]}}
				b, err := m.Marshal(nil)
				require.NoError(t, err)
				n.in <- b
			}
			mine, other, sameID := p.request, p.request, newRequest(to)
			other.id ^= 1
			sameID.id = mine.id
			stray(other, 2, numberedLen)
			stray(sameID, 2, numberedLen)
			stray(mine, 2, numberedLen-1)
			stray(mine, 0, numberedLen)
			stray(mine, 1000, numberedLen)
			stray(mine, 1<<63, numberedLen)
			n.in <- []byte{}
			n.in <- []byte("no ICMP message")
			time.Sleep(3 * every)
			e, err := p.End()
			require.NoError(t, err)
			assert.Equal(t, []int{2}, e.Missing)
			assert.Equal(t, 4, e.Received)
		})
	}
}

func TestPingsAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := StartPings(newNetwork(t, func(number int) []time.Duration {
			if number > 30 {
				return nil
			}
			return []time.Duration{3*every - every/2}
		}), targets[0], every)
		synctest.Wait() // the first is sent
		require.NoError(t, p.Await(t.Context(), 10))
		assert.Equal(t, 13, p.Sent())
		// Two are on their way: they do not count.
		require.NoError(t, p.Await(t.Context(), 10))
		assert.Equal(t, 25, p.Sent())

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := p.Await(ctx, 10)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, "5 of 10 answers to pings from 10.1.0.2")
		_, err = p.End()
		require.NoError(t, err)
	})
}

func TestPingsOverABrokenSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, func(int) []time.Duration { return []time.Duration{time.Millisecond} })
		p := StartPings(n, targets[0], every)
		require.NoError(t, p.Await(t.Context(), 1))
		n.in <- nil
		require.ErrorContains(t, p.Await(t.Context(), 100), "the interface is gone")
		_, err := p.End()
		require.ErrorContains(t, err, "the interface is gone")
	})
}

func TestRow(t *testing.T) {
	assert.Zero(t, Echoes{}.Row())
	assert.Equal(t, 1, Echoes{Missing: []int{1, 3, 5}}.Row())
	assert.Equal(t, 3, Echoes{Missing: []int{1, 2, 5, 6, 7}}.Row())
}
