package topology

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// NamesID identifies the names of one node in one network.
type NamesID struct {
	Network, Node string
}

// Names are the names of one node's containers in one network, so that those of
// other nodes find them: key names/<network>/<node>. One key holds them all: a
// host starts many containers, and each change reaches every node.
type Names struct {
	Network string `json:"-"`
	Node    string `json:"-"`
	// Names are the addresses by name; names are in lower case, without a dot
	// at their end.
	Names map[string][]netip.Addr `json:"names"`

	// Layout names the topology source that the network comes from, unless it is
	// Baize's own: then there is no record of the network beside them.
	Layout string `json:"-"`

	Extra Extra `json:"-"`
	Meta  `json:"-"`
}

// NamesKey returns names/<network>/<node>.
func NamesKey(network, node string) string { return DirNames + network + "/" + node }

// Key returns the record's key.
func (n Names) Key() string { return NamesKey(n.Network, n.Node) }

// parseNamesKey reads <network>/<node>.
func parseNamesKey(rest string) (NamesID, error) {
	network, node, _ := strings.Cut(rest, "/")
	if CheckName("network", network) != nil || CheckName("node", node) != nil {
		return NamesID{}, fmt.Errorf("the key is not names/<network>/<node>")
	}
	return NamesID{network, node}, nil
}

// CanonicalName returns the form in which names are compared (RFC 4343).
func CanonicalName(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }

// Published is what one node publishes for a name of a network.
type Published struct {
	Network, Name, Node string
	// Addrs are those of the network, sorted: a node may publish no others.
	Addrs []netip.Addr
}

// published returns what a record says of a name, as far as it is valid.
func (n Names) published(in Network, name string) Published {
	p := Published{Network: in.Name, Name: name, Node: n.Node}
	for _, a := range n.Names[name] {
		if whole := in.Prefix(FamilyOf(a)); whole.IsValid() && whole.Contains(a) {
			p.Addrs = append(p.Addrs, a)
		}
	}
	slices.SortFunc(p.Addrs, netip.Addr.Compare)
	p.Addrs = slices.Compact(p.Addrs)
	return p
}

// Published returns the names of a network that are answered, by whom they are
// published; sorted by name and node. It is empty where there is no such network.
func (s *Snapshot) Published(network string) []Published {
	var out []Published
	for id, r := range s.Names {
		n, ok := s.Networks[network]
		if !ok || id.Network != network {
			continue
		}
		for name := range r.Names {
			if p := r.published(n, name); len(p.Addrs) > 0 {
				out = append(out, p)
			}
		}
	}
	slices.SortFunc(out, func(a, b Published) int {
		return cmp.Or(CompareNames(a.Name, b.Name), CompareNames(a.Node, b.Node))
	})
	return out
}

// NamesDomain is the domain below which names of containers are answered by Baize alone:
// an engine answers "web" by itself where it has one. .internal is for private use.
const NamesDomain = "baize.internal"

// allPrefix asks for all addresses of a name in NamesDomain.
const allPrefix = "all."

// InNamesDomain reports whether a name is below NamesDomain, and whether all its addresses
// are asked for.
func InNamesDomain(name string) (in, all bool) {
	name = CanonicalName(name)
	in = strings.HasSuffix(name, "."+NamesDomain)
	return in, in && strings.HasPrefix(name, allPrefix)
}

// NameForms returns what a name that is asked for may be in a network, the first
// that exists counts: "web.blue" is also web in the network blue, and so is each of the
// two in NamesDomain.
func NameForms(network, name string) []string {
	name = CanonicalName(name)
	forms := []string{name}
	if short, ok := strings.CutSuffix(name, "."+NamesDomain); ok {
		if forms = append(forms, short); strings.HasPrefix(short, allPrefix) {
			forms = append(forms, short[len(allPrefix):])
		}
	}
	for _, form := range forms {
		if short, ok := strings.CutSuffix(form, "."+CanonicalName(network)); ok {
			forms = append(forms, short)
		}
	}
	return forms
}

// Lookup returns the addresses that any node publishes for a name of a
// network, sorted; found is false where nobody does. Addresses outside the
// network are left out: a node may publish names for the network's only. So are those of
// nodes whose agent does not run, unless nobody else has the name.
func (s *Snapshot) Lookup(network, name string) (addrs []netip.Addr, found bool) {
	n, ok := s.Networks[network]
	if !ok {
		return nil, false
	}
	name = CanonicalName(name)
	var silent []netip.Addr
	for id, r := range s.Names {
		if id.Network != network {
			continue
		}
		has := &silent
		if _, alive := s.Alive[id.Node]; alive {
			has = &addrs
		}
		*has = append(*has, r.published(n, name).Addrs...)
	}
	if len(addrs) == 0 {
		addrs = silent
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	return addrs, len(addrs) > 0
}

// LookupAddr returns the names that are published for an address of a
// network, sorted.
func (s *Snapshot) LookupAddr(network string, a netip.Addr) []string {
	var out []string
	for id, r := range s.Names {
		if id.Network != network {
			continue
		}
		for name := range maps.Keys(r.Names) {
			if slices.Contains(r.Names[name], a) {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
