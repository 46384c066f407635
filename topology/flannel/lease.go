package flannel

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Lease is one lease: key subnets/10.1.5.0-24, or with both families
// subnets/10.1.5.0-24&fd00:10:1:5::-64.
type Lease struct {
	Subnet, IPv6Subnet netip.Prefix
	// PublicIP and PublicIPv6 are where the host's tunnel ends. Flannel knows
	// a host by its PublicIP and by nothing else.
	PublicIP, PublicIPv6 netip.Addr
	BackendType          string
	// VTEP and IPv6VTEP are where packets for the subnets go; of vxlan. A Baize
	// node has one with every backend: flannel does not mind, and hosts are told
	// apart by it.
	VTEP, IPv6VTEP VTEP
	// Reserved: the key has no expiry, so an operator holds it.
	Reserved bool
	topology.Meta
}

// VTEP is the tunnel endpoint of a host: the link address of its
// VXLAN device.
type VTEP struct {
	VNI uint32
	MAC string
}

// leaseJSON has flannel's fields in flannel's order.
type leaseJSON struct {
	PublicIP      netip.Addr
	PublicIPv6    *netip.Addr
	BackendType   string    `json:",omitempty"`
	BackendData   *vtepJSON `json:",omitempty"`
	BackendV6Data *vtepJSON `json:",omitempty"`
}

type vtepJSON struct {
	VNI     uint32
	VtepMAC string
}

// LeaseKey returns subnets/<IPv4>-<length>, and &<IPv6>-<length> where there
// is one. Flannel writes IPv6 the way Go does.
func LeaseKey(v4, v6 netip.Prefix) string {
	dash := func(p netip.Prefix) string { return p.Addr().String() + "-" + strconv.Itoa(p.Bits()) }
	key := dirSubnets + dash(v4)
	if v6.IsValid() {
		key += "&" + dash(v6)
	}
	return key
}

// Key returns the lease's key.
func (l Lease) Key() string { return LeaseKey(l.Subnet, l.IPv6Subnet) }

// Prefixes returns the lease's subnets, IPv4 first.
func (l Lease) Prefixes() []netip.Prefix {
	return slices.DeleteFunc([]netip.Prefix{l.Subnet, l.IPv6Subnet}, func(p netip.Prefix) bool { return !p.IsValid() })
}

// end is where the host's tunnel ends, and which endpoint that has: those of IPv4, unless
// the network has IPv6 alone.
func (l Lease) end() (netip.Addr, VTEP) {
	if l.PublicIP.IsValid() || !l.PublicIPv6.IsValid() {
		return l.PublicIP, l.VTEP
	}
	return l.PublicIPv6, l.IPv6VTEP
}

// Encode returns the lease's value as flannel writes it, byte for byte.
func (l Lease) Encode() []byte {
	out := leaseJSON{PublicIP: netip.IPv4Unspecified(), BackendType: l.BackendType}
	if l.PublicIP.IsValid() {
		out.PublicIP = l.PublicIP
	}
	if l.PublicIPv6.IsValid() {
		out.PublicIPv6 = &l.PublicIPv6
	}
	data := func(v VTEP) *vtepJSON {
		if v == (VTEP{}) {
			return nil
		}
		return &vtepJSON{VNI: v.VNI, VtepMAC: v.MAC}
	}
	out.BackendData, out.BackendV6Data = data(l.VTEP), data(l.IPv6VTEP)
	b, err := json.Marshal(out)
	if err != nil {
		panic(fmt.Sprintf("topology: a flannel lease cannot be encoded: %v", err)) // no field can fail
	}
	return b
}

