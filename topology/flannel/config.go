package flannel

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Config is flannel's network configuration, checked and with flannel's
// own defaults filled in.
type Config struct {
	IPv4, IPv6 netip.Prefix
	// SubnetLen is the length of the subnets of each host, SubnetMin and
	// SubnetMax are the first and the last of them, both leased.
	SubnetLenIPv4, SubnetLenIPv6 int
	SubnetMinIPv4, SubnetMaxIPv4 netip.Addr
	SubnetMinIPv6, SubnetMaxIPv6 netip.Addr
	Backend                      Backend
}

// Backend is the Backend of the configuration.
type Backend struct {
	Type string
	// VNI, Port (UDP) and MTU (of the underlay; 0: the interface's own) are
	// those of the vxlan backend.
	VNI  uint32
	Port int
	MTU  int
	// DirectRouting makes flannel hosts of one segment leave the tunnel out.
	DirectRouting bool
}

// configJSON is the configuration as it is written.
type configJSON struct {
	EnableIPv4                   *bool
	EnableIPv6                   bool
	EnableNFTables               bool // how flannel masquerades: not a peer's business
	Network                      netip.Prefix
	IPv6Network                  netip.Prefix
	SubnetLen, IPv6SubnetLen     int
	SubnetMin, SubnetMax         netip.Addr
	IPv6SubnetMin, IPv6SubnetMax netip.Addr
	Backend                      json.RawMessage
}

type backendJSON struct {
	Type          string
	VNI           *uint32
	Port          int
	MTU           int
	GBP           bool
	Learning      bool
	DirectRouting bool
}

func configError(remedy, what string, args ...any) error {
	return &topology.Error{
		Kind: topology.ErrInvalid, Code: fault.SourceMalformed, Item: "flannel's " + ConfigKey,
		What: fmt.Sprintf(what, args...), Remedy: remedy,
	}
}

// DecodeConfig reads flannel's configuration in etcd as flannel does. What
// Baize cannot do is refused by its name; errors are of kind ErrInvalid.
func DecodeConfig(value []byte) (Config, error) {
	c, err := DecodeNetConf(value)
	if err == nil && !c.IPv4.IsValid() {
		err = configError(`leave "EnableIPv4" out`, "without IPv4 flannel itself writes no lease into etcd")
	}
	return c, err
}

// DecodeNetConf is DecodeConfig where no lease is written into etcd: a network may have
// IPv6 alone then.
func DecodeNetConf(value []byte) (Config, error) {
	var c Config
	var in configJSON
	if err := json.Unmarshal(value, &in); err != nil {
		return c, configError("write it as "+exampleConfig, "malformed: %v", err)
	}
	var err error
	if in.EnableIPv4 == nil || *in.EnableIPv4 {
		c.IPv4 = in.Network.Masked()
		if !in.Network.IsValid() || !in.Network.Addr().Is4() {
			return c, configError(`set "Network" to an IPv4 prefix, or "EnableIPv4" to false`,
				`"Network" is not an IPv4 prefix`)
		}
		c.SubnetLenIPv4, c.SubnetMinIPv4, c.SubnetMaxIPv4, err = subnetRange("", c.IPv4,
			in.SubnetLen, in.SubnetMin, in.SubnetMax)
		if err != nil {
			return c, err
		}
	}
	if in.EnableIPv6 {
		c.IPv6 = in.IPv6Network.Masked()
		if !in.IPv6Network.IsValid() || !in.IPv6Network.Addr().Is6() {
			return c, configError(`set "IPv6Network" to an IPv6 prefix, or "EnableIPv6" to false`,
				`"IPv6Network" is not an IPv6 prefix`)
		}
		c.SubnetLenIPv6, c.SubnetMinIPv6, c.SubnetMaxIPv6, err = subnetRange("IPv6", c.IPv6,
			in.IPv6SubnetLen, in.IPv6SubnetMin, in.IPv6SubnetMax)
		if err != nil {
			return c, err
		}
	}
	if !c.IPv4.IsValid() && !c.IPv6.IsValid() {
		return c, configError(`leave "EnableIPv4" out, or set "EnableIPv6" to true`, "it has neither IPv4 nor IPv6")
	}
	c.Backend, err = decodeBackend(in.Backend)
	return c, err
}

