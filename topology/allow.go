package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Allowance is what an endpoint may send beside what every endpoint may.
type Allowance struct {
	// Prefixes are those that it may send from beside its own addresses, as
	// ParseAllowed returns them.
	Prefixes []netip.Prefix
	// Traffic are the kinds that otherwise only infrastructure sends, as
	// ParseTraffic returns them.
	Traffic []Traffic
}

// ParseAllowance reads prefixes and kinds of traffic from one list, such as
// "0.0.0.0/0", "ra", "redirect". item names in messages where the text is from. Errors
// are *Error of kind ErrInvalid.
func ParseAllowance(item string, texts []string) (a Allowance, err error) {
	var prefixes []string
	for _, s := range texts {
		kind := Traffic(strings.TrimSpace(s))
		switch {
		case kind == "" || strings.ContainsAny(string(kind), ".:/"): // every prefix has one of these
			prefixes = append(prefixes, s)
		case slices.Contains(Traffics(), kind):
			a.Traffic = append(a.Traffic, kind)
		default:
			return Allowance{}, &Error{
				Kind: ErrInvalid, Item: item, What: fmt.Sprintf("%q is neither a prefix nor a kind of traffic", kind),
				Remedy: fmt.Sprintf("write prefixes like 10.2.0.0/16, fd00:2::/64 or 10.1.5.9, kinds like %v", Traffics()),
			}
		}
	}
	a.Traffic = SortTraffic(a.Traffic)
	if a.Prefixes, err = ParseAllowed(item, prefixes); err != nil {
		return Allowance{}, err
	}
	return a, nil
}

// ParseAllowed reads the prefixes that an endpoint may send from beside its own
// addresses: "10.2.0.0/16", "fd00:2::/64", "0.0.0.0/0" of a router, or a single
// address without a length. It returns them sorted, each once. item names in
// messages where the text is from. Errors are *Error of kind ErrInvalid.
func ParseAllowed(item string, texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range texts {
		p, err := parseAllowed(item, strings.TrimSpace(s))
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return SortAllowed(out), nil
}

// SortAllowed sorts prefixes, and leaves out those that are there twice.
func SortAllowed(list []netip.Prefix) []netip.Prefix {
	slices.SortFunc(list, netip.Prefix.Compare)
	return slices.Compact(list)
}

func parseAllowed(item, s string) (netip.Prefix, error) {
	bad := func(remedy, what string, args ...any) (netip.Prefix, error) {
		return netip.Prefix{}, &Error{Kind: ErrInvalid, Item: item, What: fmt.Sprintf(what, args...), Remedy: remedy}
	}
	p, err := netip.ParsePrefix(s)
	if a, aerr := netip.ParseAddr(s); aerr == nil && a.Zone() == "" {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case err != nil:
		return bad("write it like 10.2.0.0/16, fd00:2::/64 or 10.1.5.9; 0.0.0.0/0 and ::/0 are for routers",
			"%q is not a prefix", s)
	case p.Addr().Is4In6():
		return bad("write the IPv4 prefix itself", "%s is an IPv4 prefix within IPv6", p)
	case p != p.Masked():
		return bad("write "+p.Masked().String(), "%s has bits set beyond its length", p)
	case p.Addr().IsMulticast():
		return bad("", "nobody sends from a multicast address, such as those of %s", p)
	}
	return p, nil
}
