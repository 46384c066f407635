package doctor

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/baize-net/baize/topology/fault"
)

var switchChecks = []check{
	{"open vswitch", switchRuns}, {"version", switchVersion}, {"bridge", switchBridge}, {"ports", switchPorts},
	{"flows", switchFlows}, {"foreign", switchForeign}, {"tunnel ends", switchTunnels}, {"limits", switchLimits},
	{"load", switchLoad}, {"memory", switchMemory},
}

func switchRuns(f *Facts, r *result) {
	s := f.Switch
	for _, p := range s.Stopped {
		r.found(Finding{
			Code: fault.SwitchStarved, Severity: fault.Error, Item: p.Name,
			What:     "a signal has stopped it: it gets no processor time at all",
			Evidence: fmt.Sprintf("/proc/%d/stat: state T", p.PID), Remedy: "let it go on",
			Commands: []string{fmt.Sprintf("kill -CONT %d", p.PID)}, Safe: true,
		})
	}
	if len(s.Stopped) > 0 {
		return // that it does not answer follows from it
	}
	for _, part := range []Read{s.Database, s.Daemon} {
		switch {
		case part.Why != nil:
			x := of(*part.Why)
			x.Commands, x.Safe = []string{"systemctl start openvswitch-switch"}, true
			if strings.HasPrefix(x.Remedy, "run as root") {
				x.Commands, x.Safe = nil, false
			}
			r.found(x)
			return // one follows from the other
		case part.Skipped != "":
			r.unchecked(part.Skipped)
			return
		}
	}
	r.ok(fmt.Sprintf("Open vSwitch %s answers, up %s", s.Version, s.Up.Round(time.Second)))
}

// answers reports whether the switch can be looked at, and says why not.
func (f *Facts) answers(r *result) bool {
	if !f.Switch.Database.OK() || !f.Switch.Daemon.OK() {
		r.unchecked("Open vSwitch does not answer")
		return false
	}
	return true
}

// earlyAfterBoot is how soon after the boot ovs-vswitchd 3.1.0 must not start.
const earlyAfterBoot = 10 * time.Second

func switchVersion(f *Facts, r *result) {
	if !f.answers(r) {
		return
	}
	s := f.Switch
	early := s.Version == "3.1.0" && s.Datapath == "system" && s.Handlers == 0
	if early {
		r.found(Finding{
			Code: fault.SwitchVersion, Item: "ovs-vswitchd",
			What: "version 3.1.0 loses every new packet: it runs without handler threads",
			Evidence: fmt.Sprintf("it started %s after the boot, and within %s it takes the machine for one without processors",
				s.AfterBoot.Round(time.Second), earlyAfterBoot),
			Remedy: "restart it, and update Open vSwitch", Commands: []string{"systemctl restart openvswitch-switch"},
		})
		return
	}
	r.ok("version " + s.Version + ", no known fault shows")
}

// compared reports whether the switch was compared with the plan.
func (f *Facts) compared(r *result) bool {
	if !f.answers(r) {
		return false
	}
	if f.Switch.Drift == nil {
		r.unchecked("not compared with the plan: " + f.Switch.Compared.Reason())
		return false
	}
	return true
}

// hasBridge reports whether there is a bridge whose ports and flows were compared.
func (f *Facts) hasBridge(r *result) bool {
	if !f.compared(r) {
		return false
	}
	if f.Switch.Drift.CreateBridge {
		r.unchecked("there is no bridge")
		return false
	}
	return true
}

// mendSwitch is what puts the switch right: the agent, which looks again when it is told to, or starts.
func (f *Facts) mendSwitch() (remedy string, commands []string) {
	if f.Agent.Status == nil {
		return "the agent puts it right when it runs", []string{"systemctl start baize"}
	}
	return "the agent puts it right within a pass; if it does not, 'journalctl -u baize' says why", []string{restartAgent}
}

