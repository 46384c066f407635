package fault

// Code names a kind of fault: "BZ" and four digits, of which the first two say
// where it was found. A code is never given to another kind, and never changed.
type Code string

// Where faults are found, by the first two digits.
//
//	00  the agent itself
//	01  the store: etcd, and the records in it
//	02  membership: this node's own records, and who else claims them
//	03  the switch: Open vSwitch, its bridge, ports and flows
//	04  the underlay: tunnels, MTU, reachability of peers
//	05  this host's kernel: routes, addresses, sysctls, firewall
//	06  endpoints, and the engines that start containers
//	07  BGP
//	08  names
//	09  topologies in other layouts than Baize's own
const (
	// 01: the store.

	// StoreUnavailable: etcd does not answer, or refuses the request.
	StoreUnavailable Code = "BZ0101"
	// RecordMalformed: a key cannot be decoded.
	RecordMalformed Code = "BZ0102"
	// RecordConflict: a record contradicts an older one.
	RecordConflict Code = "BZ0103"
	// RecordOrphaned: a record names something that does not exist.
	RecordOrphaned Code = "BZ0104"
	// StoreFull: etcd answers, but refuses every write: its database is full.
	StoreFull Code = "BZ0105"
	// StoreDenied: etcd refuses the user, or the user's permissions.
	StoreDenied Code = "BZ0106"

	// RecordVanished: a record that is in use is gone from etcd, and the last good
	// one stays in force.
	RecordVanished Code = "BZ0107"
	// CertificateUnusable: a certificate for etcd was replaced by one that cannot be
	// used, and the one that was read before stays in use.
	CertificateUnusable Code = "BZ0108"
	// CertificateExpires: a certificate that the connections to etcd need expires within
	// 30 days, or has.
	CertificateExpires Code = "BZ0109"
	// SecretExposed: others than root can read a file with a secret.
	SecretExposed Code = "BZ0110"
	// StoreSlow: etcd answers, but slowly.
	StoreSlow Code = "BZ0120"
	// StoreMemberDown: a member of the etcd cluster does not answer, or has no leader.
	StoreMemberDown Code = "BZ0121"
	// StoreNearlyFull: etcd's database is nearly as large as it may become.
	StoreNearlyFull Code = "BZ0122"
	// ClockSkew: the clocks of two hosts differ.
	ClockSkew Code = "BZ0124"

	// 02: membership.

	// NetworkMissing: a network that this node should carry does not exist.
	NetworkMissing Code = "BZ0201"
	// NetworkFull: nothing is left to lease or to allocate.
	NetworkFull Code = "BZ0202"
	// NodeDuplicate: two hosts have one name or one identity.
	NodeDuplicate Code = "BZ0203"
	// NodeOwned: a node's name, subnets and pins are another installation's, whose
	// agent does not run.
	NodeOwned Code = "BZ0206"
	// EncapsulationMissing: a node's datapath cannot do what a network asks for.
	EncapsulationMissing Code = "BZ0204"
	// NodeDown: a node's agent is not alive; the node may still forward.
	NodeDown Code = "BZ0205"
	// NetworkDeleting: a network is being deleted; nothing new is leased or attached
	// in it, and it goes when no node uses it any more.
	NetworkDeleting Code = "BZ0207"
	// NetworkNearlyFull: few subnets of a network are left.
	NetworkNearlyFull Code = "BZ0220"
	// SettingsDiffer: nodes have different settings where all must have the same.
	SettingsDiffer Code = "BZ0221"

	// 03: the switch.

	// SwitchUnavailable: Open vSwitch does not answer.
	SwitchUnavailable Code = "BZ0301"
	// BridgeForeign: the bridge that Baize is to use belongs to somebody else.
	BridgeForeign Code = "BZ0302"
	// PortForeign: a port of another program has the name of one that Baize needs.
	PortForeign Code = "BZ0303"
	// PortDead: Open vSwitch cannot forward through a wanted port.
	PortDead Code = "BZ0304"
	// RestoreWaitForeign: somebody set flow-restore-wait.
	RestoreWaitForeign Code = "BZ0305"
	// FlowRefused: Open vSwitch refuses a flow.
	FlowRefused Code = "BZ0306"
	// BridgeMissing: Baize's bridge is not there.
	BridgeMissing Code = "BZ0307"
	// SwitchContended: another program keeps changing Baize's bridge and ports.
	SwitchContended Code = "BZ0308"
	// ChangeRefused: the database of Open vSwitch refuses a change.
	ChangeRefused Code = "BZ0309"
	// PortMalformed: the external_ids of one of Baize's ports cannot be read.
	PortMalformed Code = "BZ0310"
	// NoMeters: Open vSwitch refuses meters, so that nothing limits what endpoints flood.
	NoMeters Code = "BZ0311"
	// SwitchVersion: this version of Open vSwitch has a known fault that shows here.
	SwitchVersion Code = "BZ0320"
	// FlowMissing: flows of Baize's are missing, or were changed.
	FlowMissing Code = "BZ0321"
	// FlowForeign: a flow of another program is in Baize's bridge.
	FlowForeign Code = "BZ0322"
	// PortUnknown: a port of another program is on Baize's bridge.
	PortUnknown Code = "BZ0323"
	// TunnelForeign: another bridge has a tunnel with the ends of one of Baize's.
	TunnelForeign Code = "BZ0324"
	// PortMissing: a port of Baize's is missing, or was changed.
	PortMissing Code = "BZ0325"
	// SwitchStarved: ovs-vswitchd gets too little processor time, or too few threads.
	SwitchStarved Code = "BZ0326"
	// UpcallsLost: the datapath loses packets on their way to ovs-vswitchd.
	UpcallsLost Code = "BZ0327"
	// BridgeAltered: the settings of Baize's bridge were changed.
	BridgeAltered Code = "BZ0328"
	// SwitchMemory: ovs-vswitchd takes much of the host's memory, or runs far more threads
	// than there are processors for.
	SwitchMemory Code = "BZ0329"
	// PortLimited: somebody limits a port of Baize's, or closed it for one direction.
	PortLimited Code = "BZ0330"
	// SamplingForeign: somebody else has set where Baize's bridge tells of its packets by
	// IPFIX or sFlow.
	SamplingForeign Code = "BZ0331"

	// 04: the underlay.

	// UnderlayMTU: the link is too small for a network's packets.
	UnderlayMTU Code = "BZ0401"
	// UnderlayFamily: two nodes have no address family in common.
	UnderlayFamily Code = "BZ0402"
	// EgressForeign: tunnelled packets leave by a device that the userspace
	// datapath cannot use.
	EgressForeign Code = "BZ0403"
	// Unreachable: no packet reaches a prefix of another node.
	Unreachable Code = "BZ0404"
	// UnderlayDown: the device of this node's VTEP is down, or has lost the address.
	UnderlayDown Code = "BZ0420"
	// PeerUnreachable: the VTEP of another node does not answer, or there is no route to it.
	PeerUnreachable Code = "BZ0421"
	// TunnelPortTaken: another program or device has the UDP port of a tunnel.
	TunnelPortTaken Code = "BZ0422"
	// TunnelFiltered: a rule of this host's firewall drops the packets of tunnels.
	TunnelFiltered Code = "BZ0423"
	// UnderlayShaped: this host drops, delays or limits packets of the underlay on purpose.
	UnderlayShaped Code = "BZ0424"
	// NeighbourTableFull: the kernel's table of neighbours is full, or nearly so.
	NeighbourTableFull Code = "BZ0425"
	// ReversePathDrops: rp_filter drops packets of a peer, because they come by another
	// device than answers leave by.
	ReversePathDrops Code = "BZ0426"
	// PeerSilent: no frame arrives from a peer.
	PeerSilent Code = "BZ0405"
	// PeerDeaf: frames to a peer do not arrive there, though its own arrive here.
	PeerDeaf Code = "BZ0406"
	// PeerLossy: a part of the frames from or to a peer is lost.
	PeerLossy Code = "BZ0407"
	// PathMTU: frames to a peer are lost above a size that is smaller than a network's.
	PathMTU Code = "BZ0408"
	// PeerSlow: even the fastest answers of a peer take long.
	PeerSlow Code = "BZ0409"
	// PeerMisled: frames of another node come out of a peer's tunnel.
	PeerMisled Code = "BZ0410"

	// 05: the kernel.

	// RouteForeign: another route occupies the place of one of Baize's.
	RouteForeign Code = "BZ0501"
	// ReversePathStrict: rp_filter drops packets of peers that move.
	ReversePathStrict Code = "BZ0502"
	// FirewallDrops: this host's firewall drops what Baize forwards.
	FirewallDrops Code = "BZ0503"
	// KernelRefused: the kernel refuses a wanted setting.
	KernelRefused Code = "BZ0504"
	// NetworkCoversUnderlay: a network that the kernel would forward has addresses
	// that this host needs itself: its peers', etcd's, the gateway's.
	NetworkCoversUnderlay Code = "BZ0505"
	// KernelUnavailable: the kernel does not say what it has, or what changes.
	KernelUnavailable Code = "BZ0506"
	// FastPathRefused: the kernel refuses a part of the fast path.
	FastPathRefused Code = "BZ0507"
	// KernelDiffers: a route, an address, a sysctl or a rule of Baize's is missing or was changed.
	KernelDiffers Code = "BZ0520"
	// ConntrackFull: the kernel's table of connections is full, or nearly so.
	ConntrackFull Code = "BZ0521"

	// 06: endpoints and engines.

	// EndpointCutOff: an endpoint's network is not carried by this node.
	EndpointCutOff Code = "BZ0601"
	// AddressTaken: an endpoint's address is also another's.
	AddressTaken Code = "BZ0602"
	// SegmentMissing: the bridge of containers does not exist.
	SegmentMissing Code = "BZ0603"
	// SegmentMismatch: the bridge of containers is not set up as this node needs it.
	SegmentMismatch Code = "BZ0604"
	// EndpointGone: an endpoint's namespace or device is gone.
	EndpointGone Code = "BZ0605"
	// AddressUnconfirmed: an endpoint's address is in the subnet of another node,
	// which has not agreed.
	AddressUnconfirmed Code = "BZ0606"
	// EndpointMTU: an endpoint's interface has a larger MTU than its network.
	EndpointMTU Code = "BZ0607"
	// EndpointAddress: an endpoint's interface lacks its address, or has one of its own making.
	EndpointAddress Code = "BZ0620"
	// EndpointMAC: an endpoint's interface has another MAC than it was given.
	EndpointMAC Code = "BZ0621"
	// EndpointDown: an endpoint's interface, or its end on the host, is down.
	EndpointDown Code = "BZ0622"
	// PluginSocketStale: Docker finds the socket of a plugin that nobody serves.
	PluginSocketStale Code = "BZ0623"
	// EndpointChecksum: an endpoint leaves checksums to a device, and nobody finishes them.
	EndpointChecksum Code = "BZ0625"
	// EndpointRoute: an endpoint's own kernel sends nothing to its network, or elsewhere.
	EndpointRoute Code = "BZ0626"
	// EndpointNeighbour: an endpoint has a wrong link address for another, written down.
	EndpointNeighbour Code = "BZ0627"
	// EndpointFiltered: an endpoint's own firewall drops what its network brings.
	EndpointFiltered Code = "BZ0628"
	// Leftover: a device or a port of Baize's belongs to nothing any more.
	Leftover Code = "BZ0624"

	// 07: BGP.

	// SessionDown: there is no session with a router.
	SessionDown Code = "BZ0701"

	// 08: names.

	// NameServer: a container has no name server.
	NameServer Code = "BZ0801"

	// 09: topologies in other layouts.

	// SourceMalformed: a record in another layout cannot be used.
	SourceMalformed Code = "BZ0901"
	// SourceIgnoresNode: the hosts of the other topology ignore this node.
	SourceIgnoresNode Code = "BZ0902"
	// SourceUnavailable: another layout cannot be read or written.
	SourceUnavailable Code = "BZ0903"

	// 00: the agent itself.

	// PartFailed: a part of the agent failed and is being restarted.
	PartFailed Code = "BZ0001"
	// StateUnwritable: a file of the agent's state cannot be written.
	StateUnwritable Code = "BZ0002"
	// SettingInvalid: a setting cannot be used.
	SettingInvalid Code = "BZ0003"
	// AgentDown: no agent runs on a host that is a node.
	AgentDown Code = "BZ0020"
	// AgentHangs: the agent of a node does not answer.
	AgentHangs Code = "BZ0021"
)
