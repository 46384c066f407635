package doctor

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/drift"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// inBlue is an address on another node.
var inBlue = netip.MustParseAddr("10.1.6.2")

// healthy are the facts of a host on which all is well.
func healthy() Facts {
	own, peer := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	ip := netip.MustParseAddr("10.1.5.2")
	return Facts{
		At: noon, Version: "v1", Node: "host1", Hostname: "host1",
		Agent: Agent{
			Status: &api.Status{Node: "host1", Version: "v1", Ready: true}, StateDir: "/var/lib/baize",
			Free: 1 << 30, Size: 1 << 31, FreeFiles: 1000, Files: 2000,
		},
		Store: Store{
			Endpoints: []string{"http://192.0.2.9:2379"}, Prefix: "/baize/v1", Took: time.Millisecond,
			Members:  []Member{{Endpoint: "http://192.0.2.9:2379", Leader: true, Size: 1 << 20, Quota: 1 << 31}},
			Networks: []NetworkUse{{Network: "blue", Family: "IPv4", Total: 255, Used: 203}},
			Nodes:    []Node{{Name: "host1", Alive: true}, {Name: "host2", Alive: true}},
		},
		Switch: Switch{
			Version: "3.1.0", Bridge: "br-baize", Datapath: "system", Drift: &drift.Drift{Same: true}, Flows: 60, Up: time.Hour,
			Handlers: 2, FlowLimit: 200000, FlowsNow: 7, Processors: 2, Memory: 100 << 20, MemoryTotal: 8 << 30,
			Tunnels: []Tunnel{{Bridge: "br-baize", Port: "vx-host2", Type: "vxlan", Local: "192.0.2.1", Remote: "192.0.2.2", Key: "flow"}},
		},
		Underlay: Underlay{
			Device: "eth0", VTEPs: []netip.Addr{own}, MTU: 1500, VXLANPort: 4789, GenevePort: 6081, Encaps: []string{"vxlan"},
			Peers: []Peer{{Node: "host2", Addr: peer, Alive: true, Dev: "eth0", Sent: 3, Answered: 3}},
			Neighbours: []NeighbourTable{
				{Family: "IPv4", Entries: 3, Thresholds: [3]int{128, 512, 1024}},
				{Family: "IPv6", Entries: 9, Thresholds: [3]int{128, 512, 1024}},
			},
		},
		Mesh: Mesh{Read: Read{Skipped: "nobody probes"}},
		Host: Host{Conntrack: 5, ConntrackMax: 1000},
		Endpoints: []Endpoint{{
			Name: "c1", Network: "blue", Port: "bz1", Netns: "/run/netns/c1", Ifname: "eth0", IPs: []netip.Addr{ip},
			MAC: "02:42:0a:01:05:02", MTU: 1450, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
			Host: Interface{There: true, Name: "bz1", Up: true, MTU: 1450},
			Inside: Interface{
				There: true, Name: "eth0", Up: true, MTU: 1450, MAC: "02:42:0a:01:05:02",
				Addrs: []netip.Prefix{netip.MustParsePrefix("10.1.5.2/16"), netip.MustParsePrefix("fe80::1/64")},
			},
			Inner: Inner{Ways: []InnerWay{{To: inBlue, Dev: "eth0"}}},
		}},
		Engine: Engine{Socket: "/run/docker/plugins/baize.sock", There: true},
	}
}

func TestHealthyHostHasNoFindings(t *testing.T) {
	r := Examine(healthy())
	require.Empty(t, r.Findings())
	require.Equal(t, 1, r.Count(Unchecked), "the mesh alone")
	require.Greater(t, r.Count(OK), 25)
}

// down is an answer of something that does not run.
func down(code fault.Code, item string) Read {
	return Read{Why: &fault.Fault{Code: code, Item: item, What: "is not running", Remedy: "start it"}}
}

