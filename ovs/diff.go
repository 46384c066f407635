package ovs

import (
	"fmt"
	"maps"
	"slices"

	"github.com/baize-net/baize/topology/fault"
)

// DiffDB compares the wanted bridge and ports with what OVS has. Ports to
// remove come in a change of their own, to be applied after the flows that
// use them are gone: make before break. What Baize does not own is never
// touched; what stands in the way is reported.
func DiffDB(want State, have Observed) (change, stale DBChange, problems []fault.Fault) {
	b := want.Bridge
	switch {
	case have.Bridge == nil:
		change.CreateBridge, change.SetBridge = true, &b
	case have.Bridge.ExternalIDs[KeyOwner] == "":
		return DBChange{}, DBChange{}, []fault.Fault{{
			Item: "bridge " + b.Name, What: "a bridge of this name exists and is not Baize's: it is left alone, nothing is forwarded",
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
				Item: "port " + p.Name, What: "the name is in use on bridge " + other,
				Remedy: fmt.Sprintf("remove it with 'ovs-vsctl del-port %s %s'", other, p.Name),
			})
		case !there:
			change.AddPorts = append(change.AddPorts, p)
		case !old.Owned():
			problems = append(problems, fault.Fault{
				Item: "port " + p.Name, What: "a foreign port of this name is on the bridge",
				Remedy: fmt.Sprintf("remove it with 'ovs-vsctl del-port %s %s'", b.Name, p.Name),
			})
		case !old.satisfies(p):
			change.UpdatePorts = append(change.UpdatePorts, p)
		}
	}
	for name, p := range have.Ports {
		if p.Owned() && !wanted[name] {
			stale.RemovePorts = append(stale.RemovePorts, name)
		}
	}
	slices.Sort(stale.RemovePorts)
	return change, stale, problems
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
	there := make(map[FlowID]bool, len(have)) // and whether it is wanted
	for _, id := range have {
		there[id] = false
	}
	kept := 0
	for _, f := range want {
		id := f.ID()
		wanted, found := there[id]
		switch {
		case !found:
			add = append(add, f)
		case !wanted:
			there[id] = true
			kept++
		}
	}
	if kept == len(there) {
		return add, nil
	}
	for _, id := range have {
		if !there[id] {
			there[id] = true // once, however often it is there
			del = append(del, id)
		}
	}
	return add, del
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
