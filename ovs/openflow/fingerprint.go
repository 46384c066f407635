package openflow

import (
	"context"
	"encoding/binary"
	"hash/maphash"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Fingerprint stands for all that the flow tables of a bridge have, counters and ages
// aside, the flows of others included: where two of one process are equal, the tables
// were. It costs a tenth of what an Audit does,
// and of the caller's own time far less.
type Fingerprint struct {
	Flows int
	// Sum is that of the flows' hashes: their order does not matter.
	Sum uint64
}

// printed hashes flows. Only within a process do hashes compare.
var printed = maphash.MakeSeed()

const (
	multipartFlow = 1
	// Of ofp_flow_stats: where the age begins and ends, where the counters do, which
	// end the fixed part.
	flowAge, flowAgeEnd           = 4, 12
	flowCounters, flowCountersEnd = 32, 48
)

// Fingerprint reads all flows, without a process and without looking into them.
func (c *Client) Fingerprint(ctx context.Context) (Fingerprint, error) {
	// ofp_flow_stats_request (section 7.3.5.2): of all tables, to any port and any
	// group, of any cookie and match.
	request := []byte{0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}
	request = append(request, make([]byte, 16)...)
	request = append(request, 0, 1, 0, 4, 0, 0, 0, 0)
	var f Fingerprint
	err := c.multipart(ctx, multipartFlow, request, c.dumpRefusal, f.add)
	return f, err
}

// add takes a flow of an answer, and returns its size; 0 where it is none.
func (f *Fingerprint) add(b []byte) int {
	if len(b) < flowCountersEnd {
		return 0
	}
	size := int(binary.BigEndian.Uint16(b))
	if size < flowCountersEnd || size > len(b) {
		return 0
	}
	clear(b[flowAge:flowAgeEnd])
	clear(b[flowCounters:flowCountersEnd])
	f.Flows++
	f.Sum += maphash.Bytes(printed, b[:size])
	return size
}

func (c *Client) dumpRefusal(what string) error {
	return &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.SwitchUnavailable, Item: "bridge " + c.cfg.Bridge,
		What: "its flows cannot be read: " + what, Remedy: "systemctl status openvswitch-switch",
	}
}
