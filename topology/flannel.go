package topology

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Flannel's own layout is a second codec of the topology: one network in
// "config", a lease for each host in "subnets/10.1.5.0-24", both relative to
// FlannelPrefix (flannel, Documentation/configuration.md; pkg/subnet).

// FlannelPrefix is where flannel's keys are unless its -etcd-prefix says
// otherwise.
const FlannelPrefix = "/coreos.com/network"

// The keys relative to the prefix.
const (
	FlannelConfigKey = "config"
	flannelSubnets   = "subnets/"
)

// What flannel takes where its configuration leaves it open: the vxlan
// backend's VNI, and the kernel's own UDP port, which is not RFC 7348's.
const (
	FlannelVNI  = 1
	FlannelPort = 8472
)

// The backends of flannel that Baize can do: the kernel's VXLAN, and routes
// without any encapsulation among hosts of one segment.
const (
	FlannelVXLAN  = "vxlan"
	FlannelHostGW = "host-gw"
)

// FlannelConfig is flannel's network configuration, checked and with flannel's
// own defaults filled in.
type FlannelConfig struct {
	IPv4, IPv6 netip.Prefix
	// SubnetLen is the length of the subnets of each host, SubnetMin and
	// SubnetMax are the first and the last of them, both leased.
	SubnetLenIPv4, SubnetLenIPv6 int
	SubnetMinIPv4, SubnetMaxIPv4 netip.Addr
	SubnetMinIPv6, SubnetMaxIPv6 netip.Addr
	Backend                      FlannelBackend
}

// FlannelBackend is the Backend of the configuration.
type FlannelBackend struct {
	Type string
	// VNI, Port (UDP) and MTU (of the underlay; 0: the interface's own) are
	// those of the vxlan backend.
	VNI  uint32
	Port int
	MTU  int
	// DirectRouting makes flannel hosts of one segment leave the tunnel out.
	DirectRouting bool
}

