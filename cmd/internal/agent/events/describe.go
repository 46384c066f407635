package events

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/names"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology/fault"
)

// started is the event of an agent's start, with how the one before it ended.
func started(j *Journal, self hub.Identity, version string) event.Event {
	runs, _ := j.Read(event.Query{Kinds: []string{string(event.AgentStarted), string(event.AgentStopped)}})
	stopped := len(runs) > 0 && runs[len(runs)-1].Kind == event.AgentStopped
	for _, before := range slices.Backward(runs) {
		if before.Kind == event.AgentStarted {
			return afterEnd(before, true, stopped, self, version)
		}
	}
	return afterEnd(event.Event{}, false, stopped, self, version)
}

// afterEnd says how an agent starts: before is the start of the one before it, where it
// ran, stopped says that it was told to end.
func afterEnd(before event.Event, ran, stopped bool, self hub.Identity, version string) event.Event {
	e := event.Event{
		Kind: event.AgentStarted, Subject: "agent", Text: "version " + version + " starts", Version: version,
		Boot: self.Epoch,
	}
	if !ran {
		return e
	}
	if before.Version != version {
		e.Text += ", version " + before.Version + " ran before"
	}
	switch {
	case before.Boot != self.Epoch:
		e.Cause = "the host was started anew"
	case !stopped:
		e.Cause = "the one before it ended without being told to: it was killed, or failed"
	case before.Version != version:
		e.Cause = "it was replaced"
	}
	return e
}

// ofEndpoint is the event of what was done to an endpoint. c is its container, as far
// as it is known.
func ofEndpoint(d attach.Deed, c names.Container) event.Event {
	e := event.Event{
		Time: d.At, Kind: event.EndpointAttached, Subject: "endpoint " + d.Endpoint.Name, Network: d.Endpoint.Network,
		Container: c.Name, Text: "attached: " + addresses(d.Endpoint), Cause: d.By,
	}
	if d.What == attach.Detached {
		e.Kind, e.Text = event.EndpointDetached, "detached: "+addresses(d.Endpoint)
	}
	if c.Name != "" {
		e.Text += ", container " + c.Name
	}
	return e
}

// named is the event of an engine that told what the container of an endpoint is called.
func named(x ovs.Endpoint, c names.Container) event.Event {
	e := event.Event{
		Kind: event.EndpointNamed, Subject: "endpoint " + x.Name, Network: x.Network, Container: c.Name,
		Text: "is that of container " + c.Name,
	}
	if c.Service != "" {
		e.Text += ", service " + c.Service
	}
	if c.Image != "" {
		e.Text += ", image " + c.Image
	}
	e.Text = fault.Printable(e.Text)
	return e
}

func addresses(x ovs.Endpoint) string {
	out := make([]string, 0, 3)
	for _, a := range x.IPs {
		out = append(out, a.String())
	}
	return strings.Join(append(out, x.MAC.String()), ", ")
}

// ofSwitch are the events of what happened at the switch. What a pass did for
// endpoints of the node is told by their own events.
func ofSwitch(d openvswitch.Deed) []event.Event {
	switch d.What {
	case openvswitch.Lost:
		e := event.Event{
			Time: d.At, Kind: event.SwitchLost, Subject: "Open vSwitch", Text: "ovs-vswitchd ended, or its connection did",
		}
		if d.Err != nil {
			e.Cause = fault.Printable(d.Err.Error())
		}
		return []event.Event{e}
	case openvswitch.Back:
		return []event.Event{{
			Time: d.At, Kind: event.SwitchBack, Subject: "Open vSwitch", Text: "ovs-vswitchd answers again",
		}}
	}
	var out []event.Event
	c := d.Changes
	if c.Planned() && !c.Own {
		out = append(out, event.Event{
			Time: d.At, Kind: event.SwitchChanged, Subject: "Open vSwitch", Text: planned(c), Cause: cause(d),
			Revision: cmp.Or(c.Cause.Revision, d.Revision),
		})
	}
	return append(out, repairs(d)...)
}

