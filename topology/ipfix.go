package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// IPFIX says where records of a network's flows go (RFC 7011), and of how many of its
// packets.
type IPFIX struct {
	// Collectors are "ADDRESS:PORT". One that is none is left out.
	Collectors []string `json:"collectors"`
	// Sampling: one of so many packets is looked at. 0: DefaultSampling.
	Sampling int `json:"sampling,omitempty"`
	// Cache is for how many seconds packets of one flow are counted before a record
	// tells of it. 0: DefaultIPFIXCache; less: every packet that is looked at is a
	// record of its own.
	Cache int `json:"cache,omitempty"`
}

// The defaults and the limits of IPFIX.
const (
	DefaultSampling   = 400
	MaxSampling       = 65535
	DefaultIPFIXCache = 60
	MaxIPFIXCache     = 4200
	// IPFIXPort is the port of collectors (RFC 7011 section 10.3.4).
	IPFIXPort = 4739
	// MaxCollectors bounds how many copies of each record leave a node.
	MaxCollectors = 8
)

// Sampled returns what is in force of IPFIX: with defaults and within the limits. It
// has no collectors where nothing is exported. A value that makes no sense costs
// only itself: the network goes on.
func (n Network) Sampled() IPFIX {
	if n.IPFIX == nil {
		return IPFIX{}
	}
	out := IPFIX{Sampling: min(n.IPFIX.Sampling, MaxSampling), Cache: min(n.IPFIX.Cache, MaxIPFIXCache)}
	for _, text := range n.IPFIX.Collectors {
		c, err := ParseCollector("", text, IPFIXPort)
		if err == nil && !slices.Contains(out.Collectors, c) && len(out.Collectors) < MaxCollectors {
			out.Collectors = append(out.Collectors, c)
		}
	}
	slices.Sort(out.Collectors)
	if out.Sampling <= 0 {
		out.Sampling = DefaultSampling
	}
	switch {
	case out.Cache == 0:
		out.Cache = DefaultIPFIXCache
	case out.Cache < 0:
		out.Cache = 0
	}
	return out
}

// ParseCollector reads ADDRESS[:PORT] of a collector and returns it with its port.
// item names in messages where the text is from. The error is an *Error of kind
// ErrInvalid.
func ParseCollector(item, text string, port uint16) (string, error) {
	text = strings.TrimSpace(text)
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil && a.Zone() == "" && !a.IsUnspecified() {
		return netip.AddrPortFrom(a.Unmap(), port).String(), nil
	}
	p, err := netip.ParseAddrPort(text)
	if err != nil || p.Port() == 0 || p.Addr().Zone() != "" || p.Addr().IsUnspecified() {
		return "", &Error{
			Kind: ErrInvalid, Item: item, What: fmt.Sprintf("%q is no collector's address", text),
			Remedy: "write it like 192.0.2.9:" + strconv.Itoa(int(port)) + " or [2001:db8::9]:" + strconv.Itoa(int(port)),
		}
	}
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port()).String(), nil
}

// SFlowPort is the port of sFlow's collectors.
const SFlowPort = 6343
