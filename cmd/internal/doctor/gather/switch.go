package gather

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/drift"
	"github.com/baize-net/baize/cmd/internal/kernel/linux"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// ovs looks at Open vSwitch itself.
func (g *gatherer) ovs(ctx context.Context) {
	s := &g.facts.Switch
	s.Bridge = g.cfg.Bridge
	have, err := g.db.Observe(ctx)
	if err != nil {
		x := fault.Of(err)
		s.Database.Why, s.Stopped = &x, g.stopped()
		s.Daemon.Skipped = "its database does not answer"
		return
	}
	g.observed = &have
	s.Version, s.RestoreWait = have.Version, have.RestoreWait
	if have.Bridge != nil {
		s.Datapath = have.Bridge.Datapath
		if s.Datapath == "" {
			s.Datapath = "system"
		}
	}
	g.daemon(s)
	out, err := g.flows.AppCtl(ctx, "upcall/show")
	if err != nil {
		s.Stopped = g.stopped()
		x := fault.Of(err)
		s.Daemon.Why = &x
		return
	}
	s.FlowsNow, s.FlowLimit = upcalls(out)
	g.list(ctx, "Open_vSwitch", "other_config", func(row map[string]any) { s.Settings = ovsMap(row["other_config"]) })
	if out, err := g.flows.AppCtl(ctx, "coverage/show"); err == nil {
		s.LongPolls = longPolls(out)
	}
	s.LostBefore = g.lost(ctx)
	s.LostAfter = s.LostBefore
	s.Tunnels = g.tunnels(ctx)
	s.Limits = g.limits(ctx)
	s.Others = g.settings(ctx)
}

var (
	upcallLine = regexp.MustCompile(`flows\s+: \(current (\d+)\).*\(limit (\d+)\)`)
	lostCount  = regexp.MustCompile(`lookups:.* lost:(\d+)`)
	pollRates  = regexp.MustCompile(`long_poll_interval\s+\S+/sec\s+([0-9.]+)/sec`)
)

// upcalls reads how many flows the datapaths hold and may hold (ovs-appctl upcall/show).
func upcalls(out string) (now, limit int) {
	for _, m := range upcallLine.FindAllStringSubmatch(out, -1) {
		n, _ := strconv.Atoi(m[1])
		l, _ := strconv.Atoi(m[2])
		now, limit = now+n, l
	}
	return now, limit
}

// lost reads how many packets the datapaths lost on their way (ovs-appctl dpctl/show).
func lost(out string) (n uint64) {
	for _, m := range lostCount.FindAllStringSubmatch(out, -1) {
		x, _ := strconv.ParseUint(m[1], 10, 64)
		n += x
	}
	return n
}

// longPolls reads how many long poll intervals were in the last minute (ovs-appctl
// coverage/show: rates of five seconds, a minute, an hour, and all).
func longPolls(out string) int {
	m := pollRates.FindStringSubmatch(out)
	if m == nil {
		return 0
	}
	rate, _ := strconv.ParseFloat(m[1], 64)
	return int(rate*60 + 0.5)
}

func (g *gatherer) lostNow(ctx context.Context) {
	s := &g.facts.Switch
	if !s.Daemon.OK() || !s.Database.OK() {
		return
	}
	s.LostAfter = max(s.LostBefore, g.lost(ctx))
}

// lost asks the datapath of the bridge. Asked for all of them, ovs-vswitchd logs a warning
// where the kernel has none.
func (g *gatherer) lost(ctx context.Context) uint64 {
	name := map[string]string{"system": "system@ovs-system", "netdev": "netdev@ovs-netdev"}[g.facts.Switch.Datapath]
	if name == "" {
		return 0
	}
	out, err := g.flows.AppCtl(ctx, "dpctl/show", name)
	if err != nil {
		return 0
	}
	return lost(out)
}

