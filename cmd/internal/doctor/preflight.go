package doctor

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/baize-net/baize/topology/fault"
)

// Preflight is what is looked at before an agent is installed on a host, beside the
// facts of every host.
type Preflight struct {
	// Root: this program runs as root.
	Root bool `json:"root"`
	// Missing are programs that are needed and not installed.
	Missing []string `json:"missing,omitempty"`
	// Kernel: it has Open vSwitch's datapath; NoKernel says why not.
	Kernel   bool   `json:"kernel"`
	NoKernel string `json:"noKernel,omitempty"`
	// VTEP is what the agent would take, NoVTEP why there is none.
	Device string       `json:"device,omitempty"`
	VTEPs  []netip.Addr `json:"vteps,omitempty"`
	MTU    int          `json:"mtu"`
	NoVTEP string       `json:"noVTEP,omitempty"`
	// Owner is the host that has the node's name in etcd, where that is another one.
	Owner string `json:"owner,omitempty"`
	// Overlaps are networks that have addresses of this host's routes.
	Overlaps []Overlap `json:"overlaps,omitempty"`
	// Neighbours are signs of other programs that make networks for containers.
	Neighbours []string `json:"neighbours,omitempty"`
}

// Overlap is a network with addresses that a route of this host leads to.
type Overlap struct {
	Network string       `json:"network"`
	Prefix  netip.Prefix `json:"prefix"`
	Route   netip.Prefix `json:"route"`
	Dev     string       `json:"dev"`
}

// leastMTU is what an underlay has to have: an IPv6 packet of 1280 bytes (RFC 8200,
// section 5) in the largest encapsulation.
const leastMTU = 1280 + 70

var preflightChecks = []check{
	{"root", func(f *Facts, r *result) {
		if !f.Preflight.Root {
			r.found(Finding{
				Code: fault.SettingInvalid, Item: "this user", What: "is not root: most could not be looked at",
				Remedy: "run it with sudo",
			})
		}
		r.ok("root")
	}},
	{"programs", func(f *Facts, r *result) {
		for _, p := range f.Preflight.Missing {
			r.found(Finding{
				Code: fault.SwitchUnavailable, Item: p, What: "is not installed", Remedy: "install Open vSwitch",
				Commands: []string{"apt-get install -y openvswitch-switch"},
			})
		}
		r.ok("Open vSwitch is installed")
	}},
	{"open vswitch", switchRuns}, {"version", switchVersion},
	{"datapath", func(f *Facts, r *result) {
		if !f.Preflight.Kernel {
			r.found(Finding{
				Code: fault.EncapsulationMissing, Severity: fault.Warning, Item: "kernel", What: "has no datapath of Open vSwitch",
				Evidence: f.Preflight.NoKernel, Remedy: "install a kernel with the openvswitch module, or live with the slower " +
					"userspace datapath",
			})
		}
		r.ok("the kernel has Open vSwitch's datapath")
	}},
	{"underlay", preflightUnderlay}, {"ports", preflightPorts}, {"etcd", storeAnswers}, {"members", storeMembers},
	{"certificates", storeCertificates}, {"name", preflightName}, {"prefixes", preflightPrefixes},
	{"other networks", func(f *Facts, r *result) {
		r.ok("no other program makes networks for containers here")
		if len(f.Preflight.Neighbours) > 0 {
			r.Text = "beside Baize: " + strings.Join(f.Preflight.Neighbours, ", ") + "; they do not disturb each other " +
				"unless their prefixes overlap"
		}
	}},
}

func preflightUnderlay(f *Facts, r *result) {
	p := f.Preflight
	switch {
	case p.NoVTEP != "":
		r.found(Finding{
			Code: fault.UnderlayDown, Item: "VTEP", What: "no address of this host can be chosen: " + p.NoVTEP,
			Remedy: "name one with --vtep",
		})
	case p.MTU < leastMTU:
		r.found(Finding{
			Code: fault.UnderlayMTU, Item: "device " + p.Device,
			What:     fmt.Sprintf("has MTU %d: with tunnels less than 1280 is left, the least for IPv6", p.MTU),
			Remedy:   "raise it",
			Commands: []string{"ip link set dev " + arg(p.Device) + " mtu 1500"},
		})
	}
	r.ok(fmt.Sprintf("%s on %s, MTU %d", joined(p.VTEPs), p.Device, p.MTU))
}

func preflightPorts(f *Facts, r *result) {
	for _, t := range f.Underlay.Takers {
		who := "program " + t.Process
		if t.Device != "" {
			who = "device " + t.Device
		}
		r.found(Finding{
			Code: fault.TunnelPortTaken, Item: fmt.Sprintf("UDP port %d", t.Port), What: who + " has it",
			Remedy: "give Baize another one on all nodes: --vxlan-port",
		})
	}
	r.ok(fmt.Sprintf("UDP %d and %d are free", f.Underlay.VXLANPort, f.Underlay.GenevePort))
}

func preflightName(f *Facts, r *result) {
	if !f.Store.OK() {
		r.unchecked("the topology could not be read")
		return
	}
	if o := f.Preflight.Owner; o != "" {
		r.found(Finding{
			Code: fault.NodeDuplicate, Item: "node " + f.Node, What: "is the name of host " + o,
			Remedy: "give this one another name (--node), or hand the node over: baize node hand-over " + f.Node,
		})
	}
	r.ok("the name " + f.Node + " is free, or this host's")
}

func preflightPrefixes(f *Facts, r *result) {
	if !f.Store.OK() {
		r.unchecked("the topology could not be read")
		return
	}
	for _, o := range f.Preflight.Overlaps {
		r.found(Finding{
			Code: fault.NetworkCoversUnderlay, Severity: fault.Warning, Item: fmt.Sprintf("network %s, %s", o.Network, o.Prefix),
			What:   fmt.Sprintf("overlaps %s, which this host reaches by %s", o.Route, o.Dev),
			Remedy: "containers of the network do not reach the hosts there; choose another prefix for one of the two",
		})
	}
	r.ok("no network overlaps a route of this host")
}

// BeforeInstall looks at the facts of a host that is to become a node.
func BeforeInstall(f Facts) Report {
	out := Report{Node: f.Node, At: f.At, Version: f.Version, Results: []Result{}}
	for _, c := range preflightChecks {
		r := result{Result{Section: "preflight", Check: c.name}}
		c.look(&f, &r)
		out.Results = append(out.Results, r.Result)
	}
	for i := range out.Results {
		out.Results[i].settle(f.Node)
	}
	return out
}
