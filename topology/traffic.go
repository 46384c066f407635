package topology

import (
	"fmt"
	"slices"
	"strings"
)

// Traffic is a kind of frame that tells others where the network leads, or runs a
// bridge. Usually only infrastructure sends it: an endpoint may where its network or
// the endpoint itself is allowed the kind. The rest is dropped at the sender's node.
type Traffic string

// The kinds.
const (
	// RouterAdvertisement: ICMPv6 type 134 (RFC 4861, RFC 6105), ICMP type 9 (RFC 1256).
	RouterAdvertisement Traffic = "ra"
	// Redirect: ICMPv6 type 137 (RFC 4861), ICMP type 5 (RFC 792).
	Redirect Traffic = "redirect"
	// DHCPServer: what DHCP servers and relays send to clients, UDP to port 68
	// (RFC 2131) or 546 (RFC 8415).
	DHCPServer Traffic = "dhcp-server"
	// BPDU: frames to the groups that bridges keep for themselves,
	// 01:80:c2:00:00:00 to 0f (IEEE 802.1Q, table 8-1): STP, LLDP, PAUSE.
	BPDU Traffic = "bpdu"
	// VLAN: frames with an 802.1Q or 802.1ad tag.
	VLAN Traffic = "vlan"
)

// Traffics returns all kinds, in the order in which they are listed.
func Traffics() []Traffic { return []Traffic{RouterAdvertisement, Redirect, DHCPServer, BPDU, VLAN} }

// SortTraffic brings kinds into the order of Traffics, each once. Kinds that this
// version does not know come last.
func SortTraffic(list []Traffic) []Traffic {
	place := func(t Traffic) int {
		if i := slices.Index(Traffics(), t); i >= 0 {
			return i
		}
		return len(Traffics())
	}
	slices.SortFunc(list, func(a, b Traffic) int {
		if d := place(a) - place(b); d != 0 {
			return d
		}
		return strings.Compare(string(a), string(b))
	})
	return slices.Compact(list)
}

// ParseTraffic reads kinds: "ra", "dhcp-server". It returns them sorted, each once.
// item names in messages where the text is from. Errors are *Error of kind
// ErrInvalid.
func ParseTraffic(item string, texts []string) ([]Traffic, error) {
	var out []Traffic
	for _, s := range texts {
		t := Traffic(strings.TrimSpace(s))
		if !slices.Contains(Traffics(), t) {
			return nil, &Error{
				Kind: ErrInvalid, Item: item, What: fmt.Sprintf("%q is no kind of traffic", s),
				Remedy: fmt.Sprintf("use some of %v", Traffics()),
			}
		}
		out = append(out, t)
	}
	return SortTraffic(out), nil
}
