package openflow

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/baize-net/baize/ovs"
)

// Observed are the flows of a bridge.
type Observed struct {
	// Flows are ours, in the order of the switch.
	Flows []FlowStats
	// Foreign are the flows of others, as ovs-ofctl prints them.
	Foreign []string
}

// FlowStats is one flow of ours with its counters.
type FlowStats struct {
	ovs.FlowID
	Packets, Bytes uint64
}

// IDs returns the identities of our flows, for ovs.DiffFlows.
func (o Observed) IDs() []ovs.FlowID {
	out := make([]ovs.FlowID, len(o.Flows))
	for i, f := range o.Flows {
		out[i] = f.FlowID
	}
	return out
}

// Observe reads table, cookie and counters of all flows.
func (c *Client) Observe(ctx context.Context) (Observed, error) {
	out, err := c.ofctl(ctx, nil, "--no-names", "dump-flows", c.target())
	if err != nil {
		return Observed{}, err
	}
	return parseDump(out), nil
}

func parseDump(out string) Observed {
	var o Observed
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "cookie=") {
			continue // the reply's heading
		}
		if f := parseStats(line); ovs.OwnCookie(f.Cookie) {
			o.Flows = append(o.Flows, f)
		} else {
			o.Foreign = append(o.Foreign, line)
		}
	}
	return o
}

// parseStats reads what stands before a flow's match:
// "cookie=0x1, duration=2.3s, table=0, n_packets=0, n_bytes=0, ".
func parseStats(line string) FlowStats {
	var f FlowStats
	for field := range strings.SplitSeq(line, ", ") {
		key, value, ok := strings.Cut(field, "=")
		if !ok || strings.ContainsAny(value, " ,") {
			break // the match or the actions
		}
		n, _ := strconv.ParseUint(value, 0, 64)
		if f.take(key, n); key == "n_bytes" {
			break // the last of them
		}
	}
	return f
}

// take takes a number that a flow begins with.
func (f *FlowStats) take(key string, n uint64) bool {
	switch key {
	case "cookie":
		f.Cookie = n
	case "table":
		f.Table = int(n)
	case "n_packets":
		f.Packets = n
	case "n_bytes":
		f.Bytes = n
	default:
		return false
	}
	return true
}

// Audit is the difference between flows as they should be and as they are, text
// by text.
type Audit struct {
	// Add and Del, given to Client.Apply, put everything right.
	Add []ovs.BoundFlow
	Del []ovs.FlowID
	// Lines say for people what differs: "-" is missing, "+" is there with our
	// cookie and should not be.
	Lines []string
}

// Audit compares the full texts of the wanted flows with the bridge's. It finds
// what Observe cannot: flows that were changed by hand and kept their cookie.
// Foreign flows are not part of it.
func (c *Client) Audit(ctx context.Context, wanted []ovs.BoundFlow) (Audit, error) {
	var in strings.Builder
	byID := make(map[ovs.FlowID]ovs.BoundFlow, len(wanted))
	for _, f := range wanted {
		in.WriteString(text(f))
		in.WriteByte('\n')
		byID[f.ID()] = f
	}
	out, err := c.ofctl(ctx, strings.NewReader(in.String()), "--no-names", "diff-flows", "/dev/stdin", c.target())
	var status *commandError
	if errors.As(err, &status) && status.exit.ExitCode() == 2 {
		err = nil // they differ
	}
	if err != nil {
		return Audit{}, err
	}
	return parseDiff(out, byID), nil
}

func parseDiff(out string, wanted map[ovs.FlowID]ovs.BoundFlow) Audit {
	var a Audit
	added, deleted := map[ovs.FlowID]bool{}, map[ovs.FlowID]bool{}
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] != '-' && line[0] != '+' {
			continue
		}
		id := parseDiffID(line[1:])
		if !ovs.OwnCookie(id.Cookie) {
			continue
		}
		a.Lines = append(a.Lines, line)
		if line[0] == '+' && !deleted[id] {
			deleted[id] = true
			a.Del = append(a.Del, id)
		}
		// Deleting by identity takes a wanted flow along.
		if f, ok := wanted[id]; ok && !added[id] {
			added[id] = true
			a.Add = append(a.Add, f)
		}
	}
	return a
}

// parseDiffID reads table and cookie from "table=1 priority=10,ip cookie=0x2
// actions=drop". Table 0 is not printed.
func parseDiffID(line string) ovs.FlowID {
	var id ovs.FlowID
	line, _, _ = strings.Cut(line, "actions=")
	for field := range strings.FieldsSeq(line) {
		if v, ok := strings.CutPrefix(field, "table="); ok {
			n, _ := strconv.ParseUint(strings.TrimRight(v, ","), 0, 8)
			id.Table = int(n)
		}
		if v, ok := strings.CutPrefix(field, "cookie="); ok {
			id.Cookie, _ = strconv.ParseUint(strings.TrimRight(v, ","), 0, 64)
		}
	}
	return id
}
