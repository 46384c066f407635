package topology

import (
	"net/netip"
	"regexp"
	"strings"
)

// Claim asks for an address that its node does not lease, before it is pinned:
// key claims/<network>/<address>. It is held under an etcd lease, so that it goes
// when its writer dies. One key is one address, so of two nodes that want it one
// is first.
type Claim struct {
	Network string     `json:"-"`
	Addr    netip.Addr `json:"-"`
	// Node is who wants the address, ID the installation behind the name.
	Node string `json:"node"`
	ID   string `json:"id"`
	// Endpoint is what it is for, for messages.
	Endpoint string `json:"endpoint,omitempty"`
	// Owner is the node that leases the address's subnet, and has to answer; none
	// where nobody leases it.
	Owner string `json:"owner,omitempty"`
	// Answer is the owner's, or ClaimAbsent; none yet where it is empty.
	Answer ClaimAnswer `json:"answer,omitempty"`
	// Holder is what has the address on the owner, where it refuses.
	Holder string `json:"holder,omitempty"`

	Extra Extra `json:"-"`
	Meta  `json:"-"`
}

// ClaimAnswer is what became of a claim.
type ClaimAnswer string

// The answers.
const (
	// ClaimAgreed: the owner keeps the address out of its own allocation as long as
	// the claim, or a pin, is there. Where nobody leases the subnet, nobody is asked.
	ClaimAgreed ClaimAnswer = "agreed"
	// ClaimRefused: the owner has the address in use.
	ClaimRefused ClaimAnswer = "refused"
	// ClaimAbsent: the owner's agent does not run, and cannot be asked.
	ClaimAbsent ClaimAnswer = "absent"
)

// Granted reports whether the address may be pinned.
func (c Claim) Granted() bool { return c.Answer == ClaimAgreed || c.Answer == ClaimAbsent }

// Home returns the subnet that an address is in and that a node leases, or has
// reserved; ok is false where there is none. Of those that contradict each other it
// is the older one.
func (s *Snapshot) Home(network string, a netip.Addr) (home Subnet, ok bool) {
	for id, sub := range s.Subnets {
		if id.Network != network || sub.Node == "" || !id.Prefix.Contains(a) {
			continue
		}
		if !ok || sub.CreateRevision < home.CreateRevision {
			home, ok = sub, true
		}
	}
	return home, ok
}

// DescribeEndpoint says in words what has an address: the endpoint, and what its container
// is called, as far as both are known.
func DescribeEndpoint(endpoint string, names []string) string {
	var out []string
	if endpoint != "" {
		out = append(out, "endpoint "+endpoint)
	}
	var called []string
	for _, n := range names {
		// Not the names with their network's, and not the container's ID.
		if !strings.Contains(n, ".") && !shortID.MatchString(n) {
			called = append(called, n)
		}
	}
	if len(called) > 0 {
		out = append(out, "container "+strings.Join(called, ", also "))
	}
	return strings.Join(out, ", ")
}

// shortID is a container's ID as its engine shows it.
var shortID = regexp.MustCompile(`^[0-9a-f]{12}$`)