// subnetRange fills in flannel's defaults: /24 and /64 where four of them
// fit, else a quarter of the network; all subnets but the first.
func subnetRange(
	family string,
	p netip.Prefix,
	length int,
	first, last netip.Addr,
) (int, netip.Addr, netip.Addr, error) {
	bad := func(remedy, what string, args ...any) (int, netip.Addr, netip.Addr, error) {
		return 0, netip.Addr{}, netip.Addr{}, configError(remedy, what, args...)
	}
	usual, longest := 24, 30
	if p.Addr().Is6() {
		usual, longest = 64, 126
	}
	name := `"` + family + `SubnetLen"`
	if length == 0 {
		length = max(usual, p.Bits()+2)
	}
	if length > longest || length < p.Bits()+2 {
		return bad(fmt.Sprintf("use %d to %d", p.Bits()+2, longest),
			"%s %d: the network must hold at least four subnets of four addresses", name, length)
	}
	if !first.IsValid() || first.IsUnspecified() {
		n := topology.Network{IPv4: p, IPv6: p, SubnetLenIPv4: length, SubnetLenIPv6: length}
		first = topology.SubnetAt(n, topology.FamilyOf(p.Addr()), 1).Addr()
	}
	if !last.IsValid() || last.IsUnspecified() {
		// The subnet of the last address there is.
		end := p.Addr().AsSlice()
		for bit := p.Bits(); bit < length; bit++ {
			end[bit/8] |= 0x80 >> (bit % 8)
		}
		last, _ = netip.AddrFromSlice(end)
	}
	for _, x := range []struct {
		name string
		addr netip.Addr
	}{{family + "SubnetMin", first}, {family + "SubnetMax", last}} {
		q := netip.PrefixFrom(x.addr, length)
		switch {
		case !p.Contains(x.addr):
			return bad("choose one inside "+p.String(), "%q %s is outside the network", x.name, x.addr)
		case q.Masked() != q:
			return bad("write "+q.Masked().Addr().String(), "%q %s is not at the start of a /%d", x.name, x.addr, length)
		}
	}
	if last.Less(first) {
		return bad("exchange them", `"%sSubnetMax" %s is before the first, %s`, family, last, first)
	}
	return length, first, last, nil
}

func decodeBackend(raw json.RawMessage) (Backend, error) {
	const setVXLAN = `set "Backend": { "Type": "vxlan" }, or "host-gw", and restart flanneld on its hosts`
	if len(raw) == 0 {
		// Flannel's own default.
		return Backend{}, configError(setVXLAN, "no \"Backend\": flannel then uses its type udp, which Baize cannot do")
	}
	in := backendJSON{}
	if err := json.Unmarshal(raw, &in); err != nil {
		return Backend{}, configError("", `"Backend" is malformed: %v`, err)
	}
	b := Backend{Type: in.Type, VNI: DefaultVNI, Port: DefaultPort, MTU: in.MTU, DirectRouting: in.DirectRouting}
	if in.Port != 0 {
		b.Port = in.Port
	}
	if in.VNI != nil {
		b.VNI = *in.VNI
	}
	switch {
	case in.Type == HostGW:
		// What flannel does not read here is without effect.
		return Backend{Type: in.Type, VNI: DefaultVNI}, nil
	case in.Type != VXLAN:
		return b, configError(setVXLAN, `Baize cannot do the backend "Type" %q`, in.Type)
	case in.GBP:
		return b, configError(`leave "GBP" out`, `Baize cannot do "GBP": it would forward without its policy marks`)
	case b.VNI == 0 || b.VNI > topology.MaxVNI:
		return b, configError(fmt.Sprintf("use 1 to %d", topology.MaxVNI), `"VNI" %d is out of range`, b.VNI)
	case b.Port < 0 || b.Port > 65535:
		return b, configError("", `"Port" %d is out of range`, b.Port)
	case in.MTU != 0 && (in.MTU < 626 || in.MTU > 65535):
		return b, configError("", `"MTU" %d is out of range`, in.MTU)
	}
	return b, nil
}

// Free returns a subnet of one family that overlaps nothing in taken: the
// first of prefer that is one, else one from a place hashed from the host's
// name on. ok is false when none is left.
func (c Config) Free(f topology.Family, host string, taken, prefer []netip.Prefix) (p netip.Prefix, ok bool) {
	n := c.network(topology.Node{}, topology.Meta{})
	free := func(p netip.Prefix) bool {
		return c.Leasable(p) && topology.FamilyOf(p.Addr()) == f && !slices.ContainsFunc(taken, p.Overlaps)
	}
	if i := slices.IndexFunc(prefer, free); i >= 0 {
		return prefer[i], true
	}
	for p := range topology.Candidates(n, f, host) {
		if free(p) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Leasable reports whether p is one of the subnets that hosts may lease.
func (c Config) Leasable(p netip.Prefix) bool {
	length, first, last := c.SubnetLenIPv4, c.SubnetMinIPv4, c.SubnetMaxIPv4
	if p.Addr().Is6() {
		length, first, last = c.SubnetLenIPv6, c.SubnetMinIPv6, c.SubnetMaxIPv6
	}
	return first.IsValid() && p.Bits() == length && p == p.Masked() && !p.Addr().Less(first) && !last.Less(p.Addr())
}
