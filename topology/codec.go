package topology

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"strings"

	"github.com/baize-net/baize/topology/fault"
)

// The directories under the cluster's prefix.
const (
	DirNetworks = "networks/"
	DirNodes    = "nodes/"
	DirAlive    = "alive/"
	DirSubnets  = "subnets/"
	DirPins     = "pins/"
	DirNames    = "names/"
	DirClaims   = "claims/"
)

// Keys are relative to the cluster's prefix: "networks/blue".

// NetworkKey returns networks/<name>.
func NetworkKey(name string) string { return DirNetworks + name }

// NodeKey returns nodes/<name>.
func NodeKey(name string) string { return DirNodes + name }

// AliveKey returns alive/<node>.
func AliveKey(node string) string { return DirAlive + node }

// SubnetKey returns subnets/<network>/<prefix>, with '-' for the slash.
func SubnetKey(network string, p netip.Prefix) string {
	var space [128]byte // every flow of a subnet says where it is from: one allocation
	text := append(append(append(space[:0], DirSubnets...), network...), '/')
	prefix := len(text)
	text = p.Masked().AppendTo(text)
	if i := bytes.IndexByte(text[prefix:], '/'); i >= 0 {
		text[prefix+i] = '-'
	}
	return string(text)
}

// PinKey returns pins/<network>/<address>.
func PinKey(network string, a netip.Addr) string {
	return DirPins + network + "/" + a.Unmap().String()
}

// ClaimKey returns claims/<network>/<address>.
func ClaimKey(network string, a netip.Addr) string {
	return DirClaims + network + "/" + a.Unmap().String()
}

// Key returns the record's key.
func (n Network) Key() string { return NetworkKey(n.Name) }

// Key returns the record's key.
func (n Node) Key() string { return NodeKey(n.Name) }

// Key returns the record's key.
func (l Liveness) Key() string { return AliveKey(l.Node) }

// Key returns the record's key.
func (s Subnet) Key() string { return SubnetKey(s.Network, s.Prefix) }

// Key returns the record's key.
func (p Pin) Key() string { return PinKey(p.Network, p.Addr) }

// Key returns the record's key.
func (c Claim) Key() string { return ClaimKey(c.Network, c.Addr) }

// nameRE is what a network or node may be called: it must fit in an etcd key,
// a host name and a log line. RFC 1123 labels, dots allowed.
var nameRE = regexp.MustCompile(`^[a-z0-9A-Z]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?$`)

// CheckName says whether s may name a network or a node. kind is the word for
// it in the message.
func CheckName(kind, s string) error {
	if nameRE.MatchString(s) {
		return nil
	}
	return &Error{
		Kind: ErrInvalid, Item: fmt.Sprintf("%s %q", kind, s),
		What:   "not a valid name",
		Remedy: "use 1 to 63 letters, digits, '.', '_' or '-', starting and ending with a letter or digit",
	}
}

// Record is one decoded key: exactly one of Network, Node, Liveness, Subnet,
// Pin, Names, Claim, Question, NodeAnswer. The last two are no part of a topology.
type Record interface {
	Key() string
}

// KV is one etcd key/value, the key relative to the cluster's prefix.
type KV struct {
	Key   string
	Value []byte
	Meta
}

// Encode returns the stored JSON of a record, including the fields that this
// version does not know.
func Encode(r Record) []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("topology: %T cannot be encoded: %v", r, err)) // no field of a record can fail
	}
	extra := extraOf(r)
	if len(extra) == 0 {
		return b
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(b, &all); err != nil {
		panic(err)
	}
	for k, v := range extra {
		if _, known := all[k]; !known {
			all[k] = v
		}
	}
	b, err = json.Marshal(all)
	if err != nil {
		panic(err)
	}
	return b
}