func switchBridge(f *Facts, r *result) {
	if !f.compared(r) {
		return
	}
	d := f.Switch.Drift
	remedy, commands := f.mendSwitch()
	x := Finding{Item: "bridge " + f.Switch.Bridge, Remedy: remedy, Commands: commands, Safe: true}
	switch {
	case d.CreateBridge:
		x.Code, x.What = fault.BridgeMissing, "is not there: nothing of this node's networks is forwarded"
		r.found(x)
	case d.UpdateBridge:
		x.Code, x.What = fault.BridgeAltered, "its settings are not those that Baize gave it"
		r.found(x)
	case len(d.Collectors) > 0:
		x.Code, x.What = fault.BridgeAltered, "collector sets (IPFIX) are missing, or were changed"
		x.Evidence = "Flow_Sample_Collector_Set " + strings.Join(d.Collectors, ", ")
		r.found(x)
	}
	for _, o := range f.Switch.Others {
		r.found(Finding{
			Code: fault.BridgeAltered, Severity: fault.Warning, Item: "bridge " + f.Switch.Bridge, What: o.What,
			Remedy: "take it back: Baize makes all flows of its bridge itself", Commands: []string{o.Undo},
		})
	}
	for _, p := range d.Problems {
		if p.Code == fault.SamplingForeign {
			r.found(of(p))
		}
	}
	if f.Switch.RestoreWait && f.Switch.Up > time.Minute {
		r.found(of(fault.Fault{
			Code: fault.RestoreWaitForeign, Item: "other_config:flow-restore-wait",
			What: "is set: Open vSwitch forwards nothing new, on any bridge",
		}))
	}
	r.ok(fmt.Sprintf("bridge %s is as planned, datapath %s", f.Switch.Bridge, f.Switch.Datapath))
}

func switchPorts(f *Facts, r *result) {
	if !f.hasBridge(r) {
		return
	}
	d := f.Switch.Drift
	remedy, commands := f.mendSwitch()
	for _, list := range []struct {
		ports []string
		what  string
	}{
		{d.AddPorts, "is missing"}, {d.UpdatePorts, "was changed"}, {d.RemovePorts, "is not wanted any more"},
	} {
		for _, p := range list.ports {
			r.found(Finding{
				Code: fault.PortMissing, Item: "port " + p, What: list.what, Remedy: remedy, Commands: commands, Safe: true,
			})
		}
	}
	for _, p := range d.Problems {
		if p.Code == fault.PortDead || p.Code == fault.PortForeign || p.Code == fault.PortMalformed {
			r.found(of(p))
		}
	}
	r.ok("every port is as planned")
}

// shown is how many lines of a long list are shown as evidence.
const shown = 3

func evidence(lines []string) string {
	out := strings.Join(lines[:min(shown, len(lines))], "\n")
	if len(lines) > shown {
		out += fmt.Sprintf("\n… and %d more", len(lines)-shown)
	}
	return out
}

func switchFlows(f *Facts, r *result) {
	if !f.hasBridge(r) {
		return
	}
	d := f.Switch.Drift
	remedy, commands := f.mendSwitch()
	x := Finding{Code: fault.FlowMissing, Item: "flows of bridge " + f.Switch.Bridge, Remedy: remedy, Commands: commands,
		Safe: true}
	switch missing, extra := len(d.MissingFlows), len(d.UnwantedFlows); {
	case missing > 0 && extra > 0:
		x.What = fmt.Sprintf("%d are missing and %d are altered or not wanted any more", missing, extra)
		x.Evidence = evidence(append(d.MissingFlows[:min(2, missing):min(2, missing)], d.UnwantedFlows...))
		r.found(x)
	case missing > 0:
		x.What, x.Evidence = fmt.Sprintf("%d are missing", missing), evidence(d.MissingFlows)
		r.found(x)
	case extra > 0:
		x.What, x.Evidence = fmt.Sprintf("%d are altered or not wanted any more", extra), evidence(d.UnwantedFlows)
		r.found(x)
	}
	r.ok(fault.Counted(f.Switch.Flows, "flow") + " as planned")
}

// flowParts are table, priority and match of a flow as ovs-ofctl(8) prints it.
var flowParts = regexp.MustCompile(`(?:^|, )table=(\d+), .*?priority=(\d+)(?:,(\S+))? actions=(.*)$`)

// deleteFlow returns the command that removes one flow of another program.
func deleteFlow(bridge, line string) []string {
	m := flowParts.FindStringSubmatch(line)
	if m == nil {
		return nil
	}
	match := fmt.Sprintf("table=%s,priority=%s", m[1], m[2])
	if m[3] != "" {
		match += "," + m[3]
	}
	return []string{fmt.Sprintf("ovs-ofctl -O OpenFlow14 --strict del-flows %s %s", arg(bridge), arg(match))}
}

