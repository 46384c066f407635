// Package kube is the Kubernetes API as a topology source, in flannel's place: a
// node's subnets are its podCIDRs, and nodes tell each other where their tunnels
// end by flannel's annotations (flannel, pkg/subnet/kube). The network's
// configuration is a file, flannel's net-conf.json. So a node that runs Baize and
// one that runs flannel are peers, and neither needs an etcd of its own.
//
// What the annotations mean is package flannel's business: Registry only reads and
// writes them. The API is spoken to by client-go's dynamic client, since the typed
// one would link every type that Kubernetes has.
package kube

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
	"github.com/baize-net/baize/topology/flannel"
)

const (
	// Name is the source's, and the Layout of what comes from it.
	Name = "kubernetes"
	// DefaultAnnotationPrefix is flannel's.
	DefaultAnnotationPrefix = "flannel.alpha.coreos.com"
	// DefaultNetConf is where flannel's manifest has the configuration.
	DefaultNetConf = "/etc/kube-flannel/net-conf.json"
)

// Options is what a source is made with.
type Options struct {
	// Source has what every source of flannel's network needs; its Node is the node's
	// name in Kubernetes, and its Registry is set here.
	Source flannel.Options
	Nodes  Nodes
	// AnnotationPrefix is that of flannel's annotations; "" is DefaultAnnotationPrefix.
	AnnotationPrefix string
	// NetConf returns the configuration, net-conf.json. It is read once, as flannel
	// does.
	NetConf func() ([]byte, error)
	// KeepCondition leaves the node's condition NetworkUnavailable alone.
	KeepCondition bool
}

// NewSource returns a source. It starts nothing. Errors: ErrInvalid (the prefix).
func NewSource(o Options) (*flannel.Source, error) {
	keys, err := annotationKeys(o.AnnotationPrefix)
	if err != nil {
		return nil, err
	}
	o.Source.Registry = newRegistry(o, keys)
	return flannel.NewSource(o.Source), nil
}

// Merge returns own with what a source had of the nodes: raw is what its Cache has kept,
// self the node that asks. prefix is that of the annotations.
func Merge(own, raw *topology.Snapshot, self, prefix string) (*topology.Snapshot, error) {
	keys, err := annotationKeys(prefix)
	if err != nil {
		return own, err
	}
	return newRegistry(Options{Source: flannel.Options{Node: self}}, keys).Merge(own, raw), nil
}

// keys are the names of flannel's annotations.
type keys struct {
	managed, backendType, data, v6Data, publicIP, publicIPv6, overwrite, v6Overwrite string
}

// annotationKeys makes the names from the prefix as flannel does: "example.com"
// gives "example.com/public-ip", "example.com/net" gives "example.com/net-public-ip".
func annotationKeys(prefix string) (keys, error) {
	if prefix == "" {
		prefix = DefaultAnnotationPrefix
	}
	switch strings.Count(prefix, "/") {
	case 0:
		prefix += "/"
	case 1:
		if !strings.HasSuffix(prefix, "/") && !strings.HasSuffix(prefix, "-") {
			prefix += "-"
		}
	default:
		return keys{}, &topology.Error{
			Kind: topology.ErrInvalid, Item: "--kube-annotation-prefix " + prefix, What: "it has more than one '/'",
			Remedy: "use a domain, such as " + DefaultAnnotationPrefix + ", or a domain and a word",
		}
	}
	return keys{
		managed: prefix + "kube-subnet-manager", backendType: prefix + "backend-type",
		data: prefix + "backend-data", v6Data: prefix + "backend-v6-data",
		publicIP: prefix + "public-ip", publicIPv6: prefix + "public-ipv6",
		overwrite: prefix + "public-ip-overwrite", v6Overwrite: prefix + "public-ipv6-overwrite",
	}, nil
}

