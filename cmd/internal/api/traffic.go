package api

import (
	"encoding/json"
	"slices"

	"github.com/baize-net/baize/topology"
)

// TrafficKind is the kind of the question that asks a node for its Traffic.
const TrafficKind = "traffic"

// Traffic is what a node counts of its links to other nodes, and knows of them. Its names
// are short: many nodes answer, again and again.
type Traffic struct {
	// At is when it was counted: the agent's uptime, since clocks jump.
	At Duration `json:"at"`
	// Ready: the node forwards what it has to. Endpoints counts those of the node, Errors
	// its faults of that severity.
	Ready     bool   `json:"ready"`
	Endpoints int    `json:"endpoints"`
	Errors    int    `json:"errors,omitempty"`
	Links     []Link `json:"links,omitempty"`
	// Left is how many links had no room; nothing is wrong with them, and they count
	// least.
	Left int `json:"left,omitempty"`
}

// Link is a tunnel to another node, or the routed way there.
type Link struct {
	Node  string             `json:"n"`
	Encap topology.Transport `json:"e"`
	// State is that of Probed.
	State   string   `json:"s,omitempty"`
	LossOut *int     `json:"lo,omitempty"`
	LossIn  *int     `json:"li,omitempty"`
	RTT     Duration `json:"r,omitempty"`
	// Down: Open vSwitch cannot forward through it.
	Down bool `json:"d,omitempty"`
	// Counted are the counters, since whenever; null where nobody counts.
	Counted *LinkCounters `json:"c,omitempty"`
}

// LinkCounters count frames with their headers, seen from the node.
type LinkCounters struct {
	SentBytes       uint64 `json:"sb"`
	SentPackets     uint64 `json:"sp"`
	ReceivedBytes   uint64 `json:"rb"`
	ReceivedPackets uint64 `json:"rp"`
}

func (c *LinkCounters) packets() uint64 {
	if c == nil {
		return 0
	}
	return c.SentPackets + c.ReceivedPackets
}

// Fit leaves out links until the JSON form has no more than size bytes: first those that
// count least and with which nothing is wrong.
func (t *Traffic) Fit(size int) {
	fits := func() bool {
		b, err := json.Marshal(t)
		return err != nil || len(b) <= size
	}
	if fits() {
		return
	}
	wrong := func(l Link) int {
		if l.Down || l.State != StateOK && !slices.Contains(StatesUnknown(), l.State) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(t.Links, func(a, b Link) int {
		if wrong(a) != wrong(b) {
			return wrong(a) - wrong(b)
		}
		switch x, y := a.Counted.packets(), b.Counted.packets(); {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return 0
	})
	for len(t.Links) > 0 && !fits() {
		n := max(1, len(t.Links)/10)
		t.Links, t.Left = t.Links[:len(t.Links)-n], t.Left+n
	}
}
