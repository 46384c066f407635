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
	// inject and undo are scripts of sh(1) on the host "on" (host1 where empty), clean is
	// one that puts away what they leave; service is stopped before inject, and hangs after
	// it.
	inject, undo, clean string
	on                  string
	service, hangs      string
	// args are added to the doctor's command line.
	args []string
	// at is the host that has the fault, host1 where empty; of another one host1's doctor is
	// asked with --all. Code and item (a regular expression) are what it has to find there.
	at   string
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

// cutOff is what follows from an underlay that does not work.
var cutOff = []fault.Code{
	fault.StoreUnavailable, fault.StoreMemberDown, fault.PeerUnreachable, fault.PeerDeaf, fault.PeerSilent, fault.EgressForeign,
	fault.NodeDown, fault.StoreSlow,
}

// connectionsMax is the limit of the table of connections, which a network namespace cannot
// change: a file takes its place, where the command that the doctor prints writes, too.
const connectionsMax = "/proc/sys/net/netfilter/nf_conntrack_max"

// catalogue is the table of faults. In it, PORT is the device of host1's endpoint c1 on
// the host, FLOWS the bridge with OpenFlow 1.4, and PREFIX the cluster's keys in etcd.
var catalogue = []injected{
	// The agent.
	{name: "agent stopped", quick: true, service: "agent", code: fault.AgentDown, item: "agent of node host1", also: agentDown},
	{name: "agent hangs", hangs: "agent", code: fault.AgentHangs, item: "agent of node host1", also: agentDown},
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
	{name: "etcd full", inject: "ALARM", undo: "etcdctl --endpoints=$ETCD alarm disarm", code: fault.StoreFull, item: "etcd",
		also: []fault.Code{fault.NodeDown}}, // on a busy machine: a lease that has expired is not written again
	{
		name: "few subnets left", inject: "baize network create small --subnet 10.77.0.0/24 --subnet-len 26 && " +
			"for i in 64 128 192; do baize subnet reserve --network small 10.77.0.$i/26; done",
		undo: "baize network delete small --force --yes", code: fault.NetworkNearlyFull, item: "network small",
		person: "baize network delete small --force --yes",
	},

	{
		name: "table of connections full", quick: true, inject: "nft add table inet track && " +
			"nft 'add chain inet track out { type filter hook output priority 0; }' && " +
			"nft add rule inet track out ct state new counter && " +
			"for i in $(seq 200); do ping -c 1 -W 1 127.0.0.1 >/dev/null; done; " +
			"echo 100 >/run/connections && mount --bind /run/connections " + connectionsMax,
		undo:  "umount " + connectionsMax + "; nft delete table inet track",
		clean: "umount " + connectionsMax + "; nft delete table inet track",
		code:  fault.ConntrackFull, item: "table of connections",
	},
	{name: "etcd hangs", hangs: "etcd", code: fault.StoreUnavailable, item: "etcd", also: []fault.Code{fault.StoreMemberDown}},
	{
		name: "two nodes with one VTEP", inject: "etcdctl --endpoints=$ETCD put PREFIX/nodes/twin '{\"id\": \"y\", \"vteps\": " +
			"[\"192.168.77.12\"]}'",
		undo: "etcdctl --endpoints=$ETCD del PREFIX/nodes/twin", code: fault.RecordConflict, item: "twin",
		also: []fault.Code{fault.NodeDown}, person: "etcdctl --endpoints=$ETCD del PREFIX/nodes/twin",
	},
	{
		name: "overlapping subnets", inject: "etcdctl --endpoints=$ETCD put PREFIX/subnets/blue/10.1.152.0-22 '{\"node\": \"host2\"}'",
		undo: "etcdctl --endpoints=$ETCD del PREFIX/subnets/blue/10.1.152.0-22", code: fault.RecordConflict, item: "subnets/blue",
		person: "etcdctl --endpoints=$ETCD del PREFIX/subnets/blue/10.1.152.0-22",
	},
	{
		name: "orphaned pin", inject: "etcdctl --endpoints=$ETCD put PREFIX/pins/nowhere/10.9.5.9 '{\"node\": \"ghost\", " +
			"\"mac\": \"02:42:0a:09:05:09\"}'",
		undo: "etcdctl --endpoints=$ETCD del PREFIX/pins/nowhere/10.9.5.9", code: fault.RecordOrphaned, item: "nowhere",
	},
	{
		name: "network deleted from etcd by hand", inject: "etcdctl --endpoints=$ETCD get --print-value-only PREFIX/networks/blue " +
			">/tmp/blue && etcdctl --endpoints=$ETCD del PREFIX/networks/blue",
		undo: "etcdctl --endpoints=$ETCD put PREFIX/networks/blue \"$(cat /tmp/blue)\"", code: fault.RecordVanished, item: "networks/blue",
		person: "etcdctl --endpoints=$ETCD put PREFIX/networks/blue \"$(cat /tmp/blue)\"",
	},
	{
		name: "subnets of the dead", inject: "baize network create dead --subnet 10.78.0.0/24 --subnet-len 26 && " +
			"etcdctl --endpoints=$ETCD put PREFIX/nodes/ghost '{\"id\": \"x\", \"vteps\": [\"192.168.77.99\"]}' && " +
			"for i in 64 128 192; do etcdctl --endpoints=$ETCD put PREFIX/subnets/dead/10.78.0.$i-26 '{\"node\": \"ghost\"}'; done",
		undo: "baize node remove ghost --yes", clean: "baize network delete dead --force --yes", code: fault.NetworkNearlyFull,
		item: "network dead", also: []fault.Code{fault.NodeDown},
	},
	{
		name: "etcd asks for a password", inject: "etcdctl --endpoints=$ETCD user add root:pw && etcdctl --endpoints=$ETCD " +
			"user grant-role root root && etcdctl --endpoints=$ETCD auth enable",
		undo: "etcdctl --endpoints=$ETCD --user root:pw auth disable; etcdctl --endpoints=$ETCD user delete root",
		code: fault.StoreDenied, item: "etcd", also: []fault.Code{fault.StoreUnavailable, fault.StoreMemberDown},
		person: "etcdctl --endpoints=$ETCD --user root:pw auth disable && etcdctl --endpoints=$ETCD user delete root",
	},

	// The switch.
	{
		name: "too many handler threads", quick: true, inject: "ovs-vsctl --no-wait set Open_vSwitch . other_config:n-handler-threads=40",
		undo: "ovs-vsctl --no-wait remove Open_vSwitch . other_config n-handler-threads", code: fault.SwitchMemory, item: "ovs-vswitchd",
	},
	{
		name: "ovs-vswitchd gets no processor time", hangs: "ovs-vswitchd", code: fault.SwitchStarved, item: "ovs-vswitchd",
		severity: fault.Error, also: switchDown,
	},
	{
		name: "ovsdb-server gets no processor time", hangs: "ovsdb-server", code: fault.SwitchStarved, item: "ovsdb-server",
		severity: fault.Error, also: switchDown,
	},
	{
		name: "datapath limited to five flows", inject: "ovs-vsctl --no-wait set Open_vSwitch . other_config:flow-limit=5",
		undo: "ovs-vsctl --no-wait remove Open_vSwitch . other_config flow-limit", code: fault.SwitchStarved,
		item: "other_config:flow-limit",
	},
	{
		name: "endpoint's port limited to 8 kbit/s", quick: true, inject: "ovs-vsctl set interface PORT ingress_policing_rate=8",
		undo: "ovs-vsctl set interface PORT ingress_policing_rate=0", code: fault.PortLimited, item: "port PORT",
	},
	{
		name: "QoS on an endpoint's port", inject: "ovs-vsctl -- --id=@q create qos type=egress-policer other-config:cir=1000 " +
			"other-config:cbs=1000 -- set port PORT qos=@q",
		undo: "ovs-vsctl clear port PORT qos", code: fault.PortLimited, item: "port PORT",
		severity: fault.Warning,
	},
	{
		name: "endpoint's port closed for what comes in", inject: "ovs-ofctl mod-port br-baize PORT no-receive",
		undo: "ovs-ofctl mod-port br-baize PORT receive", code: fault.PortLimited, item: "port PORT",
	},
	{
		name: "tunnel's port closed for what goes out", inject: "ovs-ofctl mod-port br-baize vx-host2 no-forward",
		undo: "ovs-ofctl mod-port br-baize vx-host2 forward", code: fault.PortLimited, item: "port vx-host2",
		also: []fault.Code{fault.PeerDeaf, fault.PeerSilent},
	},
	{
		name: "name of a tunnel port taken, agent stopped", service: "agent",
		inject: "ovs-vsctl del-port vx-host2 && ovs-vsctl add-port br-phy vx-host2 -- set interface vx-host2 type=internal",
		undo:   "ovs-vsctl --if-exists del-port br-phy vx-host2", code: fault.PortForeign, item: "vx-host2",
		also:   append(slices.Clone(agentDown), fault.FlowMissing, fault.PortMissing, fault.PortDead, fault.UnderlayDown),
		person: "ovs-vsctl del-port br-phy vx-host2",
	},
	{
		name: "record of an endpoint's port mangled, agent stopped", service: "agent",
		inject: "ovs-vsctl set port PORT external_ids:baize-ips=nonsense", code: fault.PortMissing, item: "port PORT",
		also: append(slices.Clone(agentDown), fault.PortMalformed),
	},
	{
		name: "meters deleted, agent stopped", service: "agent", inject: "ovs-ofctl -O OpenFlow14 del-meters br-baize",
		code: fault.FlowMissing, item: "flows of bridge br-baize", also: agentDown,
	},
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
		name:   "port of another program",
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
		name: "controller of another program", inject: "ovs-vsctl set-controller br-baize tcp:127.0.0.1:6653",
		undo: "ovs-vsctl del-controller br-baize", code: fault.BridgeAltered, item: "bridge br-baize", severity: fault.Warning,
	},
	{
		name: "spanning tree on the bridge", inject: "ovs-vsctl set bridge br-baize stp_enable=true",
		undo: "ovs-vsctl set bridge br-baize stp_enable=false", code: fault.BridgeAltered, item: "bridge br-baize",
		severity: fault.Warning,
	},
	{
		name: "mirror of another program", inject: "ovs-vsctl -- --id=@m create mirror name=theirs select-all=true " +
			"output-vlan=77 -- set bridge br-baize mirrors=@m",
		undo: "ovs-vsctl clear bridge br-baize mirrors", code: fault.BridgeAltered, item: "bridge br-baize", severity: fault.Warning,
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

	{
		name: "collectors of another program", inject: "baize network update blue --ipfix 192.0.2.9 && " +
			"until ovs-vsctl list Flow_Sample_Collector_Set | grep -q baize; do sleep 0.1; done; " +
			"ovs-vsctl clear Flow_Sample_Collector_Set $(ovs-vsctl --bare --columns=_uuid list Flow_Sample_Collector_Set) external_ids",
		undo:  "ovs-vsctl --all destroy Flow_Sample_Collector_Set",
		clean: "baize network update blue --no-ipfix",
		code:  fault.SamplingForeign, item: "collector set", person: "ovs-vsctl --all destroy Flow_Sample_Collector_Set",
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

	{
		name: "unreachable route to a peer", inject: "ip route add unreachable 192.168.77.12/32",
		undo: "ip route del unreachable 192.168.77.12/32", code: fault.PeerUnreachable, item: "node host2, VTEP 192.168.77.12",
	},
	{
		name: "prohibited route to a peer", inject: "ip route add prohibit 192.168.77.12/32",
		undo: "ip route del prohibit 192.168.77.12/32", code: fault.PeerUnreachable, item: "node host2, VTEP 192.168.77.12",
	},
	{
		name:   "wrong link address of a peer",
		inject: "ip neigh replace 192.168.77.12 lladdr 02:00:00:00:00:99 dev br-phy nud permanent",
		undo:   "ip neigh del 192.168.77.12 dev br-phy", code: fault.PeerUnreachable, item: "node host2, VTEP 192.168.77.12",
		also: []fault.Code{fault.PeerDeaf, fault.PeerSilent},
	},
	{
		name: "UDP 4789 dropped by nft, ingress",
		inject: "nft add table netdev theirs && nft 'add chain netdev theirs in { type filter hook ingress device eth0 priority 0; }' " +
			"&& nft add rule netdev theirs in udp dport 4789 drop",
		undo: "nft delete table netdev theirs", code: fault.TunnelFiltered, item: "firewall, netdev theirs in", severity: fault.Warning,
	},
	{
		name: "a peer dropped by nft, output",
		inject: "nft add table ip theirs && nft 'add chain ip theirs out { type filter hook output priority 0; }' " +
			"&& nft add rule ip theirs out ip daddr 192.168.77.12 drop",
		undo: "nft delete table ip theirs", code: fault.TunnelFiltered, item: "firewall, ip theirs out", severity: fault.Warning,
		also: []fault.Code{fault.PeerUnreachable},
	},
	{
		name: "a peer's address on this host, too", inject: "ip addr add 192.168.77.12/32 dev br-phy",
		undo: "ip addr del 192.168.77.12/32 dev br-phy", code: fault.PeerUnreachable, item: "node host2, VTEP 192.168.77.12",
		also: []fault.Code{fault.PeerDeaf, fault.PeerSilent, fault.PeerUnreachable},
	},
	{
		name: "a peer blocked by IPsec", inject: "ip xfrm policy add src 0.0.0.0/0 dst 192.168.77.12/32 dir out action block",
		undo: "ip xfrm policy flush", code: fault.TunnelFiltered, item: "node host2, VTEP 192.168.77.12",
		severity: fault.Warning, also: []fault.Code{fault.PeerUnreachable},
	},
	{
		name: "tunnel port taken by a program",
		inject: "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(Proto => \"udp\", LocalPort => 4789) or die; sleep 3600' " +
			">/dev/null 2>&1 &",
		undo: "pkill -f LocalPort", code: fault.TunnelPortTaken, item: "UDP port 4789", severity: fault.Warning,
	},
	{
		name: "ARP off in the underlay", inject: "ip link set br-phy arp off", undo: "ip link set br-phy arp on",
		code: fault.UnderlayDown, item: "device br-phy", also: cutOff,
	},
	{
		name: "cable of the underlay unplugged", inject: "UNPLUG", undo: "PLUG", person: "PLUG", code: fault.UnderlayDown,
		item: "device eth0", also: cutOff,
	},
	{
		name: "UDP 4789 dropped by nft on another host, egress", on: "host2", at: "host2",
		inject: "nft add table netdev theirs && nft 'add chain netdev theirs out { type filter hook egress device eth0 priority 0; }' " +
			"&& nft add rule netdev theirs out udp dport 4789 drop",
		undo: "nft delete table netdev theirs", code: fault.TunnelFiltered, item: "firewall, netdev theirs out", severity: fault.Error,
		also: []fault.Code{fault.PeerDeaf, fault.PeerSilent},
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
		name: "MTU 600 at the end on the host", inject: "ip link set PORT mtu 600", undo: "ip link set PORT mtu 1450",
		code: fault.EndpointMTU, item: "endpoint c1",
	},
	{
		name: "device left over", inject: "ip link add bzdeadbeef01 type veth peer name peerofdead",
		undo: "ip link del bzdeadbeef01", code: fault.Leftover, item: "device bzdeadbeef01",
	},
	{
		name: "container does not answer ARP", quick: true, inject: "INSIDE ip link set eth0 arp off", code: fault.EndpointDown,
		item: "endpoint c1",
	},
	{
		name: "checksum offload switched on", quick: true, inject: "INSIDE ethtool -K eth0 tx on", undo: "INSIDE ethtool -K eth0 tx off",
		code: fault.EndpointChecksum, item: "endpoint c1",
	},
	{
		name: "container's prefix length changed", quick: true,
		inject: "INSIDE ip -4 addr flush dev eth0 && INSIDE ip addr add OWN/24 dev eth0",
		undo:   "INSIDE ip -4 addr flush dev eth0 && INSIDE ip addr add OWN/16 dev eth0", code: fault.EndpointAddress,
		item: "endpoint c1", severity: fault.Warning,
	},
	{
		name: "container's address removed", inject: "INSIDE ip -4 addr flush dev eth0", undo: "INSIDE ip addr add OWN/16 dev eth0",
		code: fault.EndpointAddress, item: "endpoint c1", severity: fault.Error,
	},
	{
		name: "another host's container has another MAC", on: "host2", at: "host2",
		inject: "nsenter --net=/run/netns/c1 ip link set eth0 address 02:00:00:00:00:98", code: fault.EndpointMAC, item: "endpoint c1",
	},
	{
		name: "container's route to its network deleted", quick: true, inject: "INSIDE ip route del 10.1.0.0/16 dev eth0",
		undo: "INSIDE ip route replace 10.1.0.0/16 dev eth0 src OWN", code: fault.EndpointRoute, item: "endpoint c1",
	},
	{
		name: "blackhole inside a container", inject: "INSIDE ip route add blackhole PEER/32",
		undo: "INSIDE ip route del blackhole PEER/32", code: fault.EndpointRoute, item: "endpoint c1",
	},
	{
		name:   "wrong link address written down in a container",
		inject: "INSIDE ip neigh replace PEER lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
		undo:   "INSIDE ip neigh del PEER dev eth0", code: fault.EndpointNeighbour, item: "endpoint c1",
	},
	{
		name: "container's own firewall lets nothing in",
		inject: "INSIDE nft add table ip own && " +
			"INSIDE nft 'add chain ip own in { type filter hook input priority 0; policy drop; }'",
		undo: "INSIDE nft delete table ip own", code: fault.EndpointFiltered, item: "endpoint c1", severity: fault.Warning,
	},
	{
		name: "stale plugin socket", service: "agent", inject: "STALE", code: fault.PluginSocketStale,
		item: "/run/docker/plugins/baize.sock", also: agentDown,
	},
}