// all are the names, for those who drop others.
func (k keys) all() []string {
	return []string{
		k.managed, k.backendType, k.data, k.v6Data, k.publicIP, k.publicIPv6, k.overwrite, k.v6Overwrite,
	}
}

// decode reads a node's annotations and subnets. taking is false where the node has
// no lease: it has no podCIDR yet, or runs nothing that speaks flannel.
func (k keys) decode(n Node, c flannel.Config) (l flannel.Lease, taking bool, err error) {
	if n.Annotations[k.managed] != "true" || len(n.PodCIDRs) == 0 {
		return l, false, nil
	}
	if err := subnets(n, c, &l); err != nil {
		return l, true, err
	}
	for name, addr := range map[string]*netip.Addr{k.publicIP: &l.PublicIP, k.publicIPv6: &l.PublicIPv6} {
		text := n.Annotations[name]
		if text == "" {
			continue
		}
		if *addr, err = netip.ParseAddr(text); err != nil {
			return l, true, malformed(n.Name, "annotation "+name+" is no address: "+text)
		}
	}
	only6 := !c.IPv4.IsValid()
	if (!only6 && !l.PublicIP.Is4()) || ((only6 || l.PublicIPv6.IsValid()) && !l.PublicIPv6.Is6()) {
		return l, true, malformed(n.Name, "annotation "+k.publicIP+" is no IPv4 address, or "+k.publicIPv6+" no IPv6 one")
	}
	l.BackendType = n.Annotations[k.backendType]
	if err := l.SetData([]byte(n.Annotations[k.data]), []byte(n.Annotations[k.v6Data])); err != nil {
		return l, true, malformed(n.Name, fmt.Sprintf("annotation %s or %s: %v", k.data, k.v6Data, err))
	}
	if only6 { // they may be left of an earlier network
		l.PublicIP, l.VTEP = netip.Addr{}, flannel.VTEP{}
	}
	return l, true, nil
}

// subnets sets the subnets of a lease to a node's podCIDRs, which have to be of the
// network's first family at the least.
func subnets(n Node, c flannel.Config, l *flannel.Lease) error {
	for _, text := range n.PodCIDRs {
		p, err := netip.ParsePrefix(text)
		if err != nil || p != p.Masked() {
			return malformed(n.Name, "podCIDR "+text+" is no subnet")
		}
		to := &l.Subnet
		if p.Addr().Is6() {
			to = &l.IPv6Subnet
		}
		if to.IsValid() {
			return malformed(n.Name, "it has several podCIDRs of one family")
		}
		*to = p
	}
	switch {
	case c.IPv4.IsValid() && !l.Subnet.IsValid():
		return malformed(n.Name, "it has no podCIDR for IPv4")
	case !c.IPv4.IsValid() && !l.IPv6Subnet.IsValid():
		return malformed(n.Name, "it has no podCIDR for IPv6")
	}
	return nil
}

// wanted are the annotations that a lease becomes, given those that a node has.
func (k keys) wanted(l flannel.Lease, have map[string]string) map[string]string {
	overwritten := func(overwrite string, a netip.Addr) string {
		if text := have[overwrite]; text != "" {
			return text
		}
		return a.String()
	}
	out := map[string]string{
		k.managed: "true", k.backendType: l.BackendType,
	}
	if l.PublicIP.IsValid() {
		out[k.data], out[k.publicIP] = string(l.VTEP.Data()), overwritten(k.overwrite, l.PublicIP)
	}
	if l.PublicIPv6.IsValid() {
		out[k.publicIPv6] = overwritten(k.v6Overwrite, l.PublicIPv6)
		if l.IPv6VTEP.MAC != "" {
			out[k.v6Data] = string(l.IPv6VTEP.Data())
		}
	}
	return out
}

func malformed(node, what string) error {
	return &topology.Error{
		Kind: topology.ErrInvalid, Code: fault.SourceMalformed, Item: "Kubernetes node " + node, What: what,
		Remedy: "see 'kubectl get node " + node + " -o yaml'",
	}
}
