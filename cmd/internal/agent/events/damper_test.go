package events

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/cmd/internal/event"
)

func TestDamper(t *testing.T) {
	d := damper{}
	e := event.Event{Kind: event.FaultFound, Subject: "port a", Text: "dead"}
	other := event.Event{Kind: event.FaultFound, Subject: "port b", Text: "dead"}
	written := 0
	for i := range 100 {
		written += len(d.choose([]event.Event{e}, at.Add(time.Duration(i)*100*time.Millisecond)))
	}
	assert.Equal(t, dampAfter, written)
	assert.Equal(t, []event.Event{other}, d.choose([]event.Event{other}, at.Add(30*time.Second)), "another subject")
	assert.Empty(t, d.due(at.Add(59*time.Second)))
	more := e
	more.Text = "dead; it happened 80 times more within 1m0s"
	again := damper{}
	for range 100 {
		again.choose([]event.Event{e}, at)
	}
	assert.Equal(t, []event.Event{more, e}, again.choose([]event.Event{e}, at.Add(time.Minute)), "one more of the same")
	assert.Equal(t, []event.Event{more}, d.due(at.Add(time.Minute)))
	assert.Empty(t, d.due(at.Add(2*time.Minute)), "few of the other")
	assert.Empty(t, d, "what is over is forgotten")
}
