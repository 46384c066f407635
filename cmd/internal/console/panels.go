package console

import (
	"context"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Latency is the matrix of round trips between hosts, row by row: from Hosts[i] to
// Hosts[j]. A negative number means that the pair was not measured.
type Latency struct {
	Hosts []string `json:"hosts"`
	// RTT is in milliseconds, the median; Loss a ratio from 0 to 1.
	RTT  [][]float64 `json:"rtt"`
	Loss [][]float64 `json:"loss"`
	// At is when it was measured last.
	At time.Time `json:"at"`
}

// Rates are what goes through the links between hosts.
type Rates struct {
	At    time.Time  `json:"at"`
	Links []LinkRate `json:"links"`
}

// LinkRate is a link, A before B by name: bits a second from A to B, and back. A negative
// number is not known.
type LinkRate struct {
	A     string             `json:"a"`
	B     string             `json:"b"`
	Encap topology.Transport `json:"encap"`
	AB    float64            `json:"ab"`
	BA    float64            `json:"ba"`
}

// Outcome is how a check, or a step of a trace, ended.
type Outcome string

// The outcomes.
const (
	Passed  Outcome = "ok"
	Warned  Outcome = "warning"
	Failed  Outcome = "failed"
	NotSeen Outcome = "unchecked"
)

// Finding is one check and what came of it; one that passed is a finding, too.
type Finding struct {
	Outcome Outcome    `json:"outcome"`
	Code    fault.Code `json:"code,omitempty"`
	// Check is what was looked at ("switch", "mtu"), Item its subject.
	Check    string `json:"check"`
	Item     string `json:"item,omitempty"`
	Node     string `json:"node,omitempty"`
	What     string `json:"what"`
	Evidence string `json:"evidence,omitempty"`
	Remedy   string `json:"remedy,omitempty"`
}

// Event is something that happened.
type Event struct {
	At time.Time `json:"at"`
	// Severity is empty for what is no trouble.
	Severity fault.Severity `json:"severity,omitempty"`
	Code     fault.Code     `json:"code,omitempty"`
	Node     string         `json:"node,omitempty"`
	Network  string         `json:"network,omitempty"`
	Item     string         `json:"item,omitempty"`
	What     string         `json:"what"`
}

// TraceRequest asks what becomes of a packet. From is HOST/ENDPOINT or an address, To
// too; both are passed on as they were typed.
type TraceRequest struct {
	From, To string
	// Protocol is "icmp", "tcp" or "udp"; Port is 0 for icmp.
	Protocol string
	Port     int
}

// Tracer follows a packet. Errors for people are *topology.Error.
type Tracer interface {
	Trace(ctx context.Context, r TraceRequest) (Trace, error)
}

// Trace is the way of a packet.
type Trace struct {
	From   string `json:"from"`
	To     string `json:"to"`
	Packet string `json:"packet"` // in words: "tcp/443, 74 bytes"
	// Hops are the hosts it passed, in their order.
	Hops []TraceHop `json:"hops"`
	// Delivered says that it arrived; otherwise Verdict says where it ended.
	Delivered bool       `json:"delivered"`
	Verdict   string     `json:"verdict"`
	Code      fault.Code `json:"code,omitempty"`
	Remedy    string     `json:"remedy,omitempty"`
}

// TraceHop is one host on the way.
type TraceHop struct {
	Node  string      `json:"node"`
	Steps []TraceStep `json:"steps"`
	// Wire describes the way to the next hop: the tunnel, its ends, its VNI.
	Wire string `json:"wire,omitempty"`
}

// TraceStep is what one stage of a host's pipeline did.
type TraceStep struct {
	Stage    string  `json:"stage"`
	Outcome  Outcome `json:"outcome"`
	What     string  `json:"what"`
	Evidence string  `json:"evidence,omitempty"`
}
