// Package proof shows that a domain works: it sends pings and bulk TCP between
// every two endpoints of different hosts in one network, both ways and for every
// address, and says which paths do not work. It needs only the paths of the
// endpoints' network namespaces, and so proves any domain, whoever made it.
package proof

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/topology"
)

// Path is what was measured from one endpoint to an address of another.
type Path struct {
	From    string     `json:"from"` // "host1/c1"
	To      string     `json:"to"`
	Network string     `json:"network"`
	Addr    netip.Addr `json:"addr"` // of To
	// RTT is the median round trip of some pings.
	RTT time.Duration `json:"rttNanoseconds"`
	// Bytes arrived by TCP, unharmed by their SHA-256, at BitsPerSecond.
	Bytes         int64   `json:"bytes"`
	BitsPerSecond float64 `json:"bitsPerSecond"`
	// Error says what failed; empty where all is well.
	Error string `json:"error,omitempty"`
}

// Proof is what Prove found.
type Proof struct {
	// Endpoints are those that took part, Paths those between endpoints of
	// different hosts in the same network, both ways and for each address.
	Endpoints []Endpoint    `json:"endpoints"`
	Paths     []Path        `json:"paths"`
	Elapsed   time.Duration `json:"elapsedNanoseconds"`
}

// Failed returns the paths that do not work.
func (p *Proof) Failed() []Path {
	return slices.DeleteFunc(slices.Clone(p.Paths), func(x Path) bool { return x.Error == "" })
}

// MedianRTT returns the median of the paths' round trips; 0 without paths.
func (p *Proof) MedianRTT() time.Duration {
	var all []time.Duration
	for _, x := range p.Paths {
		if x.Error == "" {
			all = append(all, x.RTT)
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// Err names the first paths of a lab that do not work; nil where all do.
func (p *Proof) Err(lab string) error {
	failed := p.Failed()
	if len(failed) == 0 {
		return nil
	}
	var lines []string
	for _, f := range failed[:min(len(failed), 5)] {
		lines = append(lines, fmt.Sprintf("%s to %s (%s): %s", f.From, f.To, f.Addr, f.Error))
	}
	return &topology.Error{
		Kind: topology.ErrUnavailable, Item: "lab " + lab,
		What:   fmt.Sprintf("%d of %d paths do not work:\n  %s", len(failed), len(p.Paths), strings.Join(lines, "\n  ")),
		Remedy: "look at 'baize lab exec HOST -- baize status'",
	}
}
