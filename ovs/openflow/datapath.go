package openflow

import (
	"context"
	"strconv"
	"strings"
)

// Datapath are the counters of one datapath of ovs-vswitchd (ovs-appctl dpctl/show and
// upcall/show; ovs-vswitchd(8), "DPCTL DATAPATH DEBUGGING COMMANDS").
type Datapath struct {
	// Name is its type and name: "system@ovs-system".
	Name string
	// Hit and Missed are packets that a cached flow was there for, and those that were
	// sent to ovs-vswitchd as upcalls; Lost are upcalls that the datapath dropped. They
	// count from the datapath's beginning.
	Hit, Missed, Lost uint64
	// Flows are those in the cache now, FlowLimit how many ovs-vswitchd lets there be; 0:
	// it did not say.
	Flows, FlowLimit uint64
}

// Datapaths returns the counters of all datapaths.
func (c *Client) Datapaths(ctx context.Context) ([]Datapath, error) {
	show, err := c.appctl(ctx, "dpctl/show")
	if err != nil {
		return nil, err
	}
	upcalls, err := c.appctl(ctx, "upcall/show")
	if err != nil {
		return nil, err
	}
	return parseDatapaths(show, upcalls), nil
}

// parseDatapaths reads sections that begin with "system@ovs-system:".
func parseDatapaths(show, upcalls string) []Datapath {
	var out []Datapath
	find := func(name string) *Datapath {
		for i := range out {
			if out[i].Name == name {
				return &out[i]
			}
		}
		return nil
	}
	eachLine(show, func(section, line string) {
		d := find(section)
		if d == nil {
			out = append(out, Datapath{Name: section})
			d = &out[len(out)-1]
		}
		if counts, ok := strings.CutPrefix(line, "lookups: "); ok {
			for field := range strings.FieldsSeq(counts) {
				name, value, _ := strings.Cut(field, ":")
				n, _ := strconv.ParseUint(value, 10, 64)
				switch name {
				case "hit":
					d.Hit = n
				case "missed":
					d.Missed = n
				case "lost":
					d.Lost = n
				}
			}
		}
		if n, ok := strings.CutPrefix(line, "flows: "); ok {
			d.Flows, _ = strconv.ParseUint(n, 10, 64)
		}
	})
	eachLine(upcalls, func(section, line string) {
		d := find(section)
		if _, rest, ok := strings.Cut(line, "(limit "); ok && d != nil && strings.HasPrefix(line, "flows ") {
			limit, _, _ := strings.Cut(rest, ")")
			d.FlowLimit, _ = strconv.ParseUint(limit, 10, 64)
		}
	})
	return out
}

// eachLine calls f with the indented lines of each section.
func eachLine(text string, f func(section, line string)) {
	section := ""
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "":
		case line[0] != ' ' && line[0] != '\t':
			section = strings.TrimSuffix(trimmed, ":")
		case section != "":
			f(section, trimmed)
		}
	}
}