// flannelConfigJSON is the configuration as it is written.
type flannelConfigJSON struct {
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

type flannelBackendJSON struct {
	Type          string
	VNI           *uint32
	Port          int
	MTU           int
	GBP           bool
	Learning      bool
	DirectRouting bool
}

func flannelConfigError(remedy, what string, args ...any) error {
	return &Error{Kind: ErrInvalid, Item: "flannel's " + FlannelConfigKey, What: fmt.Sprintf(what, args...), Remedy: remedy}
}

// DecodeFlannelConfig reads flannel's configuration as flannel does. What
// Baize cannot do is refused by its name; errors are of kind ErrInvalid.
func DecodeFlannelConfig(value []byte) (FlannelConfig, error) {
	var c FlannelConfig
	var in flannelConfigJSON
	if err := json.Unmarshal(value, &in); err != nil {
		return c, flannelConfigError(`write it as { "Network": "10.1.0.0/16", "Backend": { "Type": "vxlan" } }`, "malformed: %v", err)
	}
	var err error
	if in.EnableIPv4 == nil || *in.EnableIPv4 {
		c.IPv4 = in.Network.Masked()
		if !in.Network.IsValid() || !in.Network.Addr().Is4() {
			return c, flannelConfigError(`set "Network" to an IPv4 prefix, or "EnableIPv4" to false`, `"Network" is not an IPv4 prefix`)
		}
		c.SubnetLenIPv4, c.SubnetMinIPv4, c.SubnetMaxIPv4, err = flannelRange("", c.IPv4, in.SubnetLen, in.SubnetMin, in.SubnetMax)
		if err != nil {
			return c, err
		}
	}
	if in.EnableIPv6 {
		c.IPv6 = in.IPv6Network.Masked()
		if !in.IPv6Network.IsValid() || !in.IPv6Network.Addr().Is6() {
			return c, flannelConfigError(`set "IPv6Network" to an IPv6 prefix, or "EnableIPv6" to false`, `"IPv6Network" is not an IPv6 prefix`)
		}
		c.SubnetLenIPv6, c.SubnetMinIPv6, c.SubnetMaxIPv6, err = flannelRange("IPv6", c.IPv6, in.IPv6SubnetLen, in.IPv6SubnetMin, in.IPv6SubnetMax)
		if err != nil {
			return c, err
		}
	}
	if !c.IPv4.IsValid() {
		return c, flannelConfigError(`leave "EnableIPv4" out`, "without IPv4 flannel itself writes no lease into etcd")
	}
	c.Backend, err = flannelBackend(in.Backend)
	return c, err
}

// flannelRange fills in flannel's defaults: /24 and /64 where four of them
// fit, else a quarter of the network; all subnets but the first.
func flannelRange(family string, p netip.Prefix, length int, first, last netip.Addr) (int, netip.Addr, netip.Addr, error) {
	bad := func(remedy, what string, args ...any) (int, netip.Addr, netip.Addr, error) {
		return 0, netip.Addr{}, netip.Addr{}, flannelConfigError(remedy, what, args...)
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
		return bad(fmt.Sprintf("use %d to %d", p.Bits()+2, longest), "%s %d: the network must hold at least four subnets of four addresses", name, length)
	}
	shift := p.Addr().BitLen() - length
	if !first.IsValid() || first.IsUnspecified() {
		first = addShifted(p.Addr(), 1, shift)
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

func flannelBackend(raw json.RawMessage) (FlannelBackend, error) {
	const setVXLAN = `set "Backend": { "Type": "vxlan" }, or "host-gw", and restart flanneld on its hosts`
	if len(raw) == 0 {
		// Flannel's own default.
		return FlannelBackend{}, flannelConfigError(setVXLAN, "no \"Backend\": flannel then uses its type udp, which Baize cannot do")
	}
	in := flannelBackendJSON{}
	if err := json.Unmarshal(raw, &in); err != nil {
		return FlannelBackend{}, flannelConfigError("", `"Backend" is malformed: %v`, err)
	}
	b := FlannelBackend{Type: in.Type, VNI: FlannelVNI, Port: FlannelPort, MTU: in.MTU, DirectRouting: in.DirectRouting}
	if in.Port != 0 {
		b.Port = in.Port
	}
	if in.VNI != nil {
		b.VNI = *in.VNI
	}
	switch {
	case in.Type == FlannelHostGW:
		// What flannel does not read here is without effect.
		return FlannelBackend{Type: in.Type, VNI: FlannelVNI}, nil
	case in.Type != FlannelVXLAN:
		return b, flannelConfigError(setVXLAN, `Baize cannot do the backend "Type" %q`, in.Type)
	case in.GBP:
		return b, flannelConfigError(`leave "GBP" out`, `Baize cannot do "GBP": it would forward without its policy marks`)
	case b.VNI == 0 || b.VNI > MaxVNI:
		return b, flannelConfigError(fmt.Sprintf("use 1 to %d", MaxVNI), `"VNI" %d is out of range`, b.VNI)
	case b.Port < 0 || b.Port > 65535:
		return b, flannelConfigError("", `"Port" %d is out of range`, b.Port)
	case in.MTU != 0 && (in.MTU < 626 || in.MTU > 65535):
		return b, flannelConfigError("", `"MTU" %d is out of range`, in.MTU)
	}
	return b, nil
}

// FlannelLease is one lease: key subnets/10.1.5.0-24, or with both families
// subnets/10.1.5.0-24&fd00:10:1:5::-64.
type FlannelLease struct {
	Subnet, IPv6Subnet netip.Prefix
	// PublicIP and PublicIPv6 are where the host's tunnel ends. Flannel knows
	// a host by its PublicIP and by nothing else.
	PublicIP, PublicIPv6 netip.Addr
	BackendType          string
	// VTEP and IPv6VTEP are where packets for the subnets go; of vxlan. A Baize
	// node has one with every backend: flannel does not mind, and hosts are told
	// apart by it.
	VTEP, IPv6VTEP FlannelVTEP
	// Reserved: the key has no expiry, so an operator holds it.
	Reserved bool
	Meta
}

// FlannelVTEP is the tunnel endpoint of a host: the link address of its
// VXLAN device.
type FlannelVTEP struct {
	VNI uint32
	MAC string
}

// flannelLeaseJSON has flannel's fields in flannel's order.
type flannelLeaseJSON struct {
	PublicIP      netip.Addr
	PublicIPv6    *netip.Addr
	BackendType   string           `json:",omitempty"`
	BackendData   *flannelVTEPJSON `json:",omitempty"`
	BackendV6Data *flannelVTEPJSON `json:",omitempty"`
}

type flannelVTEPJSON struct {
	VNI     uint32
	VtepMAC string
}

// FlannelKey returns subnets/<IPv4>-<length>, and &<IPv6>-<length> where there
// is one. Flannel writes IPv6 the way Go does.
func FlannelKey(v4, v6 netip.Prefix) string {
	dash := func(p netip.Prefix) string { return p.Addr().String() + "-" + strconv.Itoa(p.Bits()) }
	key := flannelSubnets + dash(v4)
	if v6.IsValid() {
		key += "&" + dash(v6)
	}
	return key
}

// Key returns the lease's key.
func (l FlannelLease) Key() string { return FlannelKey(l.Subnet, l.IPv6Subnet) }

// Prefixes returns the lease's subnets, IPv4 first.
func (l FlannelLease) Prefixes() []netip.Prefix {
	if l.IPv6Subnet.IsValid() {
		return []netip.Prefix{l.Subnet, l.IPv6Subnet}
	}
	return []netip.Prefix{l.Subnet}
}

// Encode returns the lease's value as flannel writes it, byte for byte.
func (l FlannelLease) Encode() []byte {
	out := flannelLeaseJSON{PublicIP: netip.IPv4Unspecified(), BackendType: l.BackendType}
	if l.PublicIP.IsValid() {
		out.PublicIP = l.PublicIP
	}
	if l.PublicIPv6.IsValid() {
		out.PublicIPv6 = &l.PublicIPv6
	}
	data := func(v FlannelVTEP) *flannelVTEPJSON {
		if v == (FlannelVTEP{}) {
			return nil
		}
		return &flannelVTEPJSON{VNI: v.VNI, VtepMAC: v.MAC}
	}
	out.BackendData, out.BackendV6Data = data(l.VTEP), data(l.IPv6VTEP)
	b, err := json.Marshal(out)
	if err != nil {
		panic(fmt.Sprintf("topology: a flannel lease cannot be encoded: %v", err)) // no field can fail
	}
	return b
}

// DecodeFlannelLease reads one lease. An operator's reservation may have an
// empty object. Errors are of kind ErrInvalid and name the key.
func DecodeFlannelLease(kv KV) (FlannelLease, error) {
	bad := func(what string, args ...any) (FlannelLease, error) {
		return FlannelLease{}, &Error{Kind: ErrInvalid, Item: kv.Key, What: fmt.Sprintf(what, args...), Remedy: "correct or delete the key; docs/keyspace.md shows its form"}
	}
	l := FlannelLease{Meta: kv.Meta, Reserved: kv.Lease == 0}
	rest, ok := strings.CutPrefix(kv.Key, flannelSubnets)
	if !ok {
		return bad("not a key of a flannel lease")
	}
	v4, v6, dual := strings.Cut(rest, "&")
	var err error
	if l.Subnet, err = parseDashed(v4); err != nil || !l.Subnet.Addr().Is4() {
		return bad("the key is not subnets/<IPv4>-<length>")
	}
	if dual {
		if l.IPv6Subnet, err = parseDashed(v6); err != nil || !l.IPv6Subnet.Addr().Is6() {
			return bad("the key does not end in &<IPv6>-<length>")
		}
	}
	if l.Subnet.Masked() != l.Subnet || (dual && l.IPv6Subnet.Masked() != l.IPv6Subnet) {
		return bad("the key has bits set beyond the length")
	}
	var in struct {
		PublicIP                   netip.Addr
		PublicIPv6                 *netip.Addr
		BackendType                string
		BackendData, BackendV6Data json.RawMessage
	}
	if t := bytes.TrimSpace(kv.Value); len(t) == 0 || t[0] != '{' {
		return bad("the value is not a JSON object")
	}
	if err := json.Unmarshal(kv.Value, &in); err != nil {
		return bad("malformed value: %v", err)
	}
	if in.PublicIP.IsValid() && !in.PublicIP.IsUnspecified() {
		l.PublicIP = in.PublicIP
	}
	if in.PublicIPv6 != nil && in.PublicIPv6.IsValid() && !in.PublicIPv6.IsUnspecified() {
		l.PublicIPv6 = *in.PublicIPv6
	}
	if l.PublicIP.IsValid() && !l.PublicIP.Is4() || l.PublicIPv6.IsValid() && !l.PublicIPv6.Is6() {
		return bad("PublicIP or PublicIPv6 is of the other family")
	}
	l.BackendType = in.BackendType
	if l.BackendType != FlannelVXLAN && l.BackendType != FlannelHostGW {
		return l, nil // its data is its own business
	}
	for _, x := range []struct {
		raw json.RawMessage
		to  *FlannelVTEP
	}{{in.BackendData, &l.VTEP}, {in.BackendV6Data, &l.IPv6VTEP}} {
		if len(x.raw) == 0 || string(x.raw) == "null" {
			continue
		}
		var v flannelVTEPJSON
		if err := json.Unmarshal(x.raw, &v); err != nil {
			return bad("malformed BackendData: %v", err)
		}
		mac, err := ParseMAC(v.VtepMAC)
		if err != nil {
			return bad("VtepMAC: %v", err)
		}
		*x.to = FlannelVTEP{VNI: v.VNI, MAC: mac.String()}
	}
	return l, nil
}

func parseDashed(s string) (netip.Prefix, error) {
	i := strings.LastIndexByte(s, '-')
	if i < 0 {
		return netip.Prefix{}, fmt.Errorf("no length")
	}
	return netip.ParsePrefix(s[:i] + "/" + s[i+1:])
}

// FlannelMAC returns the VtepMAC of a Baize node by its underlay IPv4 address,
// which is its RouterMAC.
func FlannelMAC(vtep netip.Addr) net.HardwareAddr {
	return RouterMAC(Node{VTEPs: []netip.Addr{vtep.Unmap()}})
}

// Free returns a subnet of one family that overlaps nothing in taken: the
// first of prefer that is one, else one from a place hashed from the host's
// name on. ok is false when none is left.
func (c FlannelConfig) Free(f Family, host string, taken, prefer []netip.Prefix) (p netip.Prefix, ok bool) {
	n := c.network(Node{}, Meta{})
	free := func(p netip.Prefix) bool {
		return c.Leasable(p) && FamilyOf(p.Addr()) == f && !slices.ContainsFunc(taken, p.Overlaps)
	}
	if i := slices.IndexFunc(prefer, free); i >= 0 {
		return prefer[i], true
	}
	for p := range Candidates(n, f, host) {
		if free(p) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Leasable reports whether p is one of the subnets that hosts may lease.
func (c FlannelConfig) Leasable(p netip.Prefix) bool {
	length, first, last := c.SubnetLenIPv4, c.SubnetMinIPv4, c.SubnetMaxIPv4
	if p.Addr().Is6() {
		length, first, last = c.SubnetLenIPv6, c.SubnetMinIPv6, c.SubnetMaxIPv6
	}
	return first.IsValid() && p.Bits() == length && p == p.Masked() && !p.Addr().Less(first) && !last.Less(p.Addr())
}

// FlannelMigration is what 'baize migrate flannel' does: the records it writes
// into Baize's own layout, and the keys of flannel that it deletes.
type FlannelMigration struct {
	Network Network
	Subnets []Subnet
	Delete  []string
	// Revision is that of flannel's layout, ConfigRevision its config's.
	Revision, ConfigRevision int64
}

// MigrateFlannel plans the move of flannel's leases into Baize's own layout.
// Errors: ErrExists (done already), ErrInUse naming the hosts that still run
// flannel, ErrInvalid for keys that cannot be read.
func (s *Snapshot) MigrateFlannel(f *Snapshot) (FlannelMigration, error) {
	refuse := func(kind error, what, remedy string, args ...any) (FlannelMigration, error) {
		return FlannelMigration{}, &Error{Kind: kind, Item: "network " + FlannelNetwork, What: fmt.Sprintf(what, args...), Remedy: remedy}
	}
	if _, done := s.Networks[FlannelNetwork]; done {
		return refuse(ErrExists, "is in Baize's own layout already", "")
	}
	merged := s.WithFlannel(f, "")
	for _, k := range slices.Sorted(maps.Keys(merged.Malformed)) {
		if p := merged.Malformed[k]; strings.HasPrefix(k, "flannel ") {
			return FlannelMigration{}, &Error{Kind: ErrInvalid, Item: p.Item, What: p.What, Remedy: p.Remedy}
		}
	}
	m := FlannelMigration{Network: merged.Networks[FlannelNetwork], Revision: f.Revision, ConfigRevision: f.Raw[FlannelConfigKey].ModRevision}
	var still []string
	mtu := 0
	for _, sub := range merged.SortedSubnets() {
		if sub.Network != FlannelNetwork {
			continue
		}
		n := merged.Nodes[sub.Node]
		if n.Router != nil {
			still = append(still, fmt.Sprintf("%s (%s)", sub.Node, sub.Prefix))
		}
		if n.UnderlayMTU > 0 && (mtu == 0 || n.UnderlayMTU < mtu) {
			mtu = n.UnderlayMTU
		}
		sub.Meta = Meta{}
		m.Subnets = append(m.Subnets, sub)
	}
	if len(still) > 0 {
		return refuse(ErrInUse, "these hosts still run flannel: %s", "stop flanneld and start 'baize agent --flannel' on each, or delete the lease of a host that is gone", strings.Join(still, ", "))
	}
	for _, other := range s.Networks {
		if other.VNI == m.Network.VNI {
			return refuse(ErrConflict, "its VNI %d is that of network %s", "create that network anew with another VNI", other.VNI, other.Name)
		}
	}
	if mtu > 0 {
		m.Network.MTU = min(m.Network.MTU, MTU(m.Network.Transport, IPv4, mtu))
	}
	m.Network.Meta, m.Network.Layout = Meta{}, ""
	if err := m.Network.Check(); err != nil {
		return FlannelMigration{}, err
	}
	for key := range f.Raw {
		if strings.HasPrefix(key, flannelSubnets) {
			m.Delete = append(m.Delete, key)
		}
	}
	slices.Sort(m.Delete)
	return m, nil
}
