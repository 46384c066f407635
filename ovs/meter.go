package ovs

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Meter bounds how many frames a second pass the flows that use it (OpenFlow 1.4
// section 5.8, ovs-ofctl(8) "Meter Table Commands"). As many may come at once as
// pass in a second. The rest is dropped, and counted by the switch.
type Meter struct {
	// Port is the local port that the meter is for; empty: all of the node.
	Port string
	// Rate is in frames a second.
	Rate int
}

// BoundMeter is a meter by its number.
type BoundMeter struct {
	ID   uint32
	Rate int
	// Other says, of an observed meter, that it is not such a meter at all.
	Other bool
}

// The numbers of Baize's meters are MeterBase and the OpenFlow number of the port,
// that of the node's own is NodeMeter. Meters have no room for a mark of their owner:
// all from MeterBase to NodeMeter are Baize's, all others are not.
const (
	MeterBase = 0x10000
	NodeMeter = 0x1ffff
)

// OwnMeter reports whether a meter with this number is one of Baize's.
func OwnMeter(id uint32) bool { return id >= MeterBase && id <= NodeMeter }

// meterBegin begins the text of the action that passes a frame through a meter.
const meterBegin = "meter:"

// NodeMeterAction passes a frame through the node's own meter.
const NodeMeterAction = meterBegin + "131071"

// MeterOf passes a frame through the meter of a local port.
func MeterOf(port string) string { return meterBegin + `"` + port + `"` }

// BindMeters returns the wanted meters of ports that are there, by number.
func (s State) BindMeters(ofports map[string]int) []BoundMeter {
	out := make([]BoundMeter, 0, len(s.Meters))
	for _, m := range s.Meters {
		if m.Port == "" {
			out = append(out, BoundMeter{ID: NodeMeter, Rate: m.Rate})
		} else if n, there := ofports[m.Port]; there {
			out = append(out, BoundMeter{ID: MeterBase + uint32(n), Rate: m.Rate})
		}
	}
	slices.SortFunc(out, func(a, b BoundMeter) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Unmetered returns the state as a switch without meters can have it: nothing is
// limited.
func (s State) Unmetered() State {
	flows := slices.Clone(s.Flows)
	for i := range flows {
		rest, metered := strings.CutPrefix(flows[i].Actions, meterBegin)
		if _, after, more := strings.Cut(rest, ","); metered && more {
			flows[i].Actions = after
		}
	}
	s.Flows, s.Meters = flows, nil
	return s
}

// DiffMeters returns the meters to add, those to change, and the numbers of those to
// delete once no flow needs them: deleting a meter deletes the flows that use it.
func DiffMeters(want, have []BoundMeter) (add, change []BoundMeter, stale []uint32) {
	there := make(map[uint32]BoundMeter, len(have))
	for _, m := range have {
		if OwnMeter(m.ID) {
			there[m.ID] = m
		}
	}
	for _, m := range want {
		old, found := there[m.ID]
		switch {
		case !found:
			add = append(add, m)
		case old != m:
			change = append(change, m)
		}
		delete(there, m.ID)
	}
	return add, change, slices.Sorted(maps.Keys(there))
}
