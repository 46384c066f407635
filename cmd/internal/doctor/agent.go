package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology/fault"
)

const restartAgent = "systemctl restart baize"

var agentChecks = []check{
	{"agent", agentRuns},
	{"state", agentState},
	{"reported", func(f *Facts, r *result) {
		// takeAgents adds what belongs to no other check.
		if f.Agent.Status == nil {
			r.unchecked("no agent answers")
			return
		}
		r.ok("the agent reports nothing else")
	}},
}

func agentRuns(f *Facts, r *result) {
	a := f.Agent
	switch {
	case a.Status != nil && !a.Status.Ready && len(a.Status.Problems) == 0:
		r.found(Finding{
			Code: fault.AgentHangs, Severity: fault.Warning, Item: "agent of node " + f.Node, What: "is not ready yet",
			Evidence: "last pass: " + a.Status.LastReconcile.Error, Remedy: "'journalctl -u baize' says what it waits for",
		})
	case a.Status != nil:
		r.ok(fmt.Sprintf("the agent runs, version %s, up %s", a.Status.Version, a.Status.Uptime))
	case a.Skipped != "" && len(a.Traces) > 0:
		r.found(Finding{
			Code: fault.AgentDown, Item: "agent of node " + f.Node,
			What:     "does not run: forwarding goes on, and nothing that changes is followed",
			Evidence: strings.Join(append([]string{a.Skipped}, a.Traces...), "; "),
			Remedy:   "start it", Commands: []string{"systemctl start baize"}, Safe: true,
		})
	case a.Why != nil:
		r.found(Finding{
			Code: fault.AgentHangs, Item: "agent of node " + f.Node, What: a.Why.What, Evidence: a.Why.Item,
			Remedy: "restart it, which interrupts no traffic", Commands: []string{restartAgent},
		})
	default:
		r.unchecked("this host is no node: no agent runs, and nothing is left of one; 'baize doctor --preflight' " +
			"looks at a host before one is installed")
	}
}

// fullBelow is what an agent needs to write its files: a large topology has megabytes.
const fullBelow = 4 << 20

func agentState(f *Facts, r *result) {
	a := f.Agent
	full := func(what string) {
		r.found(Finding{
			Code: fault.StateUnwritable, Item: a.StateDir, What: what,
			Remedy: "make room there: the agent keeps what it knows in files, for a start without etcd",
		})
	}
	switch {
	case a.Size == 0:
		r.unchecked("no state directory at " + a.StateDir)
	case a.Free < min(fullBelow, a.Size/20):
		full(fmt.Sprintf("its file system is full: %d kB are free", a.Free>>10))
	case a.Files > 0 && a.FreeFiles < 16:
		full(fmt.Sprintf("its file system has room for %d more files", a.FreeFiles))
	default:
		r.ok(fmt.Sprintf("%d MB are free at %s", a.Free>>20, a.StateDir))
	}
}

// rooms says which check of a section takes an agent's fault, by the area of its code.
var rooms = map[string]string{
	"01": "records", "02": "records", "09": "records", "03": "bridge", "04": "device", "05": "kernel", "07": "kernel",
	"06": "endpoints", "08": "endpoints",
}

// takeAgents adds what the agent reports and no check has found, to the check that its
// code belongs to.
func (r *Report) takeAgents(f *Facts) {
	if f.Agent.Status == nil {
		return
	}
	for _, p := range f.Agent.Status.Problems {
		if r.knows(p) {
			continue
		}
		room := "reported"
		if len(p.Code) == 6 && rooms[string(p.Code[2:4])] != "" {
			room = rooms[string(p.Code[2:4])]
		}
		if meshCodes[p.Code] {
			room = tunnelsCheck
		}
		for i := range r.Results {
			if x := &r.Results[i]; x.Check == room {
				x.Findings = append(x.Findings, of(p))
				if x.State == Unchecked {
					x.State = ""
				}
			}
		}
	}
}

// knows reports whether a fault of the agent was found by a check already.
func (r *Report) knows(p fault.Fault) bool {
	return slices.ContainsFunc(r.Findings(), func(x Finding) bool {
		return x.Code == p.Code && (x.Item == p.Item || x.What == p.What || same[p.Code])
	})
}

// same are the codes of which there is one on a host, whatever it is called.
var same = map[fault.Code]bool{
	fault.StoreUnavailable: true, fault.StoreFull: true, fault.SwitchUnavailable: true, fault.BridgeMissing: true,
	fault.StateUnwritable: true, fault.RestoreWaitForeign: true, fault.UnderlayMTU: true,
}

// followVanished takes away what follows from a network's record that vanished: that its
// subnets, pins and names have no network. To delete them would be the next loss.
func (r *Report) followVanished() {
	gone := map[string]bool{}
	for _, x := range r.Findings() {
		if name, ok := strings.CutPrefix(x.Item, "networks/"); ok && x.Code == fault.RecordVanished {
			gone[name] = true
		}
	}
	for i := range r.Results {
		r.Results[i].Findings = slices.DeleteFunc(r.Results[i].Findings, func(x Finding) bool {
			parts := strings.Split(x.Item, "/")
			return x.Code == fault.RecordOrphaned && len(parts) == 3 && gone[parts[1]]
		})
	}
}
