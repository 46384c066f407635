package topology

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Defaults returns the network with what the user left open filled in:
// subnets of /24 and /64 (or the nearest that leaves room), VXLAN, and the MTU that
// an underlay of DefaultUnderlayMTU leaves. The VNI stays as it is: only the store knows
// which are taken.
func (n Network) Defaults() Network {
	if n.Transport == "" {
		n.Transport = VXLAN
	}
	if n.IPv4.IsValid() && n.SubnetLenIPv4 == 0 {
		n.SubnetLenIPv4 = defaultSubnetLen(n.IPv4, 24, 28)
	}
	if n.IPv6.IsValid() && n.SubnetLenIPv6 == 0 {
		n.SubnetLenIPv6 = defaultSubnetLen(n.IPv6, 64, 120)
	}
	if n.MTU == 0 {
		n.MTU = MTU(n.Transport, IPv4, DefaultUnderlayMTU)
	}
	return n
}

// defaultSubnetLen prefers the usual length, and where the network is too
// small for that, sixteen subnets, but none longer than longest.
func defaultSubnetLen(p netip.Prefix, usual, longest int) int {
	if p.Bits()+2 <= usual {
		return usual
	}
	return min(p.Bits()+4, max(longest, p.Bits()+1))
}

// DefaultBUM is Network.BUM where nobody chose it, in frames a second. ARP and
// neighbour discovery are steered and not part of it.
const DefaultBUM = 1000

// MaxBUM is the highest rate that can be chosen, in frames a second.
const MaxBUM = 10_000_000

// BUMRate returns how many broadcast, multicast and unknown unicast frames a second
// an endpoint may send; 0: any number.
func (n Network) BUMRate() int {
	switch {
	case n.BUM == 0:
		return DefaultBUM
	case n.BUM < 0:
		return 0
	}
	return min(n.BUM, MaxBUM)
}

// ParseBUM reads Network.BUM: frames a second, or "off". item names in messages where
// the text is from. The error is an *Error of kind ErrInvalid.
func ParseBUM(item, text string) (int, error) {
	if text = strings.TrimSpace(text); text == "off" {
		return -1, nil
	}
	rate, err := strconv.Atoi(text)
	if err != nil || rate < 1 || rate > MaxBUM {
		return 0, &Error{
			Kind: ErrInvalid, Item: item, What: fmt.Sprintf("%q is no number of frames a second", text),
			Remedy: fmt.Sprintf("use 1 to %d, or off; %d is the default", MaxBUM, DefaultBUM),
		}
	}
	return rate, nil
}

// Check says whether the network makes sense by itself. The error is an
// *Error of kind ErrInvalid.
func (n Network) Check() error {
	if err := CheckName("network", n.Name); err != nil {
		return err
	}
	if err := n.checkPrefixes(); err != nil {
		return err
	}
	for _, f := range []Family{IPv4, IPv6} {
		if err := n.checkFamily(f); err != nil {
			return err
		}
	}
	switch {
	case n.VNI == 0 || n.VNI > MaxVNI:
		return n.invalid(fmt.Sprintf("use 1 to %d", MaxVNI), "VNI %d is out of range", n.VNI)
	case !n.Transport.Valid():
		return n.invalid(fmt.Sprintf("use one of %v", Transports()), "transport %q is unknown", n.Transport)
	case n.MTU < n.MinMTU() || n.MTU > 65535:
		return n.invalid(
			fmt.Sprintf("use %d to 65535; 1450 fits VXLAN over Ethernet", n.MinMTU()),
			"MTU %d is out of range",
			n.MTU,
		)
	}
	return nil
}

// checkPrefixes checks that each is of its family.
func (n Network) checkPrefixes() error {
	switch {
	case len(n.Families()) == 0:
		return n.invalid("give it an IPv4 or an IPv6 prefix", "no prefix")
	case n.IPv4.IsValid() && !n.IPv4.Addr().Is4():
		return n.invalid("", "%s is not an IPv4 prefix", n.IPv4)
	case n.IPv6.IsValid() && !n.IPv6.Addr().Is6():
		return n.invalid("", "%s is not an IPv6 prefix", n.IPv6)
	case n.IPv6.IsValid() && n.IPv6.Addr().Is4In6():
		return n.invalid("write the IPv4 prefix itself", "%s is an IPv4 prefix within IPv6", n.IPv6)
	}
	return nil
}

// CheckNew says whether the network can be created, or be changed into this. The
// gateway is not part of Check, so that records which are there stay in force. The
// error is of kind ErrInvalid.
func (n Network) CheckNew() error {
	if err := n.Check(); err != nil {
		return err
	}
	for _, f := range n.Families() {
		g := n.Gateway(f)
		if !g.IsValid() {
			continue
		}
		if err := n.CheckEndpointAddr(g); err != nil {
			var e *Error
			errors.As(err, &e)
			return n.invalid("choose another, such as "+n.Prefix(f).Addr().Next().String(), "gateway %s: %s", g, e.What)
		}
	}
	return nil
}

// checkFamily checks the prefix, the length of subnets and the gateway of one
// family.
func (n Network) checkFamily(f Family) error {
	p, l, g := n.Prefix(f), n.SubnetLen(f), n.Gateway(f)
	if !p.IsValid() {
		if g.IsValid() {
			return n.invalid("", "gateway %s but no %s prefix", g, f)
		}
		return nil
	}
	longest := p.Addr().BitLen() - 2
	lengths := fmt.Sprintf("use a subnet length from %d to %d", p.Bits()+1, longest)
	switch {
	case p != p.Masked():
		return n.invalid(fmt.Sprintf("write %s", p.Masked()), "%s has bits set beyond its length", p)
	case !p.Addr().IsGlobalUnicast() || p.Addr().IsLinkLocalUnicast():
		return n.invalid("", "%s is not a unicast prefix", p)
	case p.Bits() >= longest:
		return n.invalid(
			fmt.Sprintf("use a prefix of /%d or shorter", longest-1),
			"%s is too small to be divided among nodes",
			p,
		)
	case l <= p.Bits():
		return n.invalid(lengths, "subnets of /%d do not fit in %s", l, p)
	case l > longest:
		return n.invalid(lengths, "subnets of /%d have no room for endpoints", l)
	case g.IsValid() && !p.Contains(g):
		return n.invalid("choose one inside it, such as "+p.Addr().Next().String(), "gateway %s is outside %s", g, p)
	}
	return nil
}

func (n Network) invalid(remedy, what string, args ...any) error {
	return &Error{Kind: ErrInvalid, Item: "network " + n.Name, What: fmt.Sprintf(what, args...), Remedy: remedy}
}
