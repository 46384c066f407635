package pipeline_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/netsampler/goflow2/v2/decoders/netflow"
	"github.com/netsampler/goflow2/v2/decoders/sflow"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/ovstest"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// collectorPatience is how long a record may take: Open vSwitch sends some of them once
// a second only.
const collectorPatience = 20 * time.Second

// collector is a program that records are sent to.
func collector(t *testing.T) (conn net.PacketConn, addr string) {
	t.Helper()
	conn, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn, conn.LocalAddr().String()
}

// Elements of IPFIX: IANA's, and those of enterprise 6876 that Open vSwitch adds.
const (
	elementSource      = 8
	elementDestination = 12
	elementPoint       = 138
	elementNode        = 898
)

// record is what the test wants to know of a flow's record.
type record struct {
	domain, point uint32
	node          string
	from, to      netip.Addr
}

// nextRecord waits for a record of an IPv4 packet.
func nextRecord(t *testing.T, conn net.PacketConn, templates netflow.NetFlowTemplateSystem) record {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(collectorPatience)))
	for datagram := make([]byte, 65536); ; {
		n, _, err := conn.ReadFrom(datagram)
		require.NoError(t, err, "no record came")
		var v9 netflow.NFv9Packet
		var message netflow.IPFIXPacket
		require.NoError(t, netflow.DecodeMessageVersion(bytes.NewBuffer(datagram[:n]), templates, &v9, &message))
		for _, set := range message.FlowSets {
			data, ok := set.(netflow.DataFlowSet)
			if !ok || len(data.Records) == 0 {
				continue // templates, and what Open vSwitch tells of itself
			}
			if r := recordOf(message.ObservationDomainId, data.Records[0]); r.from.IsValid() {
				return r
			}
		}
	}
}

func recordOf(domain uint32, r netflow.DataRecord) record {
	out := record{domain: domain}
	for _, f := range r.Values {
		b, _ := f.Value.([]byte)
		switch {
		case !f.PenProvided && f.Type == elementSource:
			out.from, _ = netip.AddrFromSlice(b)
		case !f.PenProvided && f.Type == elementDestination:
			out.to, _ = netip.AddrFromSlice(b)
		case !f.PenProvided && f.Type == elementPoint:
			for _, x := range b {
				out.point = out.point<<8 | uint32(x)
			}
		case f.PenProvided && f.Type == elementNode:
			out.node = strings.TrimRight(string(b), "\x00")
		}
	}
	return out
}

// sampledSwitch is a real Open vSwitch that is brought to wanted states.
type sampledSwitch struct {
	*ovstest.OVS
	db    *vswitch.Client
	flows *openflow.Client
}

func newSampledSwitch(t *testing.T) *sampledSwitch {
	t.Helper()
	sw := ovstest.Start(t)
	db, err := vswitch.New(vswitch.Config{Endpoint: sw.Endpoint(), Bridge: "br-baize", Timeout: time.Minute})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	flows := openflow.New(openflow.Config{Bridge: "br-baize", RunDir: sw.RunDir(), Timeout: time.Minute})
	return &sampledSwitch{sw, db, flows}
}