// Each change to a healthy host is found: by its code, with its subject, and alone.
func TestFindings(t *testing.T) {
	input := func(rule string) string {
		return "table inet f {\n\tchain in {\n\t\ttype filter hook input priority 0; policy accept;\n\t\t" + rule + "\n\t}\n}\n"
	}
	for name, tc := range map[string]struct {
		change   func(*Facts)
		code     fault.Code
		item     string
		command  string // the first
		severity fault.Severity
	}{
		"no agent": {func(f *Facts) {
			f.Agent.Status, f.Agent.Skipped, f.Agent.Traces = nil, "there is no socket", []string{"node-id"}
		}, fault.AgentDown, "agent of node host1", "systemctl start baize", fault.Warning},
		"agent hangs": {func(f *Facts) { f.Agent.Status, f.Agent.Read = nil, down("", "agent") },
			fault.AgentHangs, "agent of node host1", "systemctl restart baize", fault.Error},
		"state full": {func(f *Facts) { f.Agent.Free = 0 }, fault.StateUnwritable, "/var/lib/baize", "", fault.Error},
		"no inodes":  {func(f *Facts) { f.Agent.FreeFiles = 2 }, fault.StateUnwritable, "/var/lib/baize", "", fault.Error},
		"agent's own fault": {func(f *Facts) {
			f.Agent.Status.Problems = []fault.Fault{{Code: fault.UnderlayMTU, Item: "eth0", What: "too small", Remedy: "raise"}}
		}, fault.UnderlayMTU, "eth0", "", fault.Error},

		"etcd down": {func(f *Facts) { f.Store.Read = down(fault.StoreUnavailable, "etcd") }, fault.StoreUnavailable, "etcd",
			"systemctl start etcd", fault.Error},
		"etcd full": {func(f *Facts) {
			f.Store.Write = &fault.Fault{Code: fault.StoreFull, Item: "etcd", What: "full"}
		}, fault.StoreFull, "etcd", "etcdctl --endpoints=http://192.0.2.9:2379 defrag", fault.Error},
		"no right": {func(f *Facts) {
			f.Store.Write = &fault.Fault{Code: fault.StoreDenied, Item: "etcd prefix", What: "denied", Remedy: "grant"}
		}, fault.StoreDenied, "etcd prefix", "", fault.Error},
		"etcd slow":     {func(f *Facts) { f.Store.Took = 2 * time.Second }, fault.StoreSlow, "etcd at http://192.0.2.9:2379", "", fault.Warning},
		"no leader":     {func(f *Facts) { f.Store.Members[0].Leader = false }, fault.StoreMemberDown, "etcd member at http://192.0.2.9:2379", "", fault.Error},
		"a member down": {func(f *Facts) { f.Store.Members[0].Error = "refused" }, fault.StoreMemberDown, "etcd member at http://192.0.2.9:2379", "", fault.Warning},
		"etcd nearly full": {func(f *Facts) { f.Store.Members[0].Size = 2 << 30 }, fault.StoreNearlyFull,
			"etcd member at http://192.0.2.9:2379", "", fault.Warning},
		"certificate expires": {func(f *Facts) {
			f.Store.Certificates = []Certificate{{File: "c.pem", NotAfter: noon.Add(72 * time.Hour)}}
		}, fault.CertificateExpires, "c.pem", "", fault.Warning},
		"certificate expired": {func(f *Facts) {
			f.Store.Certificates = []Certificate{{File: "c.pem", NotAfter: noon.Add(-time.Hour)}}
		}, fault.CertificateExpires, "c.pem", "", fault.Error},
		"certificate is none": {func(f *Facts) { f.Store.Certificates = []Certificate{{File: "c.pem", Error: "no PEM"}} },
			fault.CertificateUnusable, "c.pem", "", fault.Error},
		"malformed key": {func(f *Facts) {
			f.Store.Topology = []fault.Fault{{Code: fault.RecordMalformed, Item: "networks/x", What: "bad"}}
		}, fault.RecordMalformed, "networks/x", "etcdctl --endpoints=http://192.0.2.9:2379 del /baize/v1/networks/x", fault.Error},
		"few subnets": {func(f *Facts) { f.Store.Networks[0].Used = 204; f.Store.Networks[0].Dead = []string{"host7"} },
			fault.NetworkNearlyFull, "network blue", "baize node remove host7", fault.Warning},

		"no vswitchd": {func(f *Facts) { f.Switch.Daemon = down(fault.SwitchUnavailable, "ovs-vswitchd") }, fault.SwitchUnavailable,
			"ovs-vswitchd", "systemctl start openvswitch-switch", fault.Error},
		"3.1.0 at boot": {func(f *Facts) { f.Switch.Handlers, f.Switch.AfterBoot = 0, 4*time.Second }, fault.SwitchVersion,
			"ovs-vswitchd", "systemctl restart openvswitch-switch", fault.Error},
		"no handlers": {func(f *Facts) { f.Switch.Handlers, f.Switch.Version = 0, "3.2.1" }, fault.SwitchStarved, "ovs-vswitchd", "", fault.Warning},
		"no bridge": {func(f *Facts) { f.Switch.Drift = &drift.Drift{CreateBridge: true, MissingFlows: []string{"x"}} },
			fault.BridgeMissing, "bridge br-baize", "systemctl restart baize", fault.Error},
		"bridge altered": {func(f *Facts) { f.Switch.Drift = &drift.Drift{UpdateBridge: true} }, fault.BridgeAltered, "bridge br-baize",
			"systemctl restart baize", fault.Error},
		"port missing": {func(f *Facts) { f.Switch.Drift = &drift.Drift{AddPorts: []string{"vx-host2"}} }, fault.PortMissing,
			"port vx-host2", "systemctl restart baize", fault.Error},
		"flows altered": {func(f *Facts) { f.Switch.Drift = &drift.Drift{UnwantedFlows: []string{"a", "b", "c", "d"}} }, fault.FlowMissing,
			"flows of bridge br-baize", "systemctl restart baize", fault.Error},
		"foreign flow": {func(f *Facts) {
			f.Switch.Drift.ForeignFlows = []string{"cookie=0x0, duration=1s, table=0, n_packets=0, n_bytes=0, priority=9,ip actions=NORMAL"}
		}, fault.FlowForeign, "flow of another program in bridge br-baize",
			"ovs-ofctl -O OpenFlow14 --strict del-flows br-baize table=0,priority=9,ip", fault.Warning},
		"foreign drop": {func(f *Facts) {
			f.Switch.Drift.ForeignFlows = []string{"cookie=0x0, duration=1s, table=0, n_packets=0, n_bytes=0, priority=9 actions=drop"}
		}, fault.FlowForeign, "flow of another program in bridge br-baize",
			"ovs-ofctl -O OpenFlow14 --strict del-flows br-baize table=0,priority=9", fault.Error},
		"foreign port": {func(f *Facts) { f.Switch.Drift.ForeignPorts = []string{"theirs"} }, fault.PortUnknown, "port theirs",
			"ovs-vsctl del-port br-baize theirs", fault.Warning},
		"tunnel twice": {func(f *Facts) {
			f.Switch.Tunnels = append(f.Switch.Tunnels, Tunnel{Bridge: "br-x", Port: "vx", Type: "vxlan", Remote: "192.0.2.2", Key: "flow"})
		}, fault.TunnelForeign, "port vx-host2", "ovs-vsctl del-port br-x vx", fault.Warning},
		"restore wait": {func(f *Facts) { f.Switch.RestoreWait = true }, fault.RestoreWaitForeign, "other_config:flow-restore-wait",
			"ovs-vsctl --no-wait remove Open_vSwitch . other_config flow-restore-wait", fault.Warning},
		"starved": {func(f *Facts) { f.Switch.LongPolls = 40 }, fault.SwitchStarved, "ovs-vswitchd", "", fault.Warning},
		"stopped": {func(f *Facts) {
			f.Switch.Daemon, f.Switch.Stopped = down(fault.SwitchUnavailable, "ovs-vswitchd"), []Process{{"ovs-vswitchd", 77}}
		}, fault.SwitchStarved, "ovs-vswitchd", "kill -CONT 77", fault.Error},
		"handler threads": {func(f *Facts) {
			f.Switch.Handlers, f.Switch.Settings = 200, map[string]string{"n-handler-threads": "200"}
		}, fault.SwitchMemory, "ovs-vswitchd",
			"ovs-vsctl --no-wait remove Open_vSwitch . other_config n-handler-threads", fault.Warning},
		"policing": {func(f *Facts) { f.Switch.Limits = []PortLimit{{Port: "bz1", Rate: 8}} }, fault.PortLimited, "port bz1",
			"ovs-vsctl set interface bz1 ingress_policing_rate=0 ingress_policing_burst=0", fault.Error},
		"closed port": {func(f *Facts) { f.Switch.Limits = []PortLimit{{Port: "bz1", NoReceive: true}} }, fault.PortLimited, "port bz1",
			"ovs-ofctl -O OpenFlow14 mod-port br-baize bz1 receive", fault.Error},
		"vanished": {func(f *Facts) {
			f.Agent.Status.Problems = []fault.Fault{{Code: fault.RecordVanished, Item: "networks/blue", What: "gone", Remedy: "put it back"}}
			f.Store.Topology = []fault.Fault{{Code: fault.RecordOrphaned, Item: "subnets/blue/10.1.5.0-24", What: "no network"}}
		}, fault.RecordVanished, "networks/blue", "", fault.Error},
		"flow limit set": {func(f *Facts) { f.Switch.Settings = map[string]string{"flow-limit": "5"} }, fault.SwitchStarved,
			"other_config:flow-limit", "ovs-vsctl --no-wait remove Open_vSwitch . other_config flow-limit", fault.Warning},
		"database stopped": {func(f *Facts) {
			f.Switch.Database, f.Switch.Stopped = down(fault.SwitchUnavailable, "Open vSwitch database"), []Process{{"ovsdb-server", 78}}
		}, fault.SwitchStarved, "ovsdb-server", "kill -CONT 78", fault.Error},
		"etcd hangs": {func(f *Facts) {
			f.Store.Why = &fault.Fault{Code: fault.StoreUnavailable, Item: "etcd", What: "it accepts the connection but says nothing"}
		}, fault.StoreUnavailable, "etcd", "systemctl restart etcd", fault.Error},
		"fixed neighbour": {func(f *Facts) { f.Underlay.Peers[0].Answered, f.Underlay.Peers[0].Fixed = 0, "02:00:00:00:00:99" },
			fault.PeerUnreachable, "node host2, VTEP 192.0.2.2", "ip neigh del 192.0.2.2 dev eth0", fault.Warning},
		"egress hook": {func(f *Facts) {
			f.Host.Forwards = []Forward{{"blue", "host2", netip.MustParseAddr("10.1.6.2"), netip.MustParseAddr("10.1.5.2"), "eth0", "bn-blue"}}
			f.Host.NFTables = "table netdev f {\n\tchain out {\n\t\ttype filter hook egress device \"bn-blue\" priority filter; " +
				"policy accept;\n\t\tip daddr 10.1.5.2 drop # handle 8\n\t}\n}\n"
		}, fault.FirewallDrops, "firewall, netdev f out", "nft delete rule netdev f out handle 8", fault.Error},
		"no ARP": {func(f *Facts) { f.Endpoints[0].Inside.NoARP = true }, fault.EndpointDown, "endpoint c1",
			"nsenter --net=/run/netns/c1 ip link set dev eth0 arp on", fault.Error},
		"checksums": {func(f *Facts) { f.Switch.Datapath, f.Endpoints[0].Inside.Offload = "netdev", true }, fault.EndpointChecksum,
			"endpoint c1", "nsenter --net=/run/netns/c1 ethtool -K eth0 tx off", fault.Error},
		"prefix length": {func(f *Facts) { f.Endpoints[0].Inside.Addrs[0] = netip.MustParsePrefix("10.1.5.2/24") },
			fault.EndpointAddress, "endpoint c1", "nsenter --net=/run/netns/c1 ip addr add 10.1.5.2/16 dev eth0", fault.Warning},
		"no route inside": {func(f *Facts) { f.Endpoints[0].Inner.Ways[0] = InnerWay{To: inBlue, Error: "there is no route"} },
			fault.EndpointRoute, "endpoint c1", "nsenter --net=/run/netns/c1 ip route replace 10.1.0.0/16 dev eth0 src 10.1.5.2",
			fault.Error},
		"another way inside": {func(f *Facts) { f.Endpoints[0].Inner.Ways[0] = InnerWay{To: inBlue, Dev: "tun0"} },
			fault.EndpointRoute, "endpoint c1", "nsenter --net=/run/netns/c1 ip route replace 10.1.0.0/16 dev eth0 src 10.1.5.2",
			fault.Error},
		"blackhole inside": {func(f *Facts) {
			f.Endpoints[0].Inner.Ways[0] = InnerWay{To: inBlue, Error: "a blackhole takes its packets", Blocked: "blackhole 10.1.6.0/24"}
		}, fault.EndpointRoute, "endpoint c1", "nsenter --net=/run/netns/c1 ip route del blackhole 10.1.6.0/24", fault.Error},
		"neighbour inside": {func(f *Facts) {
			f.Endpoints[0].Inner.Fixed = []InnerNeighbour{{inBlue, "02:00:00:00:00:09", "02:42:0a:01:06:02"}}
		}, fault.EndpointNeighbour, "endpoint c1", "nsenter --net=/run/netns/c1 ip neigh del 10.1.6.2 dev eth0", fault.Error},
		"firewall inside": {func(f *Facts) {
			f.Endpoints[0].Inner.NFTables = "table ip f {\n\tchain i {\n\t\ttype filter hook input priority filter; policy drop;\n" +
				"\t\tiifname \"lo\" accept # handle 4\n\t\tct state established accept # handle 5\n\t}\n}\n"
		}, fault.EndpointFiltered, "endpoint c1", "nsenter --net=/run/netns/c1 nft 'chain ip f i { policy accept; }'", fault.Warning},
		"address of a peer": {func(f *Facts) {
			f.Underlay.Peers[0].Here = Assigned{"eth0", netip.MustParsePrefix("192.0.2.2/24")}
		}, fault.PeerUnreachable, "node host2, VTEP 192.0.2.2", "ip addr del 192.0.2.2/24 dev eth0", fault.Error},
		"QoS of a port": {func(f *Facts) { f.Switch.Limits = []PortLimit{{Port: "vx-host2", QoS: true}} }, fault.PortLimited,
			"port vx-host2", "ovs-vsctl clear port vx-host2 qos", fault.Warning},
		"controller": {func(f *Facts) {
			f.Switch.Others = []BridgeSetting{{"it has an OpenFlow controller, which may change its flows", "ovs-vsctl del-controller br-baize"}}
		}, fault.BridgeAltered, "bridge br-baize", "ovs-vsctl del-controller br-baize", fault.Warning},
		"IPsec": {func(f *Facts) { f.Underlay.Peers[0].Policies = []string{"src 0.0.0.0/0 dst 192.0.2.2/32 dir out"} },
			fault.TunnelFiltered, "node host2, VTEP 192.0.2.2", "ip xfrm policy delete src 0.0.0.0/0 dst 192.0.2.2/32 dir out",
			fault.Error},
		"memory":     {func(f *Facts) { f.Switch.Memory = 3 << 30 }, fault.SwitchMemory, "ovs-vswitchd", "", fault.Warning},
		"flow limit": {func(f *Facts) { f.Switch.FlowsNow = 190000 }, fault.SwitchStarved, "ovs-vswitchd", "", fault.Warning},
		"lost":       {func(f *Facts) { f.Switch.LostAfter = 3 }, fault.UpcallsLost, "datapath of bridge br-baize", "", fault.Warning},

		"MTU of the underlay": {func(f *Facts) { f.Underlay.MTU, f.Underlay.MTUDevice, f.Underlay.Need = 1400, "eth0", 1500 },
			fault.UnderlayMTU, "device eth0", "ip link set dev eth0 mtu 1500", fault.Error},
		"device down": {func(f *Facts) { f.Underlay.Down = []string{"eth0"} }, fault.UnderlayDown, "device eth0", "ip link set dev eth0 up", fault.Error},
		"no ARP in the underlay": {func(f *Facts) { f.Underlay.NoARP = []string{"eth0"} }, fault.UnderlayDown, "device eth0",
			"ip link set dev eth0 arp on", fault.Error},
		"MTU of the host's end": {func(f *Facts) { f.Endpoints[0].Host.MTU = 600 }, fault.EndpointMTU, "endpoint c1",
			"ip link set dev bz1 mtu 1450", fault.Error},
		"no carrier": {func(f *Facts) { f.Underlay.NoCarrier = []string{"eth0"} }, fault.UnderlayDown, "device eth0", "", fault.Error},
		"blackhole within a network": {func(f *Facts) {
			f.Host.Refusals = []Refusal{{Network: "red", To: "10.2.14.2/32", Why: "a blackhole takes its packets", Route: "blackhole 10.2.14.2/32"}}
		}, fault.RouteForeign, "route to 10.2.14.2/32", "ip route del blackhole 10.2.14.2/32", fault.Error},
		"policy rule": {func(f *Facts) {
			f.Host.Refusals = []Refusal{{Network: "red", Node: "host2", To: "10.2.14.2", Why: "no route"}}
		},
			fault.RouteForeign, "route to 10.2.14.2", "", fault.Error},
		"no VTEP": {func(f *Facts) { f.Underlay.Lacking = f.Underlay.VTEPs }, fault.UnderlayDown, "VTEP 192.0.2.1", "", fault.Error},
		"port taken": {func(f *Facts) { f.Underlay.Takers = []Taker{{Port: 4789, Process: "theirs", PID: 7}} }, fault.TunnelPortTaken,
			"UDP port 4789", "kill 7", fault.Error},
		"VXLAN device": {func(f *Facts) { f.Underlay.Takers = []Taker{{Port: 4789, Device: "vx9"}} }, fault.TunnelPortTaken,
			"UDP port 4789", "ip link del dev vx9", fault.Error},
		"firewalld": {func(f *Facts) {
			f.Host.NFTables = "table inet firewalld {\n\tchain filter_INPUT {\n\t\ttype filter hook input priority filter + 10; " +
				"policy accept;\n\t\tct state { established, related } accept # handle 2\n\t\tct status dnat accept # handle 3\n" +
				"\t\treject with icmpx admin-prohibited # handle 4\n\t}\n}\n"
		}, fault.TunnelFiltered, "firewall, inet firewalld filter_INPUT",
			"firewall-cmd --permanent --add-port=4789/udp && firewall-cmd --reload", fault.Error},
		"firewall": {func(f *Facts) { f.Host.NFTables = input("udp dport 4789 drop # handle 3") }, fault.TunnelFiltered,
			"firewall, inet f in", "nft delete rule inet f in handle 3", fault.Error},
		"firewall, userspace": {func(f *Facts) {
			f.Switch.Datapath, f.Host.NFTables = "netdev", input("udp dport 4789 drop # handle 3")
		}, fault.TunnelFiltered, "firewall, inet f in", "nft delete rule inet f in handle 3", fault.Warning},
		"GRE": {func(f *Facts) {
			f.Underlay.Encaps, f.Host.NFTables = []string{"gre"}, input("ip protocol 47 drop # handle 3")
		}, fault.TunnelFiltered, "firewall, inet f in", "nft delete rule inet f in handle 3", fault.Error},
		"loss": {func(f *Facts) { f.Underlay.Shaping = []Shaping{{"eth0", "qdisc netem loss 20%", "tc qdisc del"}} }, fault.UnderlayShaped,
			"traffic control of device eth0", "tc qdisc del", fault.Error},
		"delay": {func(f *Facts) { f.Underlay.Shaping = []Shaping{{"eth0", "qdisc netem delay 200ms", "tc qdisc del"}} },
			fault.UnderlayShaped, "traffic control of device eth0", "tc qdisc del", fault.Warning},
		"blackhole": {func(f *Facts) {
			f.Underlay.Peers[0] = Peer{Node: "host2", Addr: f.Underlay.Peers[0].Addr, RouteError: "blackhole", Blocked: "blackhole 192.0.2.2"}
		}, fault.PeerUnreachable, "node host2, VTEP 192.0.2.2", "ip route del blackhole 192.0.2.2", fault.Error},
		"silent": {func(f *Facts) { f.Underlay.Peers[0].Answered = 0 }, fault.PeerUnreachable, "node host2, VTEP 192.0.2.2", "", fault.Warning},
		"lossy":  {func(f *Facts) { f.Underlay.Peers[0].Answered = 2 }, fault.PeerUnreachable, "node host2, VTEP 192.0.2.2", "", fault.Warning},
		"rp_filter": {func(f *Facts) {
			f.Underlay.ReversePath = map[string]int{"all": 0, "eth0": 1}
			f.Underlay.Peers[0].Dev = "eth1"
		}, fault.ReversePathDrops, "node host2, VTEP 192.0.2.2", "sysctl -w net.ipv4.conf.eth0.rp_filter=2", fault.Error},
		"neighbours": {func(f *Facts) { f.Underlay.Neighbours[0].Entries = 1000 }, fault.NeighbourTableFull,
			"table of IPv4 neighbours", "sysctl -w net.ipv4.neigh.default.gc_thresh3=4096", fault.Warning},
		"IPv6 neighbours": {func(f *Facts) { f.Underlay.Neighbours[1].Entries = 1000 }, fault.NeighbourTableFull,
			"table of IPv6 neighbours", "sysctl -w net.ipv6.neigh.default.gc_thresh3=4096", fault.Warning},

		"route missing": {func(f *Facts) { f.Switch.Drift = &drift.Drift{Kernel: []string{"ip route add 10.1.6.0/24 dev x"}} },
			fault.KernelDiffers, "kernel of this host", "ip route add 10.1.6.0/24 dev x", fault.Error},
		"Docker's raw table": {func(f *Facts) {
			f.Host.Forwards = []Forward{{"blue", "host2", netip.MustParseAddr("10.1.6.2"), netip.MustParseAddr("10.1.5.2"), "eth0", "bn-blue"}}
			f.Host.NFTables = "table ip raw {\n\tchain PREROUTING {\n\t\ttype filter hook prerouting priority raw; policy accept;\n" +
				"\t\tip daddr 10.1.5.2 iifname != \"docker0\" counter packets 0 bytes 0 drop # handle 8\n\t}\n}\n"
		}, fault.FirewallDrops, "firewall, ip raw PREROUTING", "nft delete rule ip raw PREROUTING handle 8", fault.Error},
		"conntrack": {func(f *Facts) { f.Host.Conntrack = 999 }, fault.ConntrackFull, "table of connections",
			"sysctl -w net.netfilter.nf_conntrack_max=2000", fault.Warning},

		"namespace gone": {func(f *Facts) { f.Endpoints[0].Inside = Interface{Read: down("", "netns")} }, fault.EndpointGone, "endpoint c1",
			"baize endpoint remove c1", fault.Error},
		"interface gone": {func(f *Facts) { f.Endpoints[0].Inside = Interface{} }, fault.EndpointGone, "endpoint c1",
			"baize endpoint remove c1 2>/dev/null; baize endpoint add c1 --network blue --netns /run/netns/c1 --ifname eth0 " +
				"--mac 02:42:0a:01:05:02 --ip 10.1.5.2", fault.Error},
		"host end down": {func(f *Facts) { f.Endpoints[0].Host.Up = false }, fault.EndpointDown, "endpoint c1", "ip link set dev bz1 up", fault.Error},
		"interface down": {func(f *Facts) { f.Endpoints[0].Inside.Up = false }, fault.EndpointDown, "endpoint c1",
			"nsenter --net=/run/netns/c1 ip link set dev eth0 up", fault.Error},
		"MAC": {func(f *Facts) { f.Endpoints[0].Inside.MAC = "02:00:00:00:00:01" }, fault.EndpointMAC, "endpoint c1",
			"nsenter --net=/run/netns/c1 ip link set dev eth0 address 02:42:0a:01:05:02", fault.Error},
		"MTU": {func(f *Facts) { f.Endpoints[0].Inside.MTU = 9000 }, fault.EndpointMTU, "endpoint c1",
			"nsenter --net=/run/netns/c1 ip link set dev eth0 mtu 1450", fault.Error},
		"no address": {func(f *Facts) { f.Endpoints[0].Inside.Addrs = nil }, fault.EndpointAddress, "endpoint c1",
			"nsenter --net=/run/netns/c1 ip addr add 10.1.5.2/16 dev eth0", fault.Error},
		"own address": {func(f *Facts) {
			f.Endpoints[0].Inside.Addrs = append(f.Endpoints[0].Inside.Addrs, netip.MustParsePrefix("10.1.9.9/16"))
		}, fault.EndpointAddress, "endpoint c1", "nsenter --net=/run/netns/c1 ip addr del 10.1.9.9/16 dev eth0", fault.Warning},
		"leftover": {func(f *Facts) { f.Host.Leftovers = []string{"bz9"} }, fault.Leftover, "device bz9", "ip link del dev bz9", fault.Warning},
		"stale socket": {func(f *Facts) { f.Engine.Stale = true }, fault.PluginSocketStale, "/run/docker/plugins/baize.sock",
			"rm -f /run/docker/plugins/baize.sock", fault.Error},
	} {
		t.Run(name, func(t *testing.T) {
			f := healthy()
			tc.change(&f)
			r := Examine(f)
			found := r.Findings()
			require.Len(t, found, 1, "%+v", found)
			x := found[0]
			require.Equal(t, tc.code, x.Code)
			require.Equal(t, tc.item, x.Item)
			require.Equal(t, "host1", x.Node)
			require.Equal(t, tc.severity, x.Severity)
			require.NotEmpty(t, x.What)
			if tc.command != "" {
				require.NotEmpty(t, x.Commands)
				require.Equal(t, tc.command, x.Commands[0])
				require.NotEmpty(t, x.Remedy)
			}
			again, err := json.Marshal(f)
			require.NoError(t, err)
			var back Facts
			require.NoError(t, json.Unmarshal(again, &back))
			require.Equal(t, r, Examine(back), "facts of a file say the same")
		})
	}
}

