package names

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/publicsuffix"

	"github.com/baize-net/baize/topology"
)

// Lookup implements Directory. A container cannot take the place of a host of the
// Internet by its name, unless the operator wants that: such names are not answered,
// and the next server is asked.
func (p *Part) Lookup(network, name string) ([]netip.Addr, bool) {
	if t := p.hub.Topology().Get(); t.Known() && (p.chosen.Public || !isPublic(name)) {
		return t.Snapshot.Lookup(network, name)
	}
	return nil, false
}

// isPublic reports whether a name is below a top-level domain of the Internet
// (publicsuffix.org, the ICANN part).
func isPublic(name string) bool {
	name = topology.CanonicalName(name)
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return false
	}
	_, icann := publicsuffix.PublicSuffix(name[i+1:])
	return icann
}

// LookupAddr implements Directory.
func (p *Part) LookupAddr(network string, addr netip.Addr) []string {
	if t := p.hub.Topology().Get(); t.Known() {
		return p.reverse.lookup(t.Snapshot, network, addr)
	}
	return nil
}

// reverseIndex has names by address, of each record that was looked into: a query
// costs a look at each node of the network, and not at each name.
type reverseIndex struct {
	mu      sync.Mutex
	records map[topology.NamesID]reverseRecord
}

type reverseRecord struct {
	revision int64 // of the record that it was made of
	byAddr   map[netip.Addr][]string
}

func (x *reverseIndex) lookup(s *topology.Snapshot, network string, addr netip.Addr) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.records == nil {
		x.records = map[topology.NamesID]reverseRecord{}
	}
	for id := range x.records {
		if _, there := s.Names[id]; !there {
			delete(x.records, id)
		}
	}
	var out []string
	for id, n := range s.Names {
		if id.Network != network {
			continue
		}
		r, made := x.records[id]
		if !made || r.revision != n.ModRevision {
			r = reverseRecord{n.ModRevision, map[netip.Addr][]string{}}
			for name, addrs := range n.Names {
				for _, a := range addrs {
					r.byAddr[a] = append(r.byAddr[a], name)
				}
			}
			x.records[id] = r
		}
		out = append(out, r.byAddr[addr]...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