// converge makes before it breaks, as the agent does, and returns what stands in the way.
func (s *sampledSwitch) converge(t *testing.T, want ovs.State) []fault.Fault {
	t.Helper()
	have, err := s.db.Observe(t.Context())
	require.NoError(t, err)
	change, stale, problems := ovs.DiffDB(want, have)
	require.NoError(t, s.db.Apply(t.Context(), change))
	require.NoError(t, s.db.WaitApplied(t.Context()))
	have, err = s.db.Observe(t.Context())
	require.NoError(t, err)
	meters, err := s.flows.Meters(t.Context())
	require.NoError(t, err)
	fresh, changed, _ := ovs.DiffMeters(want.BindMeters(have.OFPorts()), meters)
	require.NoError(t, s.flows.SetMeters(t.Context(), fresh, changed))
	there, err := s.flows.Observe(t.Context())
	require.NoError(t, err)
	bound, _ := want.Bind(have.OFPorts())
	add, del := ovs.DiffFlows(bound, there.IDs())
	require.NoError(t, s.flows.Apply(t.Context(), add, del))
	require.NoError(t, s.db.Apply(t.Context(), stale))

	audit, err := s.flows.Audit(t.Context(), bound)
	require.NoError(t, err)
	require.Empty(t, audit.Add, "the switch prints what it was given")
	have, err = s.db.ObserveAll(t.Context())
	require.NoError(t, err)
	change, stale, _ = ovs.DiffDB(want, have)
	require.True(t, change.Empty() && stale.Empty(), "a second pass has nothing to do: %+v %+v", change, stale)
	return problems
}

// sampledState is host1 with the endpoint c1, and what it is told to tell.
func sampledState(x *topology.IPFIX, s *ovs.SFlow) ovs.State {
	n := network("blue", 100, topology.VXLAN, "10.1.0.0/16", "fd00:10:1::/48")
	n.IPFIX = x
	return pipeline.Build(threeHosts(topology.VXLAN).put(n).s.View("host1"),
		[]ovs.Endpoint{endpoint("c1", "blue", "10.1.5.2")},
		pipeline.Options{Bridge: "br-baize", Datapath: "system", SFlow: s})
}

// ping is an ICMP echo of c1 to an address of another node.
func (s *sampledSwitch) ping(t *testing.T, to byte) {
	t.Helper()
	header, err := hex.DecodeString("450000540000400040010000" + "0a010502" + fmt.Sprintf("0a0107%02x", to) + "0800" + "0000" + "00010001")
	require.NoError(t, err)
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(header[i])<<8 | uint32(header[i+1])
	}
	sum = ^(sum>>16 + sum&0xffff)
	header[10], header[11] = byte(sum>>8), byte(sum)
	frame := fmt.Sprintf("02420a0107%02x02420a0105020800%x%s", to, header, strings.Repeat("00", 56))
	s.Appctl("netdev-dummy/receive", "bzc1", frame)
}

// What an endpoint sends is told to the network's collectors, by a real Open vSwitch:
// from where it enters, with the network and the node in every record. What others
// have set stays, and what is Baize's goes with its cause.
func TestIPFIX(t *testing.T) {
	s := newSampledSwitch(t)
	conn, addr := collector(t)
	every := &topology.IPFIX{Collectors: []string{addr}, Sampling: 1, Cache: -1}
	require.Empty(t, s.converge(t, sampledState(every, nil)))

	templates := netflow.CreateTemplateSystem()
	s.ping(t, 9)
	require.Equal(t, record{
		domain: 100, point: 1, node: "host1", from: netip.MustParseAddr("10.1.5.2"), to: netip.MustParseAddr("10.1.7.9"),
	}, nextRecord(t, conn, templates))

	// Another collector: the first one hears no more of it.
	second, moved := collector(t)
	every.Collectors = []string{moved}
	require.Empty(t, s.converge(t, sampledState(every, nil)))
	s.ping(t, 10)
	require.Equal(t, netip.MustParseAddr("10.1.7.10"), nextRecord(t, second, netflow.CreateTemplateSystem()).to)
	require.NoError(t, conn.SetReadDeadline(time.Now()))
	_, _, err := conn.ReadFrom(make([]byte, 1))
	require.Error(t, err, "the collector of before still hears of it")

	// Somebody else's set stays while Baize's own comes and goes; one with the
	// network's number is named.
	s.Vsctl("--id=@b", "get", "bridge", "br-baize", "--", "create", "Flow_Sample_Collector_Set", "id=7", "bridge=@b")
	require.Empty(t, s.converge(t, sampledState(nil, nil)))
	require.Equal(t, "7", strings.TrimSpace(s.Vsctl("--bare", "--columns=id", "list", "Flow_Sample_Collector_Set")))
	require.Empty(t, strings.TrimSpace(s.Vsctl("--bare", "--columns=_uuid", "list", "IPFIX")), "rows that nobody needs")
	require.NotContains(t, s.Ofctl("dump-flows", "br-baize"), "sample(")
	again := sampledState(every, nil)
	s.Vsctl("--id=@b", "get", "bridge", "br-baize", "--", "create", "Flow_Sample_Collector_Set",
		fmt.Sprintf("id=%d", again.Collectors[0].ID), "bridge=@b")
	problems := s.converge(t, again)
	require.Len(t, problems, 1)
	require.Equal(t, fault.SamplingForeign, problems[0].Code)

	// Somebody deletes the bridge, whose row stays as long as the set refers to it.
	s.Vsctl("--all", "destroy", "Flow_Sample_Collector_Set")
	require.Empty(t, s.converge(t, again))
	s.Vsctl("del-br", "br-baize")
	require.Empty(t, s.converge(t, again))
	s.ping(t, 11)
	require.Equal(t, netip.MustParseAddr("10.1.7.11"), nextRecord(t, second, netflow.CreateTemplateSystem()).to)

	// The bridge goes, and with it what refers to it.
	require.NoError(t, s.db.Apply(t.Context(), ovs.DBChange{DeleteBridge: "br-baize"}))
	require.Empty(t, strings.TrimSpace(s.Vsctl("--bare", "--columns=id", "list", "Flow_Sample_Collector_Set")))
	require.Empty(t, strings.TrimSpace(s.Vsctl("--bare", "--columns=name", "list", "Bridge")))
}

