package mesh

import (
	"net/netip"
	"time"

	"github.com/baize-net/baize/topology"
)

// Verdict is how the way to a peer is.
type Verdict uint8

// The verdicts. Their numbers are sent to other nodes: none is ever given another
// meaning.
const (
	// Unknown: nothing has been counted yet.
	Unknown Verdict = 0
	// Good: frames of all sizes arrive in both directions.
	Good Verdict = 1
	// Silent: nothing arrives from the peer.
	Silent Verdict = 2
	// Deaf: what is sent to the peer does not arrive, though its own frames do here.
	Deaf Verdict = 3
	// Lossy: a part of the frames is lost.
	Lossy Verdict = 4
	// Narrow: small frames pass, those of the size that networks need do not.
	Narrow Verdict = 5
	// Slow: even the fastest answers take long.
	Slow Verdict = 6
	// Unasked: the peer does not answer probes: its agent is of an older version, or
	// probes are turned off there.
	Unasked Verdict = 7
	// Down: the peer's agent does not run, so nobody answers. Its tunnel may work.
	Down Verdict = 8
	// Misled: out of the peer's tunnel come frames of another node.
	Misled Verdict = 9

	verdictLast = Misled
)

// Wrong reports whether something is wrong.
func (v Verdict) Wrong() bool {
	return v == Silent || v == Deaf || v == Lossy || v == Narrow || v == Slow || v == Misled
}

// Key is the way to a peer that is probed: one for each encapsulation.
type Key struct {
	Node  string
	Encap topology.Transport
}

// Result is what is known of the way to a peer. It is immutable.
type Result struct {
	Key
	// Local and Remote are the ends of the tunnel in the underlay.
	Local, Remote netip.Addr
	Verdict       Verdict
	// Since is when the verdict became what it is.
	Since time.Time
	// LossOut and LossIn are the percentages of small frames that were lost on the way
	// there and on the way here; negative: not known.
	LossOut, LossIn int
	// RTT is the median of the last answers' times, RTTMax the longest; 0: not known.
	RTT, RTTMax time.Duration
	// Passes is the largest IP packet of an endpoint that was proven to pass, in
	// bytes; 0: not known. Needed is the largest MTU of the networks on this way, of
	// which Network is one.
	Passes, Needed int
	Network        string
	// HostAnswers, of a silent tunnel, says that the host answers echo requests.
	HostAnswers bool
	// Detail is what was seen when the verdict was passed, for people.
	Detail string
}