func extraOf(r Record) Extra {
	switch r := r.(type) {
	case Network:
		return r.Extra
	case Node:
		return r.Extra
	case Liveness:
		return r.Extra
	case Subnet:
		return r.Extra
	case Pin:
		return r.Extra
	case Names:
		return r.Extra
	case Claim:
		return r.Extra
	case Question:
		return r.Extra
	case NodeAnswer:
		return r.Extra
	}
	return nil
}

// decoders read the keys of each directory. rest is the key without the
// directory; errors say what is wrong, Decode says where.
var decoders = map[string]func(rest string, kv KV) (Record, error){
	DirNetworks: decodeNetwork,
	DirNodes:    decodeNode,
	DirAlive:    decodeLiveness,
	DirSubnets:  decodeSubnet,
	DirPins:     decodePin,
	DirNames:    decodeNames,
	DirClaims:   decodeClaim,

	DirQuestions: decodeQuestion,
	DirAnswers:   decodeAnswer,
}

// Decode reads one key. The error is an *Error of kind ErrInvalid that names
// the key. A key outside the known directories gives (nil, nil): it is not
// ours to judge.
func Decode(kv KV) (Record, error) {
	dir, rest, _ := strings.Cut(kv.Key, "/")
	decode, known := decoders[dir+"/"]
	if !known {
		return nil, nil
	}
	r, err := decode(rest, kv)
	if err != nil {
		return nil, &Error{
			Kind: ErrInvalid, Code: fault.RecordMalformed, Item: kv.Key, What: err.Error(),
			Remedy: "correct or delete the key; docs/keyspace.md shows its form",
		}
	}
	return r, nil
}

func decodeNetwork(name string, kv KV) (Record, error) {
	n := Network{Name: name, Meta: kv.Meta}
	if err := decodeValue(kv.Value, &n, &n.Extra); err != nil {
		return nil, err
	}
	return n, n.Check()
}

func decodeNode(name string, kv KV) (Record, error) {
	n := Node{Name: name, Meta: kv.Meta}
	if err := CheckName("node", name); err != nil {
		return nil, err
	}
	if err := decodeValue(kv.Value, &n, &n.Extra); err != nil {
		return nil, err
	}
	for i, a := range n.VTEPs {
		n.VTEPs[i] = a.Unmap()
	}
	return n, nil
}

func decodeLiveness(node string, kv KV) (Record, error) {
	l := Liveness{Node: node, Meta: kv.Meta}
	if err := decodeValue(kv.Value, &l, &l.Extra); err != nil {
		return nil, err
	}
	if l.ID == "" {
		// Somebody wrote it by hand: it would keep the node's agent out for ever.
		return nil, errors.New("no id: it is no agent's")
	}
	return l, nil
}

func decodeSubnet(rest string, kv KV) (Record, error) {
	network, prefix, err := parseSubnetKey(rest)
	if err != nil {
		return nil, err
	}
	s := Subnet{Network: network, Prefix: prefix, Meta: kv.Meta}
	if err := decodeValue(kv.Value, &s, &s.Extra); err != nil {
		return nil, err
	}
	if s.Node == "" && !s.Reserved {
		return nil, errors.New("neither a node nor a reservation")
	}
	return s, nil
}

func decodePin(rest string, kv KV) (Record, error) {
	network, addr, err := parseAddrKey(DirPins, rest)
	if err != nil {
		return nil, err
	}
	p := Pin{Network: network, Addr: addr, Meta: kv.Meta}
	if err := decodeValue(kv.Value, &p, &p.Extra); err != nil {
		return nil, err
	}
	if p.Node == "" {
		return nil, errors.New("no node")
	}
	mac, err := ParseMAC(p.MAC)
	if err != nil {
		return nil, err
	}
	p.MAC = mac.String() // flows are written with it: one form only
	return p, nil
}

func decodeClaim(rest string, kv KV) (Record, error) {
	network, addr, err := parseAddrKey(DirClaims, rest)
	if err != nil {
		return nil, err
	}
	c := Claim{Network: network, Addr: addr, Meta: kv.Meta}
	if err := decodeValue(kv.Value, &c, &c.Extra); err != nil {
		return nil, err
	}
	if c.Node == "" {
		return nil, errors.New("no node")
	}
	return c, nil
}

