package pipeline_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/ovstest"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/ovs/vswitch"
)

var (
	packets    = flag.Int("packets", 30, "random packets of each pipeline that are compared with Open vSwitch")
	packetSeed = flag.Uint64("packet-seed", 0, "seed of the random packets; 0: another in each run")
)

// What package forward says of a packet is what a real Open vSwitch says of it
// (ofproto/trace): the same flows in the same order, and the same ports. Two flows
// that match and have one priority are the same where they do the same. So it is
// with the flows as they were written, and as the switch prints them.
func TestForwardAsOpenVSwitchDoes(t *testing.T) {
	seed := *packetSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-packet-seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	sw := ovstest.Start(t)
	cases, compared, delivered := goldenCases(), 0, 0
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		c := cases[name]
		state := pipeline.Build(c.cluster.s.View("host1"), c.endpoints, c.opt)
		bridge := install(t, sw, state, c.endpoints)
		for range *packets {
			port, p := bridge.packet(random)
			if bridge.compare(t, name, port, p) {
				delivered++
			}
			compared++
		}
	}
	t.Logf("%d packets compared, %d of them went somewhere", compared, delivered)
	require.Greater(t, delivered*8, compared, "hardly a packet goes anywhere: the comparison says little")
}

// compare reports whether a packet leaves the switch at all.
func (r *realSwitch) compare(t *testing.T, name string, port int, p forward.Packet) bool {
	t.Helper()
	text := fmt.Sprintf("in_port=%d,%s", port, p)
	want, outputs := r.trace(t, text)
	for form, tables := range map[string]forward.Tables{"as written": r.written, "as printed": r.printed} {
		said := fmt.Sprintf("%s, flows %s, packet %s\n%s", name, form, text, r.last)
		got := tables.Forward(port, p)
		var flows []string
		for _, s := range got.Steps {
			require.Empty(t, s.Unsure, "not understood: %s", said)
			what := ""
			if s.Rule != nil {
				what = r.does[s.Rule.Flow.Cookie]
				_, action := s.Rule.Unknown()
				require.Empty(t, action, "not understood: %s", said)
			}
			flows = append(flows, fmt.Sprintf("%d %s", s.Table, what))
		}
		ports := []int{}
		for _, o := range got.Outputs {
			ports = append(ports, o.Port)
		}
		require.Equal(t, want, flows, said)
		require.Equal(t, outputs, ports, said)
	}
	return len(outputs) > 0
}

// realSwitch is a bridge of a real Open vSwitch with the flows of a state.
type realSwitch struct {
	flows            *openflow.Client
	written, printed forward.Tables
	ports            []int
	numbers          map[string]int
	honest           []ovs.Endpoint // those whose addresses are known
	// values are what the flows match, by field.
	values map[string][]string
	// does says what a flow does, by its cookie.
	does map[uint64]string
	last string
}

func install(t *testing.T, sw *ovstest.OVS, state ovs.State, endpoints []ovs.Endpoint) *realSwitch {
	t.Helper()
	sw.Vsctl("--if-exists", "del-br", state.Bridge.Name)
	state.Bridge.Datapath = "system"
	db, err := vswitch.New(vswitch.Config{Endpoint: sw.Endpoint(), Bridge: state.Bridge.Name, Timeout: time.Minute})
	require.NoError(t, err)
	defer db.Close()
	have, err := db.Observe(t.Context())
	require.NoError(t, err)
	change, _, problems := ovs.DiffDB(state, have)
	require.Empty(t, problems)
	require.NoError(t, db.Apply(t.Context(), change))
	require.NoError(t, db.WaitApplied(t.Context()))
	have, err = db.Observe(t.Context())
	require.NoError(t, err)
	r := &realSwitch{
		flows:  openflow.New(openflow.Config{Bridge: state.Bridge.Name, RunDir: sw.RunDir(), Timeout: time.Minute}),
		values: map[string][]string{}, does: map[uint64]string{},
	}
	bound, missing := state.Bind(have.OFPorts())
	require.Empty(t, missing)
	require.NoError(t, r.flows.SetMeters(t.Context(), state.BindMeters(have.OFPorts()), nil))
	require.NoError(t, r.flows.Apply(t.Context(), bound, nil))
	var rules []*forward.Rule
	for _, f := range bound {
		rule, err := forward.Parse(f)
		require.NoError(t, err)
		rules = append(rules, rule)
		r.learn(f.Match)
		r.does[f.Cookie] = fmt.Sprintf("priority %d: %s", f.Priority, f.Actions)
	}
	r.written = forward.NewTables(rules)
	installed, err := r.flows.Flows(t.Context())
	require.NoError(t, err)
	require.Len(t, installed, len(bound))
	byID := map[ovs.FlowID]*forward.Rule{}
	for _, rule := range rules {
		byID[rule.Flow.ID()] = rule
	}
	rules = nil
	for _, f := range installed {
		rule := forward.Read(f.BoundFlow)
		require.True(t, rule.Same(byID[f.ID()]), "%s\nwas written as\n%s", rule, byID[f.ID()])
		rules = append(rules, rule)
	}
	r.printed = forward.NewTables(rules)
	r.numbers = have.OFPorts()
	for _, e := range endpoints {
		if e.MAC != nil {
			r.honest = append(r.honest, e)
		}
	}
	for _, n := range r.numbers {
		r.ports = append(r.ports, n)
	}
	r.ports = append(r.ports, 77) // nobody's
	slices.Sort(r.ports)
	return r
}

