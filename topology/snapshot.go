package topology

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/baize-net/baize/topology/fault"
)

// SubnetID identifies a subnet: its network and prefix.
type SubnetID struct {
	Network string
	Prefix  netip.Prefix
}

// PinID identifies a pin: its network and address.
type PinID struct {
	Network string
	Addr    netip.Addr
}

// Snapshot is the whole topology at one etcd revision. It is immutable: With
// returns a changed copy.
type Snapshot struct {
	Revision int64
	Networks map[string]Network
	Nodes    map[string]Node
	Alive    map[string]Liveness
	Subnets  map[SubnetID]Subnet
	Pins     map[PinID]Pin
	Names    map[NamesID]Names
	Claims   map[PinID]Claim
	// Malformed has one problem for each key that could not be decoded.
	Malformed map[string]fault.Fault
	// Raw, unless nil, has the keys of another layout, by key: then there is
	// nothing else in the snapshot.
	Raw map[string]KV
}

// NewSnapshot decodes a full listing. Keys that cannot be decoded become
// problems, the others stay in force.
func NewSnapshot(revision int64, kvs []KV) *Snapshot {
	s := &Snapshot{
		Networks:  map[string]Network{},
		Nodes:     map[string]Node{},
		Alive:     map[string]Liveness{},
		Subnets:   map[SubnetID]Subnet{},
		Pins:      map[PinID]Pin{},
		Names:     map[NamesID]Names{},
		Claims:    map[PinID]Claim{},
		Malformed: map[string]fault.Fault{},
	}
	return s.With(revision, kvs, nil)
}

// NewRawSnapshot holds a full listing of another layout, undecoded.
func NewRawSnapshot(revision int64, kvs []KV) *Snapshot {
	return (&Snapshot{Raw: map[string]KV{}}).With(revision, kvs, nil)
}

// With returns the snapshot after puts and deletes (keys) at a later revision.
// Only the maps that change are copied.
func (s *Snapshot) With(revision int64, puts []KV, deletes []string) *Snapshot {
	out := *s
	out.Revision = revision
	if s.Raw != nil {
		out.Raw = maps.Clone(s.Raw)
		for _, key := range deletes {
			delete(out.Raw, key)
		}
		for _, kv := range puts {
			out.Raw[kv.Key] = kv
		}
		return &out
	}
	w := writer{s: &out}
	for _, key := range deletes {
		w.remove(key)
	}
	for _, kv := range puts {
		w.put(kv)
	}
	return &out
}

// Sharing returns the snapshot with those maps of another one that say the same
// as its own: what did not change is then the same map, as it is after With.
func (s *Snapshot) Sharing(other *Snapshot) *Snapshot {
	out := *s
	share(&out.Networks, other.Networks)
	share(&out.Nodes, other.Nodes)
	share(&out.Alive, other.Alive)
	share(&out.Subnets, other.Subnets)
	share(&out.Pins, other.Pins)
	share(&out.Names, other.Names)
	share(&out.Malformed, other.Malformed)
	share(&out.Raw, other.Raw)
	return &out
}

func share[K comparable, V any](m *map[K]V, other map[K]V) {
	if reflect.DeepEqual(*m, other) {
		*m = other
	}
}

// writer copies each map of a snapshot before its first change.
type writer struct {
	s                                     *Snapshot
	networks, nodes, alive, subnets, pins bool
	names, claims, malformed              bool
}

func own[K comparable, V any](m *map[K]V, done *bool) map[K]V {
	if !*done {
		*m, *done = maps.Clone(*m), true
	}
	return *m
}

func (w *writer) put(kv KV) {
	r, err := Decode(kv)
	if err != nil {
		// The old value of a key that cannot be decoded any more is dropped: a
		// snapshot never has values that etcd no longer has.
		w.remove(kv.Key)
		own(&w.s.Malformed, &w.malformed)[kv.Key] = fault.Of(err)
		return
	}
	if _, bad := w.s.Malformed[kv.Key]; bad {
		delete(own(&w.s.Malformed, &w.malformed), kv.Key)
	}
	switch r := r.(type) {
	case Network:
		own(&w.s.Networks, &w.networks)[r.Name] = r
	case Node:
		own(&w.s.Nodes, &w.nodes)[r.Name] = r
	case Liveness:
		own(&w.s.Alive, &w.alive)[r.Node] = r
	case Subnet:
		own(&w.s.Subnets, &w.subnets)[SubnetID{r.Network, r.Prefix}] = r
	case Pin:
		own(&w.s.Pins, &w.pins)[PinID{r.Network, r.Addr}] = r
	case Names:
		own(&w.s.Names, &w.names)[NamesID{r.Network, r.Node}] = r
	case Claim:
		own(&w.s.Claims, &w.claims)[PinID{r.Network, r.Addr}] = r
	}
}

