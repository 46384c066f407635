//go:build system

package doctortest

import (
	"slices"

	"github.com/baize-net/baize/topology/fault"
)

// injected is one fault of the catalogue.
type injected struct {
	name string
	// quick: it is among those that every run of the tests injects.
	quick bool
	// inject and undo are scripts of sh(1) on host1; service is stopped before inject,
	// and signal sent to the agent.
	inject, undo string
	service      string
	stopped      bool // the agent hangs
	// code and item (a regular expression) are what doctor has to find on host1.
	code fault.Code
	item string
	// also are the codes of what follows from it, and may be found as well.
	also []fault.Code
	// person is what somebody does who reads a remedy that is in words only.
	person string
	// severity is that of the finding, where it matters.
	severity fault.Severity
}

// agentDown is what follows from an agent that does not run.
var agentDown = []fault.Code{fault.AgentDown, fault.NodeDown}

// switchDown is what follows from an Open vSwitch that does not run, in this lab: the
// underlay's address is on its bridge.
var switchDown = []fault.Code{
	fault.StoreUnavailable, fault.AgentDown, fault.AgentHangs, fault.NodeDown, fault.UnderlayDown, fault.PeerUnreachable,
	fault.SwitchUnavailable, fault.BridgeMissing, fault.StoreMemberDown, fault.EgressForeign, fault.PortDead,
}

