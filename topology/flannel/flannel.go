// Package flannel is all that Baize knows of flannel: its configuration and
// leases in etcd, what they are in a topology, how a node takes part, and the
// move into Baize's own keys. Of the packages of topology and ovs, only package
// kube, which reads the same of a Kubernetes cluster, knows the word.
//
// Flannel's layout is a second codec of the topology: one network in "config",
// a lease for each host in "subnets/10.1.5.0-24", both relative to a prefix
// (flannel, Documentation/configuration.md; pkg/subnet). Merge translates it: a
// network with Router, and for each host that runs flannel a node that is a
// router. A host that runs flannel and a Baize node are told apart by the
// link address in the lease: a Baize node's is VtepMAC.
//
// # How an agent takes part
//
// Source is a topology source (package source), and what an agent needs to run
// one is wired in a few lines:
//
//	keys, err := etcdstore.OpenKeys(ctx, etcd) // etcd.Prefix is flannel's
//	src := flannel.NewSource(flannel.Options{
//		Node: cfg.Node, Keys: keys, Cache: …, Changed: hub.Merge, Member: …,
//		ReadEnv: …, WriteEnv: …, Logf: log.Infof,
//	})
//	hub.AddSource(src)          // Merge: the topology with flannel's part in it
//	parts = append(parts, src)  // Name, Run, Faults, Ready, Cleanup
//
// Run follows the keys and keeps the node's lease. Whoever knows of new
// endpoints or underlay addresses calls Wake. Subnets in networks whose Layout
// is not empty are leased by their source: the agent leaves them alone. Packets
// that leave the network named Network are masqueraded where the operator wants
// what flanneld's -ip-masq does, before the migration and after it.
package flannel

import (
	"net/netip"
	"time"

	"github.com/baize-net/baize/topology"
)

const (
	// Name is the source's, and the Layout of what comes from it.
	Name = "flannel"
	// Network is the name that flannel's one network has in Baize.
	Network = "flannel"
	// DefaultPrefix is where flannel's keys are unless its -etcd-prefix says
	// otherwise.
	DefaultPrefix = "/coreos.com/network"
)

// The keys relative to the prefix.
const (
	ConfigKey  = "config"
	dirSubnets = "subnets/"
)

// What flannel takes where its configuration leaves it open: the vxlan
// backend's VNI, and the kernel's own UDP port, which is not RFC 7348's.
const (
	DefaultVNI  = 1
	DefaultPort = 8472
)

// The backends of flannel that Baize can do: the kernel's VXLAN, and routes
// without any encapsulation among hosts of one segment.
const (
	VXLAN  = "vxlan"
	HostGW = "host-gw"
)

// leaseTTL is how long flannel's leases last unless renewed.
const leaseTTL = 24 * time.Hour

// exampleConfig is what messages suggest.
const exampleConfig = `{ "Network": "10.1.0.0/16", "Backend": { "Type": "vxlan" } }`

// NodeName returns the name a host that runs flannel has in Baize: flannel
// knows it by its address only.
func NodeName(publicIP netip.Addr) string { return Name + "-" + publicIP.String() }

// VtepMAC returns the VtepMAC of a Baize node by its underlay IPv4 address: the
// link address that takes packets for it to route.
func VtepMAC(vtep netip.Addr) string {
	return topology.RouterMAC(topology.Node{VTEPs: []netip.Addr{vtep.Unmap()}}).String()
}

// NodeRights are what a node's agent may do with flannel's keys below a prefix: read all
// of them, and write leases. A lease's key does not say whose it is, so it may write all
// of these.
func NodeRights(prefix string) []topology.Right {
	return []topology.Right{
		{Key: prefix + "/", Below: true}, {Key: prefix + "/" + dirSubnets, Below: true, Write: true},
	}
}