func decodeNames(rest string, kv KV) (Record, error) {
	id, err := parseNamesKey(rest)
	if err != nil {
		return nil, err
	}
	n := Names{Network: id.Network, Node: id.Node, Meta: kv.Meta}
	if err := decodeValue(kv.Value, &n, &n.Extra); err != nil {
		return nil, err
	}
	for name := range n.Names {
		if name != CanonicalName(name) {
			return nil, fmt.Errorf("the name %q is not in lower case", name)
		}
	}
	return n, nil
}

// decodeValue unmarshals a JSON object into v, and the fields that v does not
// have into extra.
func decodeValue(value []byte, v any, extra *Extra) error {
	if t := bytes.TrimSpace(value); len(t) == 0 || t[0] != '{' {
		return fmt.Errorf("the value is not a JSON object")
	}
	if err := json.Unmarshal(value, v); err != nil {
		return fmt.Errorf("malformed value: %w", err)
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(value, &all); err != nil {
		return fmt.Errorf("malformed value: %w", err)
	}
	t := reflect.TypeOf(v).Elem()
	for k := range all {
		// encoding/json matches names without regard to case.
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if name != "-" && strings.EqualFold(name, k) {
				delete(all, k)
				break
			}
		}
	}
	if len(all) > 0 {
		*extra = all
	}
	return nil
}

// The identities that identify returns besides SubnetID, PinID and NamesID.
type (
	networkName string
	nodeName    string
	aliveName   string
	claimID     PinID
)

// identify returns which record a key names; nil when it names none.
func identify(key string) any {
	dir, rest, _ := strings.Cut(key, "/")
	switch dir + "/" {
	case DirNetworks:
		return networkName(rest)
	case DirNodes:
		return nodeName(rest)
	case DirAlive:
		return aliveName(rest)
	case DirSubnets:
		if network, p, err := parseSubnetKey(rest); err == nil {
			return SubnetID{network, p}
		}
	case DirPins:
		if network, a, err := parseAddrKey(DirPins, rest); err == nil {
			return PinID{network, a}
		}
	case DirClaims:
		if network, a, err := parseAddrKey(DirClaims, rest); err == nil {
			return claimID{network, a}
		}
	case DirNames:
		if id, err := parseNamesKey(rest); err == nil {
			return id
		}
	}
	return nil
}

// parseSubnetKey reads <network>/<address>-<length>, canonical form only.
func parseSubnetKey(rest string) (string, netip.Prefix, error) {
	network, prefix, _ := strings.Cut(rest, "/")
	i := strings.LastIndexByte(prefix, '-')
	if network == "" || i < 0 {
		return "", netip.Prefix{}, fmt.Errorf("the key is not subnets/<network>/<address>-<length>")
	}
	p, err := netip.ParsePrefix(prefix[:i] + "/" + prefix[i+1:])
	if err != nil {
		return "", netip.Prefix{}, fmt.Errorf("the key is not subnets/<network>/<address>-<length>: %w", err)
	}
	if want := SubnetKey(network, p); want != DirSubnets+rest {
		return "", netip.Prefix{}, fmt.Errorf("the key is not in canonical form: want %s", want)
	}
	return network, p, nil
}

// parseAddrKey reads <network>/<address>, canonical form only, of a key of a
// directory.
func parseAddrKey(dir, rest string) (string, netip.Addr, error) {
	network, addr, _ := strings.Cut(rest, "/")
	a, err := netip.ParseAddr(addr)
	if network == "" || err != nil || a.Zone() != "" {
		return "", netip.Addr{}, fmt.Errorf("the key is not %s<network>/<address>", dir)
	}
	if want := network + "/" + a.Unmap().String(); want != rest {
		return "", netip.Addr{}, fmt.Errorf("the key is not in canonical form: want %s", dir+want)
	}
	return network, a, nil
}