// daemon looks at the process of ovs-vswitchd.
func (g *gatherer) daemon(s *doctor.Switch) {
	pid := g.pid("ovs-vswitchd")
	threads, _ := filepath.Glob("/proc/" + pid + "/task/*/comm")
	if len(threads) == 0 {
		return // none runs
	}
	for _, t := range threads {
		if name, err := os.ReadFile(t); err == nil && strings.HasPrefix(string(name), "handler") {
			s.Handlers++
		}
	}
	s.AfterBoot, s.Up = started(pid)
	s.Processors = runtime.NumCPU()
	s.Memory, s.MemoryTotal = kilobytes("/proc/"+pid+"/status", "VmRSS:"), kilobytes("/proc/meminfo", "MemTotal:")
}

// kilobytes reads a value of a file such as /proc/meminfo, in bytes.
func kilobytes(file, key string) uint64 {
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == key {
			n, _ := strconv.ParseUint(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// stopped are the processes of Open vSwitch that a signal has stopped (proc(5),
// /proc/PID/stat field 3).
func (g *gatherer) stopped() (out []doctor.Process) {
	for _, name := range []string{"ovsdb-server", "ovs-vswitchd"} {
		pid := g.pid(name)
		stat, _ := os.ReadFile("/proc/" + pid + "/stat")
		_, rest, _ := strings.Cut(string(stat), ") ") // the name may have spaces
		if n, err := strconv.Atoi(pid); err == nil && strings.HasPrefix(rest, "T ") {
			out = append(out, doctor.Process{Name: name, PID: n})
		}
	}
	return out
}

// pid reads a pidfile of Open vSwitch; empty where there is none.
func (g *gatherer) pid(name string) string {
	dir := g.cfg.RunDir
	if dir == "" {
		dir = openflow.DefaultRunDir
	}
	b, _ := os.ReadFile(filepath.Join(dir, name+".pid"))
	return strings.TrimSpace(string(b))
}

// started returns how long after the boot a process started, and how long it runs
// (proc(5), /proc/PID/stat field 22, /proc/uptime). A tick is a hundredth of a second on
// every Linux that Go runs on.
func started(pid string) (afterBoot, up time.Duration) {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	uptime, err2 := os.ReadFile("/proc/uptime")
	if err != nil || err2 != nil {
		return 0, 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may have spaces
	fields, seconds := strings.Fields(rest), strings.Fields(string(uptime))
	if len(fields) < 20 || len(seconds) == 0 {
		return 0, 0
	}
	ticks, _ := strconv.ParseInt(fields[19], 10, 64)
	now, _ := strconv.ParseFloat(seconds[0], 64)
	afterBoot = time.Duration(ticks) * 10 * time.Millisecond
	return afterBoot, time.Duration(now*float64(time.Second)) - afterBoot
}

// list reads columns of a table of Open vSwitch's database. The monitor that Observe uses
// has only what concerns Baize's own.
func (g *gatherer) list(ctx context.Context, table, columns string, each func(row map[string]any)) {
	out, err := run(ctx, "ovs-vsctl", "--db="+g.cfg.OVSDB, "--timeout=5", "-f", "json", "-d", "json", "--columns="+columns,
		"list", table)
	if err != nil {
		return
	}
	var t struct {
		Headings []string `json:"headings"`
		Data     [][]any  `json:"data"`
	}
	if json.Unmarshal([]byte(out), &t) != nil {
		return
	}
	for _, d := range t.Data {
		row := map[string]any{}
		for i, h := range t.Headings {
			row[h] = d[i]
		}
		each(row)
	}
}

// tunnels lists the tunnel ports of all bridges.
func (g *gatherer) tunnels(ctx context.Context) []doctor.Tunnel {
	var found []doctor.Tunnel
	g.list(ctx, "Interface", "name,type,options,error", func(row map[string]any) {
		options := ovsMap(row["options"])
		kind, _ := row["type"].(string)
		if options["remote_ip"] == "" {
			return
		}
		name, _ := row["name"].(string)
		failure, _ := row["error"].(string)
		found = append(found, doctor.Tunnel{
			Port: name, Type: kind, Local: options["local_ip"], Remote: options["remote_ip"], Key: options["key"],
			Error: failure,
		})
	})
	for i := range found {
		found[i].Bridge = g.observed.Foreign[found[i].Port]
		if _, own := g.observed.Ports[found[i].Port]; own {
			found[i].Bridge = g.cfg.Bridge
		}
	}
	return slices.DeleteFunc(found, func(t doctor.Tunnel) bool { return t.Bridge == "" })
}

// settings are those of the bridge that are none of Baize's, and may change what it does: a
// controller writes flows, spanning trees close ports, mirrors copy packets into ports.
func (g *gatherer) settings(ctx context.Context) (out []doctor.BridgeSetting) {
	bridge := g.cfg.Bridge
	g.list(ctx, "Bridge", "name,controller,mirrors,stp_enable,rstp_enable", func(row map[string]any) {
		if row["name"] != bridge {
			return
		}
		add := func(set bool, what, undo string) {
			if set {
				out = append(out, doctor.BridgeSetting{What: what, Undo: undo})
			}
		}
		add(!emptySet(row["controller"]), "it has an OpenFlow controller, which may change its flows",
			"ovs-vsctl del-controller "+bridge)
		add(!emptySet(row["mirrors"]), "it has a mirror, which copies packets into a port",
			"ovs-vsctl clear bridge "+bridge+" mirrors")
		add(row["stp_enable"] == true, "it takes part in a spanning tree, which closes ports",
			"ovs-vsctl set bridge "+bridge+" stp_enable=false")
		add(row["rstp_enable"] == true, "it takes part in a rapid spanning tree, which closes ports",
			"ovs-vsctl set bridge "+bridge+" rstp_enable=false")
	})
	return out
}

// emptySet reports whether a column has no value, as OVSDB writes it (RFC 7047, section 5.1):
// ["set", []].
func emptySet(v any) bool {
	pair, ok := v.([]any)
	if !ok || len(pair) != 2 || pair[0] != "set" {
		return v == nil
	}
	list, _ := pair[1].([]any)
	return len(list) == 0
}

// portConfig is a port and its configuration (ovs-ofctl dump-ports-desc).
var portConfig = regexp.MustCompile(`(?m)^ \d+\(([^)]+)\): .*\n +config: +(.*)$`)

// limits lists what somebody does to the traffic of Baize's ports.
func (g *gatherer) limits(ctx context.Context) (out []doctor.PortLimit) {
	all := map[string]doctor.PortLimit{}
	g.list(ctx, "Interface", "name,ingress_policing_rate", func(row map[string]any) {
		name, _ := row["name"].(string)
		rate, _ := row["ingress_policing_rate"].(float64)
		all[name] = doctor.PortLimit{Port: name, Rate: int(rate)}
	})
	g.list(ctx, "Port", "name,qos", func(row map[string]any) {
		name, _ := row["name"].(string)
		p := all[name]
		p.Port, p.QoS = name, !emptySet(row["qos"])
		all[name] = p
	})
	dir := g.cfg.RunDir
	if dir == "" {
		dir = openflow.DefaultRunDir
	}
	bridge := "unix:" + filepath.Join(dir, g.cfg.Bridge+".mgmt")
	desc, _ := run(ctx, "ovs-ofctl", "-O", "OpenFlow14", "dump-ports-desc", bridge)
	for _, m := range portConfig.FindAllStringSubmatch(desc, -1) {
		p := all[m[1]]
		p.Port, p.NoForward, p.NoReceive = m[1], strings.Contains(m[2], "NO_FWD"), strings.Contains(m[2], "NO_RECV")
		all[m[1]] = p
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p := all[name]
		if _, own := g.observed.Ports[name]; own && (p.Rate > 0 || p.QoS || p.NoForward || p.NoReceive) {
			out = append(out, p)
		}
	}
	return out
}

// ovsMap reads a map as OVSDB writes it (RFC 7047, section 5.1): ["map", [[k, v], …]].
func ovsMap(v any) map[string]string {
	out := map[string]string{}
	pair, _ := v.([]any)
	if len(pair) != 2 {
		return out
	}
	list, _ := pair[1].([]any)
	for _, e := range list {
		kv, _ := e.([]any)
		if len(kv) == 2 {
			k, _ := kv[0].(string)
			out[k], _ = kv[1].(string)
		}
	}
	return out
}

const (
	// looks is how often what differs is looked at: the agent may be at work.
	looks = 3
	// between is the pause; an agent needs less for a pass.
	between = 700 * time.Millisecond
)

// compare compares the host with its plan. What differs counts when it does so each time.
func (g *gatherer) compare(ctx context.Context) {
	s := &g.facts.Switch
	why := g.comparable()
	if why != "" {
		s.Compared.Skipped = why
		return
	}
	var last *drift.Drift
	for i := range looks {
		d, err := g.drift(ctx)
		if err != nil {
			x := fault.Of(err)
			s.Compared.Why = &x
			return
		}
		if last != nil {
			d = both(*last, d)
		}
		last = &d
		if quiet(d) || i == looks-1 {
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(between):
		}
	}
	s.Drift = last
	if seen, err := g.flows.Observe(ctx); err == nil {
		s.Flows = len(seen.Flows)
	}
}

// comparable says why the host cannot be compared with its plan; empty where it can.
func (g *gatherer) comparable() string {
	switch {
	case !g.facts.Switch.Database.OK() || !g.facts.Switch.Daemon.OK():
		return "Open vSwitch does not answer"
	case g.facts.Store.Skipped != "":
		return g.facts.Store.Skipped
	case g.snap == nil:
		return "the topology is not known: etcd does not answer, and the agent has kept no copy"
	}
	if _, known := g.snap.Nodes[g.facts.Node]; !known {
		return "node " + g.facts.Node + " is not registered"
	}
	routed := slices.ContainsFunc(g.snap.View(g.facts.Node).Networks, func(n topology.NetworkView) bool {
		return n.Transport.Routed()
	})
	if routed && g.facts.Agent.Status == nil {
		return "which routes a node has in networks with the transports route and auto is known to its agent alone, " +
			"and that does not answer"
	}
	return ""
}

func (g *gatherer) drift(ctx context.Context) (drift.Drift, error) {
	node := g.snap.Nodes[g.facts.Node]
	view := g.snap.View(g.facts.Node)
	opt := pipeline.Options{
		Bridge: g.cfg.Bridge, Datapath: node.Datapath,
		Ports: map[topology.Transport]int{topology.VXLAN: g.cfg.VXLANPort, topology.Geneve: g.cfg.GenevePort},
	}
	if opt.Datapath == "" {
		opt.Datapath = "system"
	}
	var routes []api.Route
	if g.facts.Agent.Status != nil {
		var err error
		if routes, err = api.NewClient(g.cfg.Socket).Routes(ctx); err != nil {
			return drift.Drift{}, err
		}
		opt.Direct = drift.DirectOf(routes)
	}
	host := drift.Host{DB: g.db, Flows: g.flows, Kernel: linux.Host{}, Endpoints: g.own}
	return host.Compare(ctx, view, opt, routes)
}

// quiet reports whether there is nothing to tell.
func quiet(d drift.Drift) bool {
	return d.Same && len(d.ForeignFlows)+len(d.ForeignPorts) == 0 && len(d.Problems) == 0
}

// both is what two observations have in common.
func both(a, b drift.Drift) drift.Drift {
	keep := func(x *[]string, y []string) {
		*x = slices.DeleteFunc(*x, func(s string) bool { return !slices.Contains(y, s) })
	}
	keep(&b.AddPorts, a.AddPorts)
	keep(&b.UpdatePorts, a.UpdatePorts)
	keep(&b.RemovePorts, a.RemovePorts)
	keep(&b.MissingFlows, a.MissingFlows)
	keep(&b.UnwantedFlows, a.UnwantedFlows)
	keep(&b.Kernel, a.Kernel)
	keep(&b.ForeignPorts, a.ForeignPorts)
	b.CreateBridge = b.CreateBridge && a.CreateBridge
	b.UpdateBridge = b.UpdateBridge && a.UpdateBridge
	b.Problems = slices.DeleteFunc(b.Problems, func(f fault.Fault) bool {
		return !slices.ContainsFunc(a.Problems,
			f.Same)
	})
	b.Same = !b.CreateBridge && !b.UpdateBridge && len(b.AddPorts)+len(b.UpdatePorts)+len(b.RemovePorts)+
		len(b.MissingFlows)+len(b.UnwantedFlows)+len(b.Kernel) == 0
	return b
}