// cause says which record a pass was made for.
func cause(d openvswitch.Deed) string {
	switch {
	case d.Changes.First:
		return "the agent's start"
	case d.Changes.Cause.Key != "":
		return d.Changes.Cause.String()
	}
	return fmt.Sprintf("the topology at revision %d", d.Revision)
}

// planned says what a pass did but for repairs.
func planned(c openvswitch.Changes) string {
	repaired := func(name string) bool { return slices.Contains(c.RepairedPorts, name) }
	var out []string
	if c.Bridge && !c.BridgeRepaired {
		out = append(out, "the bridge was made or its settings changed")
	}
	list := func(ports []string, verb string) {
		ports = slices.DeleteFunc(slices.Clone(ports), repaired)
		if len(ports) > 0 {
			out = append(out, fmt.Sprintf("%s %s", some("port", ports), verb))
		}
	}
	list(c.AddedPorts, "added")
	list(c.UpdatedPorts, "changed")
	list(c.RemovedPorts, "removed")
	if n := c.AddedFlows - c.RepairedFlows; n > 0 {
		out = append(out, count(n, "flow")+" added")
	}
	if c.RemovedFlows > 0 {
		out = append(out, count(c.RemovedFlows, "flow")+" removed")
	}
	return strings.Join(out, ", ")
}

// repairs are an event for each kind of thing that was restored.
func repairs(d openvswitch.Deed) []event.Event {
	c := d.Changes
	if !c.Repaired() {
		return nil
	}
	restored := func(subject, text, cause string) event.Event {
		return event.Event{Time: d.At, Kind: event.SwitchRepaired, Subject: subject, Text: text, Cause: cause}
	}
	var out []event.Event
	if c.BridgeRepaired {
		out = append(out, restored("bridge", "restored", "somebody removed it or changed its settings"))
	}
	for i, name := range c.RepairedPorts {
		if i == maxNamed {
			more := len(c.RepairedPorts) - i
			out = append(out, restored(count(more, "port"), "restored", "somebody removed or changed them"))
			break
		}
		out = append(out, restored("port "+name, "restored", "somebody removed or changed it"))
	}
	if c.RepairedFlows == 0 {
		return out
	}
	flow := fmt.Sprintf("table=%d,priority=%d", c.Example.Table, c.Example.Priority)
	if c.Example.Match != "" {
		flow += "," + c.Example.Match
	}
	flow += " (" + c.Example.Class + ")"
	e := restored(count(c.RepairedFlows, "flow"), "restored", "")
	switch {
	case c.Wiped:
		e.Text, e.Cause = "restored: none was left", "ovs-vswitchd was started anew, or somebody removed all of them"
	case c.RepairedFlows == 1:
		e.Text, e.Cause = "restored: "+flow, "somebody removed or changed it; it stems from "+stems(c.Example)
	default:
		e.Text, e.Cause = "restored, one of them "+flow, "somebody removed or changed them"
	}
	e.Revision = c.Example.Reason.Revision
	return append(out, e)
}

func stems(f ovs.Flow) string {
	if f.Reason.Key == "" {
		return "what is always there"
	}
	return f.Reason.String()
}

// maxNamed is how many things an event names.
const maxNamed = 8

// some names things, not too many.
func some(what string, all []string) string {
	if len(all) == 1 {
		return what + " " + all[0]
	}
	named := all[:min(len(all), maxNamed)]
	out := what + "s " + strings.Join(named, ", ")
	if more := len(all) - len(named); more > 0 {
		out += fmt.Sprintf(" and %d more", more)
	}
	return out
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// quiet are the faults by which parts say that etcd does not answer, by item. That has
// an event of its own, and some parts notice its end later than others.
type quiet map[string]bool

// choose returns the faults that are to be told of. away says that etcd does not answer.
func (q quiet) choose(faults []fault.Fault, away bool) (out []fault.Fault) {
	there := map[string]bool{}
	for _, f := range faults {
		if f.Code == fault.StoreUnavailable {
			there[f.Item] = true
			if away {
				q[f.Item] = true
			}
			if q[f.Item] {
				continue
			}
		}
		out = append(out, f)
	}
	maps.DeleteFunc(q, func(item string, _ bool) bool { return !there[item] })
	return out
}