func switchForeign(f *Facts, r *result) {
	if !f.compared(r) {
		return
	}
	d := f.Switch.Drift
	for _, line := range d.ForeignFlows {
		x := Finding{
			Code: fault.FlowForeign, Item: "flow of another program in bridge " + f.Switch.Bridge, Evidence: line,
			What:   "is none of Baize's, and may take packets before they come to the right flow",
			Remedy: "find out who added it; without it, Baize's flows decide", Commands: deleteFlow(f.Switch.Bridge, line),
		}
		if strings.HasSuffix(line, "actions=drop") {
			x.Severity, x.What = fault.Error, "is none of Baize's, and drops what it matches before Baize's flows see it"
		}
		r.found(x)
	}
	for _, p := range d.ForeignPorts {
		r.found(Finding{
			Code: fault.PortUnknown, Item: "port " + p,
			What:     "is on Baize's bridge and is none of its own: what comes in by it is dropped",
			Remedy:   "whoever made it should use a bridge of their own",
			Commands: []string{"ovs-vsctl del-port " + arg(f.Switch.Bridge) + " " + arg(p)},
		})
	}
	r.ok("nothing of other programs is in the bridge")
}

func switchTunnels(f *Facts, r *result) {
	if !f.answers(r) {
		return
	}
	for _, own := range f.Switch.Tunnels {
		if own.Bridge != f.Switch.Bridge {
			continue
		}
		for _, other := range f.Switch.Tunnels {
			if other.Bridge == own.Bridge || other.Type != own.Type || other.Remote != own.Remote || other.Key != own.Key ||
				(other.Local != "" && other.Local != own.Local) {
				continue
			}
			x := Finding{
				Code: fault.TunnelForeign, Item: "port " + own.Port, Severity: fault.Warning,
				What: fmt.Sprintf("port %s of bridge %s is a %s tunnel with the same ends: Open vSwitch makes one of them",
					other.Port, other.Bridge, other.Type),
				Evidence: strings.TrimSpace("to " + own.Remote + " key " + own.Key + " " + own.Error),
				Remedy:   "remove the other one, or give it a key of its own",
				Commands: []string{fmt.Sprintf("ovs-vsctl del-port %s %s", arg(other.Bridge), arg(other.Port))},
			}
			if own.Error != "" {
				x.Severity = fault.Error
			}
			r.found(x)
		}
	}
	r.ok("no other bridge has a tunnel with the ends of one of Baize's")
}

func switchLimits(f *Facts, r *result) {
	if !f.answers(r) {
		return
	}
	for _, p := range f.Switch.Limits {
		x := Finding{Code: fault.PortLimited, Item: "port " + p.Port, Remedy: "take it back: no flow of Baize's needs it"}
		mod := "ovs-ofctl -O OpenFlow14 mod-port " + arg(f.Switch.Bridge) + " " + arg(p.Port) + " "
		if p.Rate > 0 {
			x.What = fmt.Sprintf("may send %d kbit/s: what comes in by it above that is dropped", p.Rate)
			x.Evidence = "ingress_policing_rate"
			x.Commands = []string{"ovs-vsctl set interface " + arg(p.Port) + " ingress_policing_rate=0 ingress_policing_burst=0"}
			r.found(x)
		}
		if p.QoS {
			x.What, x.Evidence = "has a QoS: what goes out of it is queued, or limited and dropped", "column qos of table Port"
			x.Commands = []string{"ovs-vsctl clear port " + arg(p.Port) + " qos"}
			q := x
			q.Severity = fault.Warning // somebody may mean it so
			r.found(q)
		}
		if p.NoForward {
			x.What, x.Evidence, x.Commands = "is closed for what goes out of it", "config: NO_FWD", []string{mod + "forward"}
			r.found(x)
		}
		if p.NoReceive {
			x.What, x.Evidence, x.Commands = "is closed for what comes in by it", "config: NO_RECV", []string{mod + "receive"}
			r.found(x)
		}
	}
	r.ok("nobody limits Baize's ports")
}

// fewFlows is how many are too few for a datapath: Open vSwitch begins with 10000.
const fewFlows = 10000