// DecodeLease reads one lease. An operator's reservation may have an empty
// object. Errors are of kind ErrInvalid and name the key.
func DecodeLease(kv topology.KV) (Lease, error) {
	l := Lease{Meta: kv.Meta, Reserved: kv.Lease == 0}
	err := l.decodeKey(kv.Key)
	if err == nil {
		err = l.decodeValue(kv.Value)
	}
	if err != nil {
		return Lease{}, &topology.Error{
			Kind: topology.ErrInvalid, Code: fault.SourceMalformed, Item: kv.Key, What: err.Error(),
			Remedy: "correct or delete the key; docs/keyspace.md shows its form",
		}
	}
	return l, nil
}

func (l *Lease) decodeKey(key string) error {
	rest, ok := strings.CutPrefix(key, dirSubnets)
	if !ok {
		return errors.New("not a key of a flannel lease")
	}
	v4, v6, dual := strings.Cut(rest, "&")
	var err error
	if l.Subnet, err = parseDashed(v4); err != nil || !l.Subnet.Addr().Is4() {
		return errors.New("the key is not subnets/<IPv4>-<length>")
	}
	if dual {
		if l.IPv6Subnet, err = parseDashed(v6); err != nil || !l.IPv6Subnet.Addr().Is6() {
			return errors.New("the key does not end in &<IPv6>-<length>")
		}
	}
	if l.Subnet.Masked() != l.Subnet || (dual && l.IPv6Subnet.Masked() != l.IPv6Subnet) {
		return errors.New("the key has bits set beyond the length")
	}
	return nil
}

func (l *Lease) decodeValue(value []byte) error {
	var in struct {
		PublicIP                   netip.Addr
		PublicIPv6                 *netip.Addr
		BackendType                string
		BackendData, BackendV6Data json.RawMessage
	}
	if t := bytes.TrimSpace(value); len(t) == 0 || t[0] != '{' {
		return errors.New("the value is not a JSON object")
	}
	if err := json.Unmarshal(value, &in); err != nil {
		return fmt.Errorf("malformed value: %w", err)
	}
	if !in.PublicIP.IsUnspecified() {
		l.PublicIP = in.PublicIP
	}
	if in.PublicIPv6 != nil && !in.PublicIPv6.IsUnspecified() {
		l.PublicIPv6 = *in.PublicIPv6
	}
	if l.PublicIP.IsValid() && !l.PublicIP.Is4() || l.PublicIPv6.IsValid() && !l.PublicIPv6.Is6() {
		return errors.New("PublicIP or PublicIPv6 is of the other family")
	}
	l.BackendType = in.BackendType
	return l.SetData(in.BackendData, in.BackendV6Data)
}

// SetData sets the tunnel endpoints to what the backend's data says, BackendType
// being set.
func (l *Lease) SetData(v4, v6 []byte) error {
	if l.BackendType != VXLAN && l.BackendType != HostGW {
		return nil // what its data means is not known here
	}
	var err error
	if l.VTEP, err = decodeVTEP(v4); err == nil {
		l.IPv6VTEP, err = decodeVTEP(v6)
	}
	return err
}

// Data is the endpoint as flannel writes it.
func (v VTEP) Data() []byte {
	b, err := json.Marshal(vtepJSON{VNI: v.VNI, VtepMAC: v.MAC})
	if err != nil {
		panic(fmt.Sprintf("topology: a flannel endpoint cannot be encoded: %v", err)) // no field can fail
	}
	return b
}

func decodeVTEP(raw []byte) (VTEP, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return VTEP{}, nil
	}
	var v vtepJSON
	if err := json.Unmarshal(raw, &v); err != nil {
		return VTEP{}, fmt.Errorf("malformed BackendData: %w", err)
	}
	mac, err := topology.ParseMAC(v.VtepMAC)
	if err != nil {
		return VTEP{}, fmt.Errorf("VtepMAC: %w", err)
	}
	return VTEP{VNI: v.VNI, MAC: mac.String()}, nil
}

func parseDashed(s string) (netip.Prefix, error) {
	i := strings.LastIndexByte(s, '-')
	if i < 0 {
		return netip.Prefix{}, fmt.Errorf("no length")
	}
	return netip.ParsePrefix(s[:i] + "/" + s[i+1:])
}
