package ovs

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// DiffDB compares the wanted bridge and ports with what OVS has. Ports to
// remove come in a change of their own, to be applied after the flows that
// use them are gone: make before break. Only a port that cannot be there beside
// its successor, such as that of a peer that was renamed, goes in the first. What
// Baize does not own is never touched; what stands in the way is reported.
func DiffDB(want State, have Observed) (change, stale DBChange, problems []fault.Fault) {
	b := want.Bridge
	switch {
	case have.Bridge == nil:
		change.CreateBridge, change.SetBridge = true, &b
	case have.Bridge.ExternalIDs[KeyOwner] == "":
		return DBChange{}, DBChange{}, []fault.Fault{{
			Code: fault.BridgeForeign, Severity: fault.Error,
			Item:   "bridge " + b.Name,
			What:   "a bridge of this name exists and is not Baize's: it is left alone, nothing is forwarded",
			Remedy: "name another with --bridge, or remove it with 'ovs-vsctl del-br " + b.Name + "'",
		}}
	case !have.Bridge.satisfies(b):
		change.SetBridge = &b
	}

	wanted := make(map[string]bool, len(want.Ports))
	for _, p := range want.Ports {
		wanted[p.Name] = true
		old, there := have.Ports[p.Name]
		switch other, elsewhere := have.Foreign[p.Name]; {
		case elsewhere:
			problems = append(problems, fault.Fault{
				Code: fault.PortForeign, Severity: fault.Error,
				Item: "port " + p.Name, What: "the name is in use on bridge " + other,
				Remedy: fmt.Sprintf("remove it with 'ovs-vsctl del-port %s %s'", other, p.Name),
			})
		case !there:
			change.AddPorts = append(change.AddPorts, p)
		case !old.Owned():
			problems = append(problems, fault.Fault{
				Code: fault.PortForeign, Severity: fault.Error,
				Item: "port " + p.Name, What: "a foreign port of this name is on the bridge",
				Remedy: fmt.Sprintf("remove it with 'ovs-vsctl del-port %s %s'", b.Name, p.Name),
			})
		case !old.satisfies(p):
			change.UpdatePorts = append(change.UpdatePorts, p)
		}
	}
	for name := range have.Ports {
		if !wanted[name] && have.Ports[name].Owned() {
			stale.RemovePorts = append(stale.RemovePorts, name)
		}
	}
	problems = append(problems, want.diffSampling(have, &change, &stale)...)
	slices.Sort(stale.RemovePorts)
	change.RemovePorts, stale.RemovePorts = replaced(change, stale.RemovePorts, have)
	return change, stale, problems
}

// replaced divides ports to remove into those that have to go in the transaction
// that brings their successors and those that can go after the flows: Open vSwitch
// makes no second tunnel with the ends and the key of one that it has ("File
// exists"), and two host ports of one network would have the same addresses.
func replaced(change DBChange, stale []string, have Observed) (now, later []string) {
	coming := make(map[string]bool, len(change.AddPorts)+len(change.UpdatePorts))
	for _, list := range [][]Port{change.AddPorts, change.UpdatePorts} {
		for _, p := range list {
			if c := p.exclusive(); c != "" {
				coming[c] = true
			}
		}
	}
	for _, name := range stale {
		if coming[have.Ports[name].exclusive()] {
			now = append(now, name)
		} else {
			later = append(later, name)
		}
	}
	return now, later
}

// exclusive returns what only one port can be at a time; "" where there is no
// such thing.
func (p Port) exclusive() string {
	if network, ok := p.hostNetwork(); ok {
		return "host " + network
	}
	if p.Role() != RoleTunnel {
		return ""
	}
	port := p.Options["dst_port"]
	if port == "" {
		port = strconv.Itoa(topology.DefaultPort(topology.Transport(p.Type)))
	}
	o := p.Options
	return strings.Join([]string{"tunnel", p.Type, o["local_ip"], o["remote_ip"], o["key"], port}, " ")
}

