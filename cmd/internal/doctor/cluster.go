package doctor

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Kind is the question that agents answer with an Answer.
const Kind = "doctor"

// Answer is what one node says of itself, within topology.MaxAnswer.
type Answer struct {
	Report Report `json:"report"`
	// What is compared between nodes.
	VXLANPort  int        `json:"vxlanPort"`
	GenevePort int        `json:"genevePort"`
	Endpoints  []Attached `json:"endpoints,omitempty"`
	// Cut: Endpoints, and what is in order, are left out, for want of room.
	Cut bool `json:"cut,omitempty"`
}

// Attached is an endpoint, as far as others have to know it.
type Attached struct {
	Name    string       `json:"name"`
	Network string       `json:"network"`
	IPs     []netip.Addr `json:"ips"`
	MAC     string       `json:"mac"`
}

// AnswerOf makes the answer of a node of its facts.
func AnswerOf(f Facts) Answer {
	a := Answer{Report: Examine(f), VXLANPort: f.Underlay.VXLANPort, GenevePort: f.Underlay.GenevePort}
	for _, e := range f.Endpoints {
		a.Endpoints = append(a.Endpoints, Attached{e.Name, e.Network, e.IPs, e.MAC})
	}
	if b, err := json.Marshal(a); err == nil && len(b) < topology.MaxAnswer {
		return a
	}
	a.Cut, a.Endpoints = true, nil
	for i := range a.Report.Results {
		a.Report.Results[i].Text = ""
		if list := a.Report.Results[i].Findings; len(list) > mostFindings {
			a.Report.Results[i].Findings = append(slices.Clone(list[:mostFindings]), Finding{
				Code: list[0].Code, Severity: list[0].Severity, Node: f.Node, Item: "and more",
				What: fmt.Sprintf("%d findings of this check are left out: 'baize doctor' on the node shows them",
					len(list)-mostFindings),
			})
		}
	}
	return a
}

// mostFindings is how many of one check are in an answer that is too long.
const mostFindings = 5

// Asked is a node that was asked.
type Asked struct {
	Node  string
	Alive bool
	// Answer is nil where there is none; Why says why, where that is known.
	Answer *Answer
	Why    string
	// Version is that of its agent. Heard is when the answer came, by this host's clock.
	Version string
	Heard   time.Time
}

// Cluster makes one report of what nodes have answered: the nodes' own findings, what
// several have found once, and what shows only when they are compared. took is how long
// they were given.
func Cluster(asked []Asked, at time.Time, version string, took time.Duration) Report {
	out := Report{At: at, Version: version, Results: []Result{}}
	for _, n := range asked {
		out.Results = append(out.Results, node(n, took))
	}
	out.Results = append(out.Results, compared(asked)...)
	out.join()
	for i := range out.Results {
		out.Results[i].settle("")
	}
	return out
}

// node is what a node says of itself, as one check.
func node(n Asked, took time.Duration) Result {
	r := result{Result{Section: n.Node, Check: "node"}}
	switch {
	case n.Answer == nil && n.Why != "":
		r.unchecked(n.Why)
	case n.Answer == nil && !n.Alive:
		r.unchecked("its agent does not run: run 'baize doctor' on the node itself")
	case n.Answer == nil:
		r.unchecked(fmt.Sprintf("no answer within %s: its agent (version %s) hangs, or is older than this question",
			took.Round(time.Second), n.Version))
	default:
		rep := n.Answer.Report
		r.Findings = rep.Findings()
		unchecked := 0
		for _, x := range rep.Results {
			if x.State == Unchecked {
				unchecked++
			}
		}
		r.Text = fmt.Sprintf("%d checks passed, %d were not made", rep.Count(OK), unchecked)
	}
	return r.Result
}

// compared is what shows when the answers of nodes are laid side by side.
func compared(asked []Asked) []Result {
	var out []Result
	for _, c := range []struct {
		name string
		look func([]Asked, *result)
	}{{"settings", sameSettings}, {"clocks", sameClocks}, {"addresses", singleAddresses}} {
		r := result{Result{Section: "cluster", Check: c.name}}
		c.look(slices.DeleteFunc(slices.Clone(asked), func(n Asked) bool { return n.Answer == nil }), &r)
		out = append(out, r.Result)
	}
	return out
}

