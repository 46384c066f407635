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
)