// learn notes what a flow matches: packets made of it hit flows.
func (r *realSwitch) learn(match string) {
	for part := range strings.SplitSeq(match, ",") {
		name, value, ok := strings.Cut(part, "=")
		if !ok || strings.HasPrefix(name, "reg") || name == "in_port" || name == "metadata" {
			continue
		}
		value, _, _ = strings.Cut(value, "/")
		name = strings.TrimSuffix(strings.TrimSuffix(name, "_src"), "_dst") // a source is somebody's destination
		if !slices.Contains(r.values[name], value) {
			r.values[name] = append(r.values[name], value)
		}
	}
}

// packet makes a random packet of what the flows match.
func (r *realSwitch) packet(random *rand.Rand) (port int, p forward.Packet) {
	pick := func(field string, others ...string) string {
		all := append(slices.Clone(r.values[field]), others...)
		v := all[random.IntN(len(all))]
		if random.IntN(4) == 0 { // another of the same prefix
			if n := strings.LastIndexAny(v, ".:"); n > 0 {
				v = v[:n+1] + strconv.Itoa(1+random.IntN(9))
			}
		}
		return v
	}
	mac := func() string { return pick("dl", "02:42:0a:01:05:02", "02:aa:00:00:00:01") }
	four := func() string { return pick("nw", "10.1.7.2", "10.1.5.2") }
	six := func() string { return pick("ipv6", "fd00:10:1:7::2", "fd00:10:1:5::2") }
	fields := []string{
		"dl_src=" + mac(),
		"dl_dst=" + pick("dl", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "02:aa:00:00:00:01"),
	}
	switch random.IntN(5) {
	case 0:
		fields = append(fields, "arp", "arp_op="+pick("arp_op", "1", "2"), "arp_spa="+pick("arp_spa", four()),
			"arp_tpa="+pick("arp_tpa", four()), "arp_sha="+pick("arp_sha", mac()), "arp_tha="+mac())
	case 1:
		kind := pick("icmp_type", "135", "135", "136", "128")
		fields = append(fields, "icmp6", "nw_ttl=255", "ipv6_src="+six(), "ipv6_dst="+six(), "icmp_type="+kind)
		if random.IntN(4) == 0 { // there is nothing in a message with a code
			fields, kind = append(fields, "icmp_code=1"), ""
		}
		switch kind {
		case "135":
			fields = append(fields, "nd_target="+pick("nd_target", six()), "nd_sll="+pick("nd_sll", mac()))
		case "136":
			fields = append(fields, "nd_target="+pick("nd_target", six()), "nd_tll="+pick("nd_tll", mac()))
		}
	case 2:
		fields = append(fields, "tcp6", "nw_ttl="+pick("nw_ttl", "64"), "ipv6_src="+six(), "ipv6_dst="+six(), "tp_dst=80")
	case 3:
		fields = append(fields, "udp", "nw_ttl="+pick("nw_ttl", "64"), "nw_src="+four(), "nw_dst="+four(), "tp_dst=53")
	default:
		fields = append(fields, "dl_type=0x88b5")
	}
	if random.IntN(2) == 0 {
		fields = append(fields, "tun_id="+pick("tun_id", "100"))
	}
	port = r.ports[random.IntN(len(r.ports))]
	if len(r.honest) > 0 && random.IntN(2) == 0 { // what comes later counts
		e := r.honest[random.IntN(len(r.honest))]
		port = r.numbers[e.Port]
		fields = append(fields, honest(e, strings.Join(fields, ","))...)
	}
	p, err := forward.ParsePacket(strings.Join(fields, ","))
	if err != nil {
		panic(err)
	}
	return port, p
}

// honest are the fields by which a packet of an endpoint is from itself.
func honest(e ovs.Endpoint, packet string) []string {
	out := []string{"dl_src=" + e.MAC.String()}
	for _, a := range e.IPs {
		switch {
		case strings.Contains(packet, "arp,") && a.Is4():
			out = append(out, "arp_spa="+a.String(), "arp_sha="+e.MAC.String())
		case strings.Contains(packet, "udp,") && a.Is4():
			out = append(out, "nw_src="+a.String())
		case strings.Contains(packet, "ipv6_src=") && a.Is6():
			out = append(out, "ipv6_src="+a.String())
		}
	}
	return out
}

var (
	traceStep   = regexp.MustCompile(`^ *(\d+)\. (.*)$`)
	traceOutput = regexp.MustCompile(`^ *(?:output:(\d+)|-> output port is (\d+))$`)
)

// trace returns what Open vSwitch says: the table of each flow and what it does, and
// the ports.
func (r *realSwitch) trace(t *testing.T, packet string) (flows []string, outputs []int) {
	t.Helper()
	text, err := r.flows.Trace(t.Context(), packet)
	require.NoError(t, err)
	r.last = text
	in, _, _ := strings.Cut(strings.TrimPrefix(packet, "in_port="), ",")
	port, err := strconv.Atoi(in)
	require.NoError(t, err)
	outputs = []int{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if m := traceStep.FindStringSubmatch(line); m != nil {
			what := "" // no match
			if c := traceCookie.FindStringSubmatch(m[2]); c != nil {
				cookie, err := strconv.ParseUint(c[1], 0, 64)
				require.NoError(t, err)
				what = r.does[cookie]
			}
			flows = append(flows, m[1]+" "+what)
		}
		if m := traceOutput.FindStringSubmatch(line); m != nil {
			n, err := strconv.Atoi(m[1] + m[2])
			require.NoError(t, err)
			outputs = append(outputs, n)
		}
		switch strings.TrimSpace(line) {
		case "IN_PORT":
			outputs = append(outputs, port)
		case ">> skipping output to input port":
			outputs = outputs[:len(outputs)-1]
		}
	}
	return flows, outputs
}
