package capture

import (
	"cmp"
	"slices"
	"time"
)

// mergeRoom is how many packets wait to be put in order.
const mergeRoom = 4096

// Merge takes packets of several points from in until that is closed, and hands them to
// take by time, soon after each was held for as long as hold. idle is called when nothing
// more is at hand. At the first error of take or idle, which it returns, it calls stop,
// and lets go what still comes.
func Merge(in <-chan Packet, hold time.Duration, take func(Packet) error, idle func() error, stop func()) error {
	m := merger{take: take, idle: idle}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var failed error
	for failed == nil {
		select {
		case p, more := <-in:
			if !more {
				return m.release(len(m.held))
			}
			first := len(m.held) == 0
			m.add(p, time.Now().Add(hold))
			if !first && len(m.held) <= mergeRoom {
				continue // the timer runs
			}
		case <-timer.C:
		}
		failed = m.release(m.due(time.Now()))
		if len(m.held) > 0 {
			timer.Reset(max(time.Until(m.held[0].until), time.Millisecond))
		}
	}
	stop()
	for range in { // who sends does not wait
	}
	return failed
}

type merger struct {
	held []held
	take func(Packet) error
	idle func() error
}

type held struct {
	Packet
	until time.Time
}

// add puts a packet behind those of the same time: those of one point are in order.
func (m *merger) add(p Packet, until time.Time) {
	i, _ := slices.BinarySearchFunc(m.held, p, func(h held, p Packet) int { return cmp.Or(h.Time.Compare(p.Time), -1) })
	m.held = slices.Insert(m.held, i, held{p, until})
}

// due is how many go now: those whose time is over, all that are before them, and those
// that there is no room for.
func (m *merger) due(now time.Time) int {
	n := max(0, len(m.held)-mergeRoom)
	for i := n; i < len(m.held); i++ {
		if !m.held[i].until.After(now) {
			n = i + 1
		}
	}
	return n
}

func (m *merger) release(n int) error {
	for _, h := range m.held[:n] {
		if err := m.take(h.Packet); err != nil {
			return err
		}
	}
	m.held = slices.Delete(m.held, 0, n)
	if n == 0 {
		return nil
	}
	return m.idle()
}
