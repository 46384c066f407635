package doctor

import (
	"time"

	"github.com/baize-net/baize/topology"
)

// LookAt fills in what the records of a topology say.
func (s *Store) LookAt(snap *topology.Snapshot) {
	s.Revision = snap.Revision
	s.Topology = append(append(snap.Validate(), snap.Down()...), snap.Deletions()...)
	for _, n := range snap.SortedNodes() {
		_, alive := snap.Alive[n.Name]
		s.Nodes = append(s.Nodes, Node{Name: n.Name, VTEPs: n.VTEPs, Alive: alive, Version: n.Version})
	}
	for _, n := range snap.SortedNetworks() {
		for _, f := range n.Families() {
			s.Networks = append(s.Networks, useOf(snap, n, f))
		}
	}
}

// useOf counts the subnets of a network in one family.
func useOf(snap *topology.Snapshot, n topology.Network, f topology.Family) NetworkUse {
	use := NetworkUse{Network: n.Name, Family: f.String()}
	if all := topology.SubnetCount(n, f); all > 0 {
		use.Total = all - 1 // the first is never leased
	}
	dead := map[string]bool{}
	for _, sub := range snap.SortedSubnets() {
		if sub.Network != n.Name || topology.FamilyOf(sub.Prefix.Addr()) != f {
			continue
		}
		taken := uint64(1)
		if larger := n.SubnetLen(f) - sub.Prefix.Bits(); larger > 0 {
			taken <<= min(larger, 32) // a reservation may be of many
		}
		if sub.Prefix.Addr() == n.Prefix(f).Addr() {
			taken--
		}
		use.Used += taken
		_, registered := snap.Nodes[sub.Node]
		_, alive := snap.Alive[sub.Node]
		if registered && !alive && snap.Nodes[sub.Node].Router == nil && !dead[sub.Node] {
			dead[sub.Node] = true
			use.Dead = append(use.Dead, sub.Node)
		}
	}
	return use
}

// OnPaper looks at a topology alone, such as that of a backup: nobody is asked, so that
// what only a host or etcd could say is left out.
func OnPaper(snap *topology.Snapshot, at time.Time, version string) Report {
	var s Store
	s.LookAt(snap)
	s.Topology = append(snap.Validate(), snap.Deletions()...) // liveness is not in a backup
	f := Facts{Store: s}
	out := Report{At: at, Version: version, Results: []Result{}}
	for _, c := range storeChecks {
		if c.name != "records" && c.name != "subnets" {
			continue
		}
		r := result{Result{Section: "store", Check: c.name}}
		c.look(&f, &r)
		out.Results = append(out.Results, r.Result)
	}
	for _, n := range snap.SortedNodes() {
		r := result{Result{Section: "nodes", Check: n.Name, Text: "every record of it can be carried out"}}
		for _, p := range snap.View(n.Name).Problems {
			x := of(p)
			x.Node = n.Name
			r.found(x)
		}
		out.Results = append(out.Results, r.Result)
	}
	out.once()
	for i := range out.Results {
		out.Results[i].settle("")
	}
	return out
}

// once leaves out what an earlier check has found as well.
func (r *Report) once() {
	seen := map[string]bool{}
	for i := range r.Results {
		result := &r.Results[i]
		kept := result.Findings[:0]
		for _, x := range result.Findings {
			key := string(x.Code) + x.Item + x.What
			if !seen[key] {
				seen[key] = true
				kept = append(kept, x)
			}
		}
		result.Findings = kept
	}
}
