package pipeline

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/baize-net/baize/ovs"
)

// Format writes a state for people: bridge and ports in the manner of
// ovs-vsctl show, flows in that of ovs-ofctl dump-flows under the names of
// their tables. Equal states give equal text.
func Format(w io.Writer, s ovs.State) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Bridge %s\n", s.Bridge.Name)
	fmt.Fprintf(&b, "    datapath_type: %s, fail_mode: %s, protocols: %s\n",
		s.Bridge.Datapath, s.Bridge.FailMode, strings.Join(s.Bridge.Protocols, " "))
	formatMap(&b, "    other_config", s.Bridge.OtherConfig)
	formatMap(&b, "    external_ids", s.Bridge.ExternalIDs)
	for _, p := range s.Ports {
		fmt.Fprintf(&b, "    Port %s", p.Name)
		if p.Type != "" {
			fmt.Fprintf(&b, " (%s)", p.Type)
		}
		b.WriteByte('\n')
		formatMap(&b, "        options", p.Options)
		formatMap(&b, "        external_ids", p.ExternalIDs)
	}
	for _, m := range s.Meters {
		of := "of the node"
		if m.Port != "" {
			of = "of port " + m.Port
		}
		fmt.Fprintf(&b, "    Meter %s: %d frames a second\n", of, m.Rate)
	}
	formatSampling(&b, s)
	table := -1
	for _, f := range s.Flows {
		if f.Table != table {
			table = f.Table
			fmt.Fprintf(&b, "\nTable %d %s\n", table, TableName(table))
		}
		fmt.Fprintf(&b, "    %s\n", FormatFlow(f))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func formatSampling(b *strings.Builder, s ovs.State) {
	for _, c := range s.Collectors {
		fmt.Fprintf(b, "    Collector set %d: IPFIX to %s, records of %d s\n", c.ID, strings.Join(c.Targets, " "), c.Timeout)
	}
	if s.SFlow != nil {
		fmt.Fprintf(b, "    sFlow: 1 of %d packets to %s\n", s.SFlow.Sampling, strings.Join(s.SFlow.Targets, " "))
	}
}

// FormatFlow writes one flow as ovs-ofctl does: priority and match, then
// actions.
func FormatFlow(f ovs.Flow) string {
	match := f.Match
	if match != "" {
		match = "," + match
	}
	return fmt.Sprintf("priority=%d%s actions=%s", f.Priority, match, f.Actions)
}

func formatMap(b *strings.Builder, name string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	fmt.Fprintf(b, "%s:", name)
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(b, " %s=%s", k, m[k])
	}
	b.WriteByte('\n')
}