func (w *writer) remove(key string) {
	if _, bad := w.s.Malformed[key]; bad {
		delete(own(&w.s.Malformed, &w.malformed), key)
	}
	switch id := identify(key).(type) {
	case networkName:
		delete(own(&w.s.Networks, &w.networks), string(id))
	case nodeName:
		delete(own(&w.s.Nodes, &w.nodes), string(id))
	case aliveName:
		delete(own(&w.s.Alive, &w.alive), string(id))
	case SubnetID:
		delete(own(&w.s.Subnets, &w.subnets), id)
	case PinID:
		delete(own(&w.s.Pins, &w.pins), id)
	case NamesID:
		delete(own(&w.s.Names, &w.names), id)
	case claimID:
		delete(own(&w.s.Claims, &w.claims), PinID(id))
	}
}

// SortedNetworks returns the networks by name.
func (s *Snapshot) SortedNetworks() []Network {
	return sortedBy(s.Networks, func(a, b Network) int { return cmp.Compare(a.Name, b.Name) })
}

// SortedNodes returns the nodes by name, numbers in names in numeric order.
func (s *Snapshot) SortedNodes() []Node {
	return sortedBy(s.Nodes, func(a, b Node) int { return CompareNames(a.Name, b.Name) })
}

// SortedSubnets returns the subnets by network and prefix.
func (s *Snapshot) SortedSubnets() []Subnet { return sortedBy(s.Subnets, compareSubnets) }

// SortedPins returns the pins by network and address.
func (s *Snapshot) SortedPins() []Pin {
	return sortedBy(s.Pins, func(a, b Pin) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), a.Addr.Compare(b.Addr))
	})
}

func compareSubnets(a, b Subnet) int {
	return cmp.Or(cmp.Compare(a.Network, b.Network), ComparePrefixes(a.Prefix, b.Prefix))
}

// ComparePrefixes orders by family, address, length.
func ComparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func sortedBy[K comparable, V any](m map[K]V, less func(a, b V) int) []V {
	return slices.SortedFunc(maps.Values(m), less)
}

// CompareNames orders names by the numbers in them: host2 before host10.
func CompareNames(a, b string) int {
	for a != "" && b != "" {
		da, db := leadingDigits(a), leadingDigits(b)
		if da > 0 && db > 0 {
			na, nb := trimZeros(a[:da]), trimZeros(b[:db])
			if c := cmp.Or(cmp.Compare(len(na), len(nb)), cmp.Compare(na, nb), cmp.Compare(da, db)); c != 0 {
				return c
			}
			a, b = a[da:], b[db:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

func leadingDigits(s string) int {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	return i
}

func trimZeros(s string) string {
	for len(s) > 1 && s[0] == '0' {
		s = s[1:]
	}
	return s
}

// KVs returns the snapshot's records as key/values, by key. Liveness and
// claims are left out: they mean nothing at a later moment.
func (s *Snapshot) KVs() []KV {
	out := slices.Collect(maps.Values(s.Raw))
	add := func(r Record, m Meta) { out = append(out, KV{Key: r.Key(), Value: Encode(r), Meta: m}) }
	for _, r := range s.Networks {
		add(r, r.Meta)
	}
	for _, r := range s.Nodes {
		add(r, r.Meta)
	}
	for _, r := range s.Subnets {
		add(r, r.Meta)
	}
	for _, r := range s.Pins {
		add(r, r.Meta)
	}
	for _, r := range s.Names {
		add(r, r.Meta)
	}
	slices.SortFunc(out, func(a, b KV) int { return cmp.Compare(a.Key, b.Key) })
	return out
}