// The bridge of a node tells of packets that come into it by sFlow.
func TestSFlow(t *testing.T) {
	s := newSampledSwitch(t)
	conn, addr := collector(t)
	require.Empty(t, s.converge(t, sampledState(nil, nil)))
	// Its agent's address is that of the way to the collector, which the dummy lacks.
	s.Appctl("netdev-dummy/ip4addr", "br-baize", "127.0.0.2/8")
	s.Appctl("ovs/route/add", "127.0.0.1/32", "br-baize")
	require.Empty(t, s.converge(t, sampledState(nil, ovs.NewSFlow([]string{addr}, 1))))

	require.NoError(t, conn.SetReadDeadline(time.Now().Add(collectorPatience)))
	s.ping(t, 9)
	for datagram, found := make([]byte, 65536), false; !found; {
		n, _, err := conn.ReadFrom(datagram)
		require.NoError(t, err, "no sample came")
		var message sflow.Packet
		require.NoError(t, sflow.DecodeMessageVersion(bytes.NewBuffer(datagram[:n]), &message))
		for _, sample := range message.Samples {
			flow, ok := sample.(sflow.FlowSample)
			for _, r := range flow.Records {
				if h, is := r.Data.(sflow.SampledHeader); ok && is {
					found = bytes.Contains(h.HeaderData, []byte{10, 1, 5, 2, 10, 1, 7, 9})
					require.EqualValues(t, 1, flow.SamplingRate)
				}
			}
		}
	}

	require.Empty(t, s.converge(t, sampledState(nil, nil)))
	require.Empty(t, strings.TrimSpace(s.Vsctl("--bare", "--columns=_uuid", "list", "sFlow")), "it went with the setting")

	s.Vsctl("--id=@s", "create", "sFlow", `targets="192.0.2.9"`, "--", "set", "bridge", "br-baize", "sflow=@s")
	require.Empty(t, s.converge(t, sampledState(nil, nil)), "somebody else's stays")
	problems := s.converge(t, sampledState(nil, ovs.NewSFlow([]string{addr}, 1)))
	require.Len(t, problems, 1)
	require.Equal(t, fault.SamplingForeign, problems[0].Code)
	require.Contains(t, s.Vsctl("list", "sFlow"), "192.0.2.9")
}