// What cannot be looked at is neither good nor bad, and says why.
func TestUncheckedSaysWhy(t *testing.T) {
	f := Facts{Node: "host1"}
	f.Store.Skipped, f.Underlay.Skipped = "no etcd", "no topology"
	f.Switch.Database, f.Switch.Daemon = Read{Skipped: "no Open vSwitch"}, Read{Skipped: "no Open vSwitch"}
	r := Examine(f)
	require.Empty(t, r.Findings())
	for _, x := range r.Results {
		if x.State == Unchecked {
			require.NotEmpty(t, x.Text, "%s: %s", x.Section, x.Check)
		}
	}
	require.Greater(t, r.Count(Unchecked), 15)
	require.True(t, f.Silent())
}

// A fault that the agent has reported is not repeated.
func TestAgentsFaultsAreNotRepeated(t *testing.T) {
	f := healthy()
	p := fault.Fault{Code: fault.RecordMalformed, Item: "networks/x", What: "bad", Remedy: "delete it"}
	f.Store.Topology, f.Agent.Status.Problems = []fault.Fault{p}, []fault.Fault{p}
	require.Len(t, Examine(f).Findings(), 1)
}

func TestText(t *testing.T) {
	f := healthy()
	f.Endpoints[0].Inside.MTU = 9000
	text := Examine(f).Text(Style{})
	require.Contains(t, text, "✓ agent       the agent runs")
	require.Contains(t, text, "✗ BZ0607      host1: endpoint c1: its interface has MTU 9000")
	require.Contains(t, text, "\n              → lower it\n                $ nsenter --net=/run/netns/c1 ip link set dev eth0 mtu 1450\n")
	require.Contains(t, text, "– mesh        not checked, tunnels: ")
	require.True(t, strings.HasSuffix(text, "\n1 error, 31 passed, 1 not checked\n"), text)
	require.Contains(t, Examine(f).Text(Style{Verbose: true}), "✓ store: records ")
}

