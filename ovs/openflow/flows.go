package openflow

import (
	"context"
	"strconv"
	"strings"

	"github.com/baize-net/baize/ovs"
)

// defaultPriority is that of a flow that was given none (OpenFlow 1.4, section
// 7.3.4.2; ovs-ofctl does not print it).
const defaultPriority = 32768

// Installed is a flow that the bridge has, whoever made it.
type Installed struct {
	// Flow is the flow in the words of ovs-ofctl(8), which may differ from those
	// that it was made with; ports are numbers.
	ovs.BoundFlow
	// Packets and Bytes are its counters.
	Packets, Bytes uint64
	// Line is what ovs-ofctl prints.
	Line string
}

// Flows reads all flows of the bridge, those of others as well.
func (c *Client) Flows(ctx context.Context) ([]Installed, error) {
	out, err := c.ofctl(ctx, nil, "--no-names", "dump-flows", c.target())
	if err != nil {
		return nil, err
	}
	var flows []Installed
	for line := range strings.Lines(out) {
		if f, ok := ParseFlow(line); ok {
			flows = append(flows, f)
		}
	}
	return flows, nil
}

// ParseFlow reads a line of 'ovs-ofctl dump-flows'. Its counters may be left out,
// and so may all before the table. It is false where the line is no flow.
func ParseFlow(line string) (Installed, bool) {
	line = strings.TrimSpace(line)
	before, actions, ok := strings.Cut(line, "actions=")
	if !ok || actions == "" {
		return Installed{}, false
	}
	f := Installed{Line: line}
	f.Priority, f.Actions = defaultPriority, actions
	var stats FlowStats
	var match []string
	for word := range strings.FieldsSeq(strings.ReplaceAll(before, ",", " ")) {
		key, value, _ := strings.Cut(word, "=")
		n, err := strconv.ParseUint(value, 0, 64)
		switch {
		case ignored[key]:
		case err == nil && stats.take(key, n):
		case err == nil && key == "priority":
			f.Priority = int(n)
		default:
			match = append(match, word)
		}
	}
	f.Cookie, f.Table, f.Packets, f.Bytes = stats.Cookie, stats.Table, stats.Packets, stats.Bytes
	f.Match = strings.Join(match, ",")
	return f, true
}

// ignored are words of a flow that neither match nor count.
var ignored = map[string]bool{
	"duration": true, "idle_age": true, "hard_age": true, "idle_timeout": true, "hard_timeout": true, "importance": true,
	"send_flow_rem": true, "check_overlap": true, "reset_counts": true, "no_packet_counts": true, "no_byte_counts": true,
}
