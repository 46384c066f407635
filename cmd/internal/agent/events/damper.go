package events

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/event"
)

const (
	// dampAfter is how many events of one kind and subject are written in dampFor; those
	// above it are counted. A fault that comes and goes all the time, or a program that
	// fights for a port, would else push everything out of the journal.
	dampAfter = 20
	dampFor   = time.Minute
)

type dampKey struct {
	kind    event.Kind
	subject string
}

type dampCount struct {
	began time.Time
	count int
	last  event.Event
}

// damper counts events. It is not safe for use by several goroutines at a time.
type damper map[dampKey]*dampCount

// choose returns those of events that are to be written at a moment, and what was counted
// of their kinds and subjects in the minutes before.
func (d damper) choose(events []event.Event, now time.Time) (out []event.Event) {
	for _, e := range events {
		k := dampKey{e.Kind, e.Subject}
		c := d[k]
		if c != nil && now.Sub(c.began) >= dampFor {
			out = c.more(out)
			c = nil
		}
		if c == nil {
			c = &dampCount{began: now}
			d[k] = c
		}
		if c.count++; c.count <= dampAfter {
			out = append(out, e)
		}
		c.last = e
	}
	return out
}

// due returns what was counted, where its minute is over.
func (d damper) due(now time.Time) (out []event.Event) {
	for k, c := range d {
		if now.Sub(c.began) < dampFor {
			continue
		}
		delete(d, k)
		out = c.more(out)
	}
	slices.SortFunc(out, func(a, b event.Event) int {
		if c := a.Time.Compare(b.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Subject, b.Subject)
	})
	return out
}

// more appends what was counted and not written.
func (c *dampCount) more(out []event.Event) []event.Event {
	more := c.count - dampAfter
	if more <= 0 {
		return out
	}
	e := c.last
	e.Text = fmt.Sprintf("%s; it happened %d times more within %s", e.Text, more, dampFor)
	return append(out, e)
}