func TestCluster(t *testing.T) {
	answer := func(node string, change func(*Facts)) Asked {
		f := healthy()
		f.Node = node
		f.Endpoints[0].IPs = []netip.Addr{netip.MustParseAddr("10.1.5." + strings.TrimPrefix(node, "host"))}
		f.Endpoints[0].Inside.Addrs = []netip.Prefix{netip.PrefixFrom(f.Endpoints[0].IPs[0], 16)}
		f.Endpoints[0].MAC = "02:42:0a:01:05:0" + strings.TrimPrefix(node, "host")
		f.Endpoints[0].Inside.MAC = f.Endpoints[0].MAC
		if change != nil {
			change(&f)
		}
		a := AnswerOf(f)
		return Asked{Node: node, Alive: true, Answer: &a, Heard: noon}
	}
	look := func(nodes ...Asked) Report { return Cluster(nodes, noon, "v1", 20*time.Second) }
	require.Empty(t, look(answer("host1", nil), answer("host2", nil)).Findings())

	r := look(answer("host1", nil), answer("host2", nil), answer("host3", func(f *Facts) { f.Underlay.VXLANPort = 4790 }))
	require.Len(t, r.Findings(), 1)
	require.Equal(t, fault.SettingsDiffer, r.Findings()[0].Code)
	require.Equal(t, "host3", r.Findings()[0].Node)

	r = look(answer("host1", nil), answer("host2", func(f *Facts) { f.At = noon.Add(time.Hour) }))
	require.Equal(t, fault.ClockSkew, r.Findings()[0].Code)

	r = look(answer("host1", nil), answer("host2", func(f *Facts) {
		f.Endpoints[0].IPs[0] = netip.MustParseAddr("10.1.5.1")
		f.Endpoints[0].Inside.Addrs[0] = netip.MustParsePrefix("10.1.5.1/16")
	}))
	require.Len(t, r.Findings(), 1)
	require.Equal(t, fault.AddressTaken, r.Findings()[0].Code)
	require.Contains(t, r.Findings()[0].What, "node host1 and endpoint c1 of node host2")

	// A record is seen by all, and told once.
	bad := func(f *Facts) {
		f.Store.Topology = []fault.Fault{{Code: fault.RecordMalformed, Item: "networks/x", What: "bad"}}
	}
	r = look(answer("host1", bad), answer("host2", bad))
	require.Len(t, r.Findings(), 1)
	require.Equal(t, "host1 and 1 more", r.Findings()[0].Node)

	r = look(answer("host1", nil), Asked{Node: "host2"}, Asked{Node: "host3", Alive: true, Version: "v0"},
		Asked{Node: "host4", Alive: true, Why: "busy"})
	require.Equal(t, 3, r.Count(Unchecked))
	require.Empty(t, r.Findings())
}