// catalogue is the table of faults. In it, PORT is the device of host1's endpoint c1 on
// the host, FLOWS the bridge with OpenFlow 1.4, and PREFIX the cluster's keys in etcd.
var catalogue = []injected{
	// The agent.
	{name: "agent stopped", quick: true, service: "agent", code: fault.AgentDown, item: "agent of node host1", also: agentDown},
	{name: "agent hangs", stopped: true, code: fault.AgentHangs, item: "agent of node host1", also: agentDown},
	{
		name: "state directory full", inject: "mount -t tmpfs -o size=1M tmpfs /var/lib/baize && dd if=/dev/zero " +
			"of=/var/lib/baize/fill bs=1k count=1100 2>/dev/null; true",
		undo: "umount /var/lib/baize", code: fault.StateUnwritable, item: "/var/lib/baize",
		person: "umount /var/lib/baize",
	},

	// The store.
	{
		name: "malformed record", quick: true, inject: "etcdctl --endpoints=$ETCD put PREFIX/networks/typo '{\"vni\": \"x\"}'",
		undo: "etcdctl --endpoints=$ETCD del PREFIX/networks/typo", code: fault.RecordMalformed, item: "networks/typo",
	},
	{
		name: "orphaned subnet", inject: "etcdctl --endpoints=$ETCD put PREFIX/subnets/nowhere/10.9.5.0-24 '{\"node\": \"host1\"}'",
		undo: "etcdctl --endpoints=$ETCD del PREFIX/subnets/nowhere/10.9.5.0-24", code: fault.RecordOrphaned, item: "nowhere",
	},
	{
		name: "one VNI twice", inject: "etcdctl --endpoints=$ETCD put PREFIX/networks/twin '{\"ipv4\": \"10.66.0.0/16\", " +
			"\"subnetLenIPv4\": 24, \"vni\": 100, \"transport\": \"vxlan\", \"mtu\": 1450}'",
		undo: "etcdctl --endpoints=$ETCD del PREFIX/networks/twin", code: fault.RecordConflict, item: "twin",
		person: "etcdctl --endpoints=$ETCD del PREFIX/networks/twin",
	},
	{
		name: "a node that is gone", inject: "etcdctl --endpoints=$ETCD put PREFIX/nodes/ghost '{\"id\": \"x\", \"vteps\": " +
			"[\"192.168.77.99\"]}'",
		undo: "etcdctl --endpoints=$ETCD del PREFIX/nodes/ghost", code: fault.NodeDown, item: "node ghost",
		person: "baize node remove ghost",
	},
	{name: "etcd stopped", service: "etcd", code: fault.StoreUnavailable, item: "etcd", also: []fault.Code{fault.StoreMemberDown}},
	{name: "etcd full", inject: "ALARM", undo: "etcdctl --endpoints=$ETCD alarm disarm", code: fault.StoreFull, item: "etcd"},
	{
		name: "few subnets left", inject: "baize network create small --subnet 10.77.0.0/24 --subnet-len 26 && " +
			"for i in 64 128 192; do baize subnet reserve --network small 10.77.0.$i/26; done",
		undo: "baize network delete small --force --yes", code: fault.NetworkNearlyFull, item: "network small",
		person: "baize network delete small --force --yes",
	},

	// The switch.
	{name: "ovs-vswitchd stopped", service: "ovs-vswitchd", code: fault.SwitchUnavailable, item: "ovs-vswitchd", also: switchDown},
	{name: "ovsdb-server stopped", service: "ovsdb-server", code: fault.SwitchUnavailable, item: "Open vSwitch database", also: switchDown},
	{
		name: "drop flow above Baize's", quick: true, inject: "ovs-ofctl FLOWS 'table=0,priority=65535,ip,nw_dst=10.1.0.0/16,actions=drop'",
		undo: "ovs-ofctl -O OpenFlow14 --strict del-flows br-baize 'table=0,priority=65535,ip,nw_dst=10.1.0.0/16'",
		code: fault.FlowForeign, item: "flow of another program",
	},
	{
		name: "NORMAL flow of another program", inject: "ovs-ofctl FLOWS 'table=77,priority=7,actions=NORMAL'",
		undo: "ovs-ofctl -O OpenFlow14 del-flows br-baize table=77", code: fault.FlowForeign, item: "flow of another program",
		severity: fault.Warning,
	},
	{
		name: "port of another program", quick: true,
		inject: "ovs-vsctl add-port br-baize theirs -- set interface theirs type=internal",
		undo:   "ovs-vsctl --if-exists del-port theirs", code: fault.PortUnknown, item: "port theirs",
	},
	{
		name: "flow deleted, agent stopped", service: "agent", inject: "ovs-ofctl -O OpenFlow14 del-flows br-baize table=20",
		code: fault.FlowMissing, item: "flows of bridge br-baize", also: agentDown,
	},
	{
		name: "flows altered, agent stopped", service: "agent",
		inject: "ovs-ofctl -O OpenFlow14 mod-flows br-baize 'table=20,actions=drop'",
		code:   fault.FlowMissing, item: "flows of bridge br-baize", also: agentDown,
	},
	{
		name: "bridge deleted, agent stopped", service: "agent", inject: "ovs-vsctl del-br br-baize", code: fault.BridgeMissing,
		item: "bridge br-baize", also: agentDown,
	},
	{
		// Open vSwitch gives a bridge of this mode a flow of its own, and forgets all others.
		name: "bridge settings changed, agent stopped", service: "agent", inject: "ovs-vsctl set-fail-mode br-baize standalone",
		code: fault.BridgeAltered, item: "bridge br-baize", also: append(slices.Clone(agentDown), fault.FlowMissing, fault.FlowForeign),
	},
	{
		name: "tunnel port deleted, agent stopped", service: "agent", inject: "ovs-vsctl del-port vx-host2", code: fault.PortMissing,
		item: "port vx-host2", also: append(slices.Clone(agentDown), fault.FlowMissing),
	},
	{
		name: "tunnel port altered, agent stopped", service: "agent",
		inject: "ovs-vsctl set interface vx-host2 options:remote_ip=192.168.77.77", code: fault.PortMissing, item: "port vx-host2",
		also: agentDown,
	},
	{
		name: "endpoint's port deleted, agent stopped", service: "agent", inject: "ovs-vsctl del-port PORT", code: fault.PortMissing,
		item: "port PORT", also: append(slices.Clone(agentDown), fault.FlowMissing),
	},
	{
		name: "two owners of one tunnel", inject: "ovs-vsctl add-br br-other -- set bridge br-other datapath_type=netdev -- " +
			"add-port br-other vx-other -- set interface vx-other type=vxlan options:remote_ip=192.168.77.12 options:key=flow " +
			"options:local_ip=192.168.77.11",
		undo: "ovs-vsctl --if-exists del-br br-other", code: fault.TunnelForeign, item: "port vx-host2",
	},
	{
		name: "flow-restore-wait set", inject: "ovs-vsctl --no-wait set Open_vSwitch . other_config:flow-restore-wait=true",
		undo: "ovs-vsctl --no-wait remove Open_vSwitch . other_config flow-restore-wait", code: fault.RestoreWaitForeign,
		item: "flow-restore-wait",
	},

	// The underlay.
	{
		name: "blackhole route to a peer", quick: true, inject: "ip route add blackhole 192.168.77.12/32",
		undo: "ip route del blackhole 192.168.77.12/32", code: fault.PeerUnreachable, item: "node host2, VTEP 192.168.77.12",
	},
	{
		name: "tunnel port taken by a VXLAN device", quick: true, inject: "ip link add vxtheirs type vxlan id 7 dstport 4789 dev br-phy",
		undo: "ip link del vxtheirs", code: fault.TunnelPortTaken, item: "UDP port 4789", severity: fault.Warning,
	},
	{
		name: "1 Mbit/s on the underlay", inject: "tc qdisc add dev eth0 root tbf rate 1mbit burst 32k latency 50ms",
		undo: "tc qdisc del dev eth0 root", code: fault.UnderlayShaped, item: "traffic control of device eth0",
		severity: fault.Warning, also: []fault.Code{fault.StoreSlow},
	},
	{
		name: "UDP 4789 dropped by nft, egress", quick: true,
		inject: "nft add table netdev theirs && nft 'add chain netdev theirs out { type filter hook egress device eth0 priority 0; }' " +
			"&& nft add rule netdev theirs out udp dport 4789 drop",
		undo: "nft delete table netdev theirs", code: fault.TunnelFiltered, item: "firewall, netdev theirs out", severity: fault.Error,
	},
	{
		name: "UDP 4789 dropped by nft, input",
		inject: "nft add table inet theirs && nft 'add chain inet theirs in { type filter hook input priority 0; }' " +
			"&& nft add rule inet theirs in udp dport 4789 drop",
		undo: "nft delete table inet theirs", code: fault.TunnelFiltered, item: "firewall, inet theirs in", severity: fault.Warning,
	},
	{
		name: "UDP 4789 dropped by iptables, output", inject: "iptables -A OUTPUT -p udp --dport 4789 -j DROP",
		undo: "iptables -F OUTPUT", code: fault.TunnelFiltered, item: "OUTPUT", severity: fault.Warning,
	},
	{
		// Where nobody chose a network's MTU, it follows, and nothing is wrong.
		name: "MTU of the underlay lowered", inject: "baize network update blue --mtu 1450 && ip link set eth0 mtu 1400",
		undo: "ip link set eth0 mtu 1500", code: fault.UnderlayMTU, item: "device eth0",
	},

	// Containers.
	{name: "end on the host down", quick: true, inject: "ip link set PORT down", undo: "ip link set PORT up", code: fault.EndpointDown,
		item: "endpoint c1"},
	{name: "container's interface down", inject: "INSIDE ip link set eth0 down", undo: "INSIDE ip link set eth0 up",
		code: fault.EndpointDown, item: "endpoint c1"},
	{
		// With an agent it is forgotten at once: to an agent it is a container that went.
		name: "container's interface deleted, agent stopped", service: "agent", inject: "INSIDE ip link del eth0",
		undo: "baize endpoint add --name c1 --network blue --netns /run/netns/c1", code: fault.EndpointGone, item: "endpoint c1",
		also: append(slices.Clone(agentDown), fault.FlowMissing, fault.PortMissing, fault.PortDead),
	},
	{
		name: "container's address changed", quick: true,
		inject: "INSIDE ip -4 addr flush dev eth0 && INSIDE ip addr add 10.1.153.99/16 dev eth0",
		code:   fault.EndpointAddress, item: "endpoint c1", severity: fault.Error,
	},
	{
		name: "another's address added", inject: "INSIDE ip addr add PEER/16 dev eth0", undo: "INSIDE ip addr del PEER/16 dev eth0",
		code: fault.EndpointAddress, item: "endpoint c1", severity: fault.Warning,
	},
	{
		name: "container's MAC changed", quick: true, inject: "INSIDE ip link set eth0 address 02:00:00:00:00:99",
		code: fault.EndpointMAC, item: "endpoint c1",
	},
	{
		name: "container's MTU 9000", quick: true, inject: "ip link set PORT mtu 9000 && INSIDE ip link set eth0 mtu 9000",
		undo: "INSIDE ip link set eth0 mtu 1450", code: fault.EndpointMTU, item: "endpoint c1",
	},
	{
		name: "device left over", quick: true, inject: "ip link add bzdeadbeef01 type veth peer name peerofdead",
		undo: "ip link del bzdeadbeef01", code: fault.Leftover, item: "device bzdeadbeef01",
	},
	{
		name: "stale plugin socket", service: "agent", inject: "STALE", code: fault.PluginSocketStale,
		item: "/run/docker/plugins/baize.sock", also: agentDown,
	},
}