// busyPolls is how many long poll intervals in a minute are too many.
const busyPolls = 12

func switchLoad(f *Facts, r *result) {
	if !f.answers(r) {
		return
	}
	s := f.Switch
	starved := func(what, evidence, remedy string) {
		r.found(Finding{Code: fault.SwitchStarved, Item: "ovs-vswitchd", What: what, Evidence: evidence, Remedy: remedy})
	}
	if s.LongPolls > busyPolls {
		starved(fmt.Sprintf("did not get to its work in time %d times in the last minute", s.LongPolls),
			"coverage/show: long_poll_interval", "give it more processor time: what else runs here?")
	}
	if s.Datapath == "system" && s.Handlers == 0 && s.Version != "3.1.0" {
		starved("has no handler threads: new packets are lost", "threads named handler: 0",
			"remove other_config:n-handler-threads, or restart it")
	}
	if limit, err := strconv.Atoi(s.Settings["flow-limit"]); err == nil && limit < fewFlows {
		r.found(Finding{
			Code: fault.SwitchStarved, Item: "other_config:flow-limit",
			What:     fmt.Sprintf("is %d: the datapath holds no more flows than that, and every other packet is slow", limit),
			Evidence: fmt.Sprintf("%d flows now", s.FlowsNow), Remedy: "remove it: Open vSwitch finds a limit by itself",
			Commands: []string{"ovs-vsctl --no-wait remove Open_vSwitch . other_config flow-limit"},
		})
	} else if s.FlowLimit > 0 && s.FlowsNow*10 >= s.FlowLimit*9 {
		starved(fmt.Sprintf("its datapath holds %d flows of %d: new ones are made slowly", s.FlowsNow, s.FlowLimit),
			"upcall/show: current, limit", "who sends to so many addresses? A scan shows like this")
	}
	if lost := s.LostAfter - s.LostBefore; s.LostAfter > s.LostBefore {
		r.found(Finding{
			Code: fault.UpcallsLost, Item: "datapath of bridge " + s.Bridge,
			What:     fmt.Sprintf("lost %d packets on their way to ovs-vswitchd while this was gathered", lost),
			Evidence: fmt.Sprintf("dpctl/show: lost %d, before %d", s.LostAfter, s.LostBefore),
			Remedy:   "new flows come faster than ovs-vswitchd takes them: give it processor time",
		})
	}
	r.ok(fmt.Sprintf("%d datapath flows of %d, %d handlers, nothing lost", s.FlowsNow, s.FlowLimit, s.Handlers))
}

const handlersSetting = "n-handler-threads"

// manyHandlers is how many handler threads are many whatever the number of processors.
const manyHandlers = 16

// switchMemory looks at what ovs-vswitchd takes. Each of its threads has a stack and sockets
// of its own, and with --mlockall all of it stays in memory.
func switchMemory(f *Facts, r *result) {
	if !f.answers(r) {
		return
	}
	s := f.Switch
	if s.Memory == 0 || s.MemoryTotal == 0 {
		r.unchecked("the kernel does not say how much memory ovs-vswitchd has")
		return
	}
	used := fmt.Sprintf("%d MB of %d MB, %d handler threads, %d processors", s.Memory>>20, s.MemoryTotal>>20, s.Handlers,
		s.Processors)
	x := Finding{Code: fault.SwitchMemory, Item: "ovs-vswitchd", Evidence: used}
	switch {
	case s.Handlers > max(manyHandlers, 4*s.Processors) && s.Settings[handlersSetting] != "":
		x.What = fmt.Sprintf("runs %d handler threads, because other_config:%s is %s: they take memory and no work",
			s.Handlers, handlersSetting, s.Settings[handlersSetting])
		x.Remedy = "remove the setting: it has one thread for each processor then"
		x.Commands = []string{"ovs-vsctl --no-wait remove Open_vSwitch . other_config " + handlersSetting}
	case s.Memory > s.MemoryTotal/4:
		x.What = "takes more than a quarter of the host's memory"
		x.Remedy = "'ovs-appctl memory/show' says what for; restart it if it only grows, and update Open vSwitch"
	default:
		r.ok("ovs-vswitchd takes " + used)
		return
	}
	r.found(x)
}