func TestAnswerIsBounded(t *testing.T) {
	f := healthy()
	for i := range 2000 {
		e := f.Endpoints[0]
		e.Name = fmt.Sprintf("c%d", i)
		e.Inside.MTU = 9000
		f.Endpoints = append(f.Endpoints, e)
	}
	a := AnswerOf(f)
	require.True(t, a.Cut)
	b, err := json.Marshal(a)
	require.NoError(t, err)
	require.Less(t, len(b), topology.MaxAnswer)
	require.Len(t, a.Report.Findings(), mostFindings+1)
}

func TestOnPaper(t *testing.T) {
	snap := topology.NewSnapshot(1, []topology.KV{
		{Key: "networks/blue", Value: []byte(`{"ipv4":"10.1.0.0/16","vni":100,"subnetLenIPv4":24,"transport":"vxlan","mtu":1450}`),
			Meta: topology.Meta{CreateRevision: 1}},
		{Key: "networks/red", Value: []byte(`{"ipv4":"10.2.0.0/16","vni":100,"subnetLenIPv4":24,"transport":"vxlan","mtu":1450}`),
			Meta: topology.Meta{CreateRevision: 2}},
	})
	r := OnPaper(snap, noon, "v1")
	require.Len(t, r.Findings(), 1)
	require.Equal(t, fault.RecordConflict, r.Findings()[0].Code)
}