// Split takes a change apart into one for the bridge and one for each port, for
// when the whole is refused: so one bad port costs only itself. A port goes with
// its successor.
func (c DBChange) Split(have Observed) []DBChange {
	var out []DBChange
	if c.SetBridge != nil || c.DeleteBridge != "" {
		out = append(out, DBChange{CreateBridge: c.CreateBridge, SetBridge: c.SetBridge, DeleteBridge: c.DeleteBridge})
	}
	if c.sampling() {
		out = append(out, DBChange{
			SetCollectors: c.SetCollectors, RemoveCollectors: c.RemoveCollectors,
			SetSFlow: c.SetSFlow, RemoveSFlow: c.RemoveSFlow,
		})
	}
	gone := make(map[string][]string, len(c.RemovePorts))
	for _, name := range c.RemovePorts {
		id := have.Ports[name].exclusive()
		gone[id] = append(gone[id], name)
	}
	with := func(p Port, one DBChange) {
		if id := p.exclusive(); id != "" {
			one.RemovePorts = gone[id]
			delete(gone, id)
		}
		out = append(out, one)
	}
	for _, p := range c.AddPorts {
		with(p, DBChange{AddPorts: []Port{p}})
	}
	for _, p := range c.UpdatePorts {
		with(p, DBChange{UpdatePorts: []Port{p}})
	}
	for _, id := range slices.Sorted(maps.Keys(gone)) {
		out = append(out, DBChange{RemovePorts: gone[id]})
	}
	return out
}

// satisfies reports whether b, as observed, is what is wanted. Keys of others
// in its maps do not matter.
func (b Bridge) satisfies(want Bridge) bool {
	return b.Datapath == want.Datapath && b.FailMode == want.FailMode &&
		sameSet(b.Protocols, want.Protocols) &&
		contains(b.OtherConfig, want.OtherConfig) && contains(b.ExternalIDs, want.ExternalIDs)
}

// satisfies reports whether p, as observed, is what is wanted. A tunnel's
// options must be exactly ours: a foreign one changes what it does.
func (p ObservedPort) satisfies(want Port) bool {
	return p.Type == want.Type && maps.Equal(p.Options, want.Options) && contains(p.ExternalIDs, want.ExternalIDs)
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

func contains(have, want map[string]string) bool {
	for k, v := range want {
		if h, ok := have[k]; !ok || h != v {
			return false
		}
	}
	return true
}

// DiffFlows returns the flows to add and the identities to delete.
func DiffFlows(want []BoundFlow, have []FlowID) (add []BoundFlow, del []FlowID) {
	lack, extra := unaligned(want, have)
	if len(lack)+len(extra) == 0 {
		return nil, nil
	}
	there := idsOf(len(extra), func(i int) FlowID { return have[extra[i]] })
	for _, i := range lack {
		if !there.other(want[i].ID()) {
			add = append(add, want[i])
		}
	}
	for _, j := range extra {
		if !there[have[j]] {
			there[have[j]] = true // once, however often it is there
			del = append(del, have[j])
		}
	}
	// What is in a list twice may be aligned and be left over, too.
	also := idsOf(len(add), func(i int) FlowID { return add[i].ID() })
	also.others(len(have), func(j int) FlowID { return have[j] })
	add = slices.DeleteFunc(add, func(f BoundFlow) bool { return also[f.ID()] })
	also = idsOf(len(del), func(i int) FlowID { return del[i] })
	also.others(len(want), func(i int) FlowID { return want[i].ID() })
	return add, slices.DeleteFunc(del, func(id FlowID) bool { return also[id] })
}

// unaligned returns, by their indexes, those of each list that the other has not at the
// same place: nearly all are there, in the same order.
func unaligned(want []BoundFlow, have []FlowID) (lack, extra []int) {
	same := func(i, j int) bool { return want[i].Cookie == have[j].Cookie && want[i].Table == have[j].Table }
	i, j := 0, 0
	until := func(x, y int) {
		for ; i < x; i++ {
			lack = append(lack, i)
		}
		for ; j < y; j++ {
			extra = append(extra, j)
		}
		i, j = x+1, y+1
	}
	for x, y := range aligned(len(want), len(have), same) {
		until(x, y)
	}
	until(len(want), len(have))
	return lack, extra
}

// idSet has the identities of one list, and whether the other has them.
type idSet map[FlowID]bool

func idsOf(n int, id func(int) FlowID) idSet {
	s := make(idSet, n)
	for i := range n {
		s[id(i)] = false
	}
	return s
}

// other notes that the other list has an identity; false where this one does not.
func (s idSet) other(id FlowID) bool {
	_, found := s[id]
	if found {
		s[id] = true
	}
	return found
}

func (s idSet) others(n int, id func(int) FlowID) {
	for i := 0; i < n && len(s) > 0; i++ {
		s.other(id(i))
	}
}

// OFPorts returns the numbers of the ports that can forward, by name.
func (o Observed) OFPorts() map[string]int {
	out := make(map[string]int, len(o.Ports))
	for name, p := range o.Ports {
		if p.Live() {
			out[name] = p.OFPort
		}
	}
	return out
}

// ForeignPorts returns the names of ports on the bridge that Baize did not
// make.
func (o Observed) ForeignPorts() []string {
	var out []string
	for name, p := range o.Ports {
		if !p.Owned() {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
