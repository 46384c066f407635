package metrics

import "github.com/prometheus/client_golang/prometheus"

// Metric is one metric that an agent may export.
type Metric struct {
	// Name has its unit as Prometheus' conventions ask for; Type is "counter", "gauge" or
	// "summary".
	Name, Type string
	// Labels are few and bounded: by the nodes, the networks, the parts of an agent, the
	// reasons there are. No label names an endpoint or a container.
	Labels []string
	// Help says what it is, with its unit.
	Help string

	desc *prometheus.Desc
}

func metric(name, kind, help string, labels ...string) *Metric {
	return &Metric{
		Name: name, Type: kind, Help: help, Labels: labels, desc: prometheus.NewDesc(name, help, labels, nil),
	}
}

// The metrics.
var (
	buildInfo    = metric("baize_build_info", "gauge", "1, with the program's version.", "version")
	startTime    = metric("baize_agent_start_time_seconds", "gauge", "When the agent started, in seconds since 1970.")
	ready        = metric("baize_agent_ready", "gauge", "1 where the node forwards what it has to.")
	partFailures = metric("baize_agent_part_failures_total", "counter",
		"How often a part of the agent failed and was started again.", "part")
	faults = metric("baize_faults", "gauge", "Faults that 'baize status' shows, by code.", "code", "severity")
	source = metric("baize_scrape_source_up", "gauge",
		"1 where what the metrics of a source are taken from answered: flows, counters.", "source")

	etcdConnected = metric("baize_etcd_connected", "gauge", "1 while etcd answers.")
	etcdRevision  = metric("baize_etcd_revision", "gauge", "etcd's revision of the topology in force.")

	networks = metric("baize_networks", "gauge", "Networks in the topology.")
	nodes    = metric("baize_nodes", "gauge",
		"Nodes in the topology: alive, or down, whose agent does not run.", "state")
	pins           = metric("baize_pins", "gauge", "Pinned addresses in a network.", "network")
	networkSubnets = metric("baize_network_subnets", "gauge",
		"Subnets of a network that nodes can lease.", "network", "family")
	networkLeased = metric("baize_network_subnets_leased", "gauge",
		"Subnets of a network that are leased or reserved.", "network", "family")
	networkPeers    = metric("baize_network_peers", "gauge", "Other nodes that carry a network of this node.", "network")
	endpoints       = metric("baize_endpoints", "gauge", "Endpoints of this node.", "network")
	subnetAddresses = metric("baize_subnet_addresses", "gauge",
		"Addresses for endpoints in the subnets that this node leases.", "network", "family")
	subnetUsed = metric("baize_subnet_addresses_used", "gauge",
		"Addresses of endpoints in the subnets that this node leases.", "network", "family")

	passes = metric("baize_reconcile_passes_total", "counter",
		"Passes of a part that compares and applies: ok or failed.", "part", "result")
	passSeconds = metric("baize_reconcile_duration_seconds", "summary", "What passes of a part took, in seconds.", "part")
	passSuccess = metric("baize_reconcile_last_success_timestamp_seconds", "gauge",
		"When a pass that did not fail began last, in seconds since 1970.", "part")
	changes = metric("baize_switch_changes_total", "counter", "Ports and flows that passes added, changed or removed.")
	repairs = metric("baize_switch_repairs_total", "counter",
		"Ports and flows that somebody else removed or changed, and that were restored.", "object")
	vswitchdLost = metric("baize_vswitchd_losses_total", "counter",
		"How often ovs-vswitchd, or the connection to it, ended.")

	flowsWanted  = metric("baize_flows_wanted", "gauge", "Flows that the topology and the endpoints ask for.")
	flowsPresent = metric("baize_flows_present", "gauge", "Flows of Baize's on the bridge.")
	portsWanted  = metric("baize_ports_wanted", "gauge", "Ports that the topology and the endpoints ask for.")
	portsPresent = metric("baize_ports_present", "gauge", "Ports of Baize's on the bridge.")
	foreign      = metric("baize_foreign_objects", "gauge", "Ports and flows on the bridge that Baize did not make.")
	dropped      = metric("baize_dropped_packets_total", "counter",
		"Packets that flows of Baize's dropped, by reason. A flow that is made anew counts from 0.", "reason")

	tunnelUp = metric("baize_tunnel_up", "gauge",
		"1 where Open vSwitch can forward through the tunnel to a peer.", "peer", "encapsulation")
	tunnelBytes = metric("baize_tunnel_bytes_total", "counter",
		"Bytes through the tunnel to a peer: receive or transmit.", "peer", "encapsulation", "direction")
	tunnelPackets = metric("baize_tunnel_packets_total", "counter",
		"Packets through the tunnel to a peer: receive or transmit.", "peer", "encapsulation", "direction")
	peerAlive = metric("baize_peer_alive", "gauge",
		"1 where the agent of another node that carries a network of this node runs.", "peer")

	meshWays = metric("baize_mesh_ways", "gauge",
		"Ways to peers that are probed, by the state that probes tell of: docs/mesh.md has the states.", "state")
	meshOK = metric("baize_mesh_way_ok", "gauge",
		"1 where probes of all sizes arrive in both directions, 0 where something is wrong. Not there where nobody knows.",
		"peer", "encapsulation")
	meshLoss = metric("baize_mesh_loss_ratio", "gauge",
		"Part of the probes of the last minutes that was lost, 0 to 1: transmit to the peer, or receive from it.",
		"peer", "encapsulation", "direction")
	meshRTT = metric("baize_mesh_rtt_seconds", "gauge",
		"Median of the round trips of the last probes, in seconds.", "peer", "encapsulation")
	meshRTTMax = metric("baize_mesh_rtt_max_seconds", "gauge",
		"Longest of the round trips of the last probes, in seconds.", "peer", "encapsulation")
	meshMTU = metric("baize_mesh_mtu_bytes", "gauge",
		"Largest packet of an endpoint that was proven to pass, in bytes.", "peer", "encapsulation")
	meshMTUWanted = metric("baize_mesh_mtu_wanted_bytes", "gauge",
		"Largest MTU of the networks on the way to a peer, in bytes.", "peer", "encapsulation")

	lookups = metric("baize_datapath_lookups_total", "counter",
		"Packets that the datapath looked up: hit, missed (an upcall to ovs-vswitchd), lost (an upcall that was dropped).",
		"datapath", "result")
	datapathFlows = metric("baize_datapath_flows", "gauge", "Flows in the datapath's cache.", "datapath")
	datapathLimit = metric("baize_datapath_flows_limit", "gauge",
		"Flows that ovs-vswitchd lets the datapath's cache have.", "datapath")

	bgpUp = metric("baize_bgp_session_up", "gauge", "1 where the session with a router is established.", "neighbor")

	events     = metric("baize_events_total", "counter", "Events of the journal, by kind.", "kind")
	eventsLost = metric("baize_events_lost_total", "counter", "Events that could not be written to the journal.")
)

// Metrics lists all metrics of Baize's own. Those of the process
// (process_cpu_seconds_total and others) and of the Go runtime come from Prometheus'
// library.
func Metrics() []*Metric {
	return []*Metric{
		buildInfo, startTime, ready, partFailures, faults, source, etcdConnected, etcdRevision, networks, nodes, pins,
		networkSubnets, networkLeased, networkPeers, endpoints, subnetAddresses, subnetUsed, passes, passSeconds, passSuccess,
		changes, repairs, vswitchdLost, flowsWanted, flowsPresent, portsWanted, portsPresent, foreign, dropped, tunnelUp,
		tunnelBytes, tunnelPackets, peerAlive, meshWays, meshOK, meshLoss, meshRTT, meshRTTMax, meshMTU, meshMTUWanted,
		lookups, datapathFlows, datapathLimit, bgpUp, events, eventsLost,
	}
}