func sameSettings(nodes []Asked, r *result) {
	for _, s := range []struct {
		flag string
		of   func(Answer) int
	}{
		{"--vxlan-port", func(a Answer) int { return a.VXLANPort }}, {"--geneve-port",
			func(a Answer) int { return a.GenevePort }},
	} {
		by := map[int][]string{}
		most := 0
		for _, n := range nodes {
			v := s.of(*n.Answer)
			by[v] = append(by[v], n.Node)
			if len(by[v]) > len(by[most]) {
				most = v
			}
		}
		for v, names := range by {
			if v == most || v == 0 {
				continue
			}
			for _, name := range names {
				r.found(Finding{
					Code: fault.SettingsDiffer, Node: name, Item: s.flag,
					What:   fmt.Sprintf("is %d here and %d on %d other nodes: their tunnels do not meet", v, most, len(by[most])),
					Remedy: fmt.Sprintf("start its agent with %s %d", s.flag, most),
				})
			}
		}
	}
	r.ok("all nodes have the same ports")
}

// skewed is by how much clocks may differ: etcd's leases need none, but people compare
// the times in logs.
const skewed = 10 * time.Second

func sameClocks(nodes []Asked, r *result) {
	for _, n := range nodes {
		// It gathered some time before the answer came: that much is uncertain.
		off := n.Answer.Report.At.Sub(n.Heard)
		if off > skewed || off < -(skewed+topology.MaxQuestionSeconds*time.Second) {
			r.found(Finding{
				Code: fault.ClockSkew, Node: n.Node, Item: "clock",
				What:   fmt.Sprintf("is %s off from that of the host which asked", off.Round(time.Second)),
				Remedy: "let all hosts take the time from NTP: certificates and the times in logs need it",
			})
		}
	}
	r.ok("the clocks of all nodes agree")
}

func singleAddresses(nodes []Asked, r *result) {
	type owner struct{ node, endpoint string }
	seen := map[string][]owner{}
	var keys []string
	add := func(key string, o owner) {
		if len(seen[key]) == 0 {
			keys = append(keys, key)
		}
		seen[key] = append(seen[key], o)
	}
	cut := 0
	for _, n := range nodes {
		if n.Answer.Cut {
			cut++
		}
		for _, e := range n.Answer.Endpoints {
			for _, a := range e.IPs {
				add("address "+a.String()+" of network "+e.Network, owner{n.Node, e.Name})
			}
			if e.MAC != "" {
				add("MAC "+e.MAC+" of network "+e.Network, owner{n.Node, e.Name})
			}
		}
	}
	for _, key := range keys {
		owners := seen[key]
		if len(owners) < 2 {
			continue
		}
		var names []string
		for _, o := range owners {
			names = append(names, "endpoint "+o.endpoint+" of node "+o.node)
		}
		r.found(Finding{
			Code: fault.AddressTaken, Node: owners[1].node, Item: key, What: "is seen twice: " + strings.Join(names, " and "),
			Remedy:   "attach one of them anew, without --ip and --mac",
			Commands: []string{"baize endpoint remove " + arg(owners[1].endpoint)},
		})
	}
	if cut > 0 && len(r.Findings) == 0 {
		r.unchecked(fmt.Sprintf("%d nodes have too many endpoints to tell them all", cut))
		return
	}
	r.ok("no address and no MAC is seen twice")
}

// join makes one finding of those that several nodes have of the same thing: a record in
// etcd, for example, is seen by all.
func (r *Report) join() {
	first := map[string]*Finding{}
	more := map[string][]string{}
	for i := range r.Results {
		x := &r.Results[i]
		kept := x.Findings[:0]
		for _, f := range x.Findings {
			key := string(f.Code) + "\n" + f.Item + "\n" + f.What
			area := ""
			if len(f.Code) == 6 {
				area = string(f.Code[2:4])
			}
			if area != "01" && area != "02" { // what is on hosts is each host's own
				kept = append(kept, f)
				continue
			}
			if first[key] != nil {
				more[key] = append(more[key], f.Node)
				continue
			}
			kept = append(kept, f)
			first[key] = &kept[len(kept)-1]
		}
		x.Findings = kept
	}
	for key, f := range first {
		if n := len(more[key]); n > 0 {
			f.Node = fmt.Sprintf("%s and %d more", f.Node, n)
		}
	}
}