// Names that other programs chose become no commands.
func TestArg(t *testing.T) {
	require.Equal(t, "eth0", arg("eth0"))
	require.Equal(t, `'a;reboot'`, arg("a;reboot"))
	require.Equal(t, `'it'\''s'`, arg("it's"))
	require.Equal(t, "''", arg(""))
}

func TestUseOf(t *testing.T) {
	kv := func(key, value string) topology.KV { return topology.KV{Key: key, Value: []byte(value)} }
	snap := topology.NewSnapshot(1, []topology.KV{
		kv("networks/blue", `{"ipv4":"10.1.0.0/20","vni":100,"subnetLenIPv4":24,"transport":"vxlan","mtu":1450}`),
		kv("nodes/dead", `{"id":"x"}`), kv("nodes/well", `{"id":"y"}`), kv("alive/well", `{"id":"y"}`),
		kv("subnets/blue/10.1.1.0-24", `{"node":"dead"}`), kv("subnets/blue/10.1.2.0-24", `{"node":"well"}`),
		kv("subnets/blue/10.1.8.0-21", `{"reserved":true}`), kv("subnets/blue/10.1.0.0-24", `{"reserved":true}`),
	})
	require.Empty(t, snap.Malformed)
	var s Store
	s.LookAt(snap)
	require.Equal(t, []NetworkUse{{Network: "blue", Family: "IPv4", Total: 15, Used: 10, Dead: []string{"dead"}}}, s.Networks)
}

func TestBeforeInstall(t *testing.T) {
	f := healthy()
	f.Preflight = &Preflight{Root: true, Kernel: true, Device: "eth0", VTEPs: f.Underlay.VTEPs, MTU: 1500}
	require.Empty(t, BeforeInstall(f).Findings())
	for code, change := range map[fault.Code]func(*Facts){
		fault.SettingInvalid:        func(f *Facts) { f.Preflight.Root = false },
		fault.SwitchUnavailable:     func(f *Facts) { f.Preflight.Missing = []string{"ovs-vsctl"} },
		fault.EncapsulationMissing:  func(f *Facts) { f.Preflight.Kernel = false },
		fault.UnderlayDown:          func(f *Facts) { f.Preflight.NoVTEP = "no route" },
		fault.UnderlayMTU:           func(f *Facts) { f.Preflight.MTU = 1300 },
		fault.TunnelPortTaken:       func(f *Facts) { f.Underlay.Takers = []Taker{{Port: 4789, Device: "vx"}} },
		fault.NodeDuplicate:         func(f *Facts) { f.Preflight.Owner = "other" },
		fault.NetworkCoversUnderlay: func(f *Facts) { f.Preflight.Overlaps = []Overlap{{Network: "blue"}} },
	} {
		g := f
		p := *f.Preflight
		g.Preflight = &p
		change(&g)
		found := BeforeInstall(g).Findings()
		require.Len(t, found, 1, "%s", code)
		require.Equal(t, code, found[0].Code)
	}
}
