package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
	"github.com/baize-net/baize/topology/flannel"
)

const (
	// retryFirst and retryLast bound the wait after the API did not answer.
	retryFirst = 200 * time.Millisecond
	retryLast  = 5 * time.Second
	// settled is how long a watch must have lasted for the next to begin at once.
	settled = 5 * time.Second
	// seenWithin is how long it may take until the watch shows what was written.
	seenWithin = 10 * time.Second
)

// dirNodes is the directory of the nodes in a snapshot.
const dirNodes = "nodes/"

// registry is flannel's registry in the Kubernetes API.
type registry struct {
	o    Options
	keys keys
	// config is net-conf.json, once it was read; only Watch uses it.
	config []byte
	// written is what was seen of the node when it was written last, and when that was;
	// only Keep uses it.
	written   string
	writtenAt time.Time
}

var _ flannel.Registry = (*registry)(nil)

func newRegistry(o Options, k keys) *registry { return &registry{o: o, keys: k} }

// Layout implements flannel.Registry.
func (*registry) Layout() string { return Name }

// Where implements flannel.Registry.
func (r *registry) Where() string { return "the nodes in the Kubernetes API at " + r.o.Nodes.Where() }

// PutConfig implements flannel.Registry.
func (*registry) PutConfig() string { return "kubectl -n kube-flannel edit configmap kube-flannel-cfg" }

// Watch implements flannel.Registry.
func (r *registry) Watch(ctx context.Context, deliver func(last *topology.Snapshot, err error)) error {
	w := watcher{registry: r, deliver: deliver}
	for wait := retryFirst; ctx.Err() == nil; {
		began := time.Now()
		err := w.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil && !w.down {
			w.down = true
			deliver(w.last, r.unavailable(err))
		}
		if time.Since(began) > settled {
			wait = retryFirst
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		wait = min(2*wait, retryLast)
	}
	return nil
}

// unavailable says that the API, or the file, cannot be read.
func (r *registry) unavailable(err error) error {
	f := fault.Of(err)
	if f.Code != "" && f.Remedy != "" {
		return err
	}
	return &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.SourceUnavailable, Item: "Kubernetes API", What: err.Error(),
		Remedy: "check the API server and the agent's permissions (docs/kubernetes.md)",
	}
}

// watcher follows the nodes.
type watcher struct {
	*registry
	deliver func(*topology.Snapshot, error)
	last    *topology.Snapshot
	down    bool
}

// follow lists the nodes and follows them from there, until the API breaks off.
func (w *watcher) follow(ctx context.Context) error {
	if w.config == nil {
		config, err := w.o.NetConf()
		if err != nil {
			return noNetConf(err)
		}
		w.config = config
	}
	nodes, version, err := w.o.Nodes.List(ctx)
	if err != nil {
		return err
	}
	kvs := []topology.KV{{Key: flannel.ConfigKey, Value: w.config}}
	for _, n := range nodes {
		kvs = append(kvs, w.encode(n))
	}
	next := topology.NewRawSnapshot(version.number(), kvs)
	if w.last == nil || w.down || !sameRaw(w.last, next) {
		w.last, w.down = next, false
		w.deliver(next, nil)
	}
	return w.o.Nodes.Watch(ctx, version, w.apply)
}

// apply takes one change. Most of what changes in a node is nobody's business here.
func (w *watcher) apply(n Node, gone bool, version Version) {
	kv := w.encode(n)
	have, there := w.last.Raw[kv.Key]
	switch {
	case gone && there:
		w.last = w.last.With(version.number(), nil, []string{kv.Key})
	case !gone && (!there || string(have.Value) != string(kv.Value)):
		w.last = w.last.With(version.number(), []topology.KV{kv}, nil)
	default:
		return
	}
	w.deliver(w.last, nil)
}

func sameRaw(a, b *topology.Snapshot) bool {
	return maps.EqualFunc(a.Raw, b.Raw, func(x, y topology.KV) bool { return string(x.Value) == string(y.Value) })
}

// encode keeps of a node what matters here.
func (r *registry) encode(n Node) topology.KV {
	kept := map[string]string{}
	for _, name := range r.keys.all() {
		if text, has := n.Annotations[name]; has {
			kept[name] = text
		}
	}
	b, err := json.Marshal(Node{PodCIDRs: n.PodCIDRs, Annotations: kept, NetworkUnavailable: n.NetworkUnavailable})
	if err != nil {
		panic(fmt.Sprintf("kube: a node cannot be encoded: %v", err)) // no field can fail
	}
	return topology.KV{Key: dirNodes + n.Name, Value: b}
}

// node is one that was encoded.
func node(kv topology.KV) (Node, error) {
	n := Node{Name: strings.TrimPrefix(kv.Key, dirNodes)}
	if err := json.Unmarshal(kv.Value, &n); err != nil {
		return n, malformed(n.Name, err.Error())
	}
	return n, nil
}

// Merge implements flannel.Registry.
func (r *registry) Merge(own, raw *topology.Snapshot) *topology.Snapshot {
	if raw == nil {
		return own
	}
	l := flannel.Listing{Layout: Name, Config: raw.Raw[flannel.ConfigKey]}
	config, err := flannel.DecodeNetConf(l.Config.Value)
	if err != nil {
		return l.Merge(own, r.o.Source.Node) // which says what is wrong with it
	}
	var self flannel.Lease
	for _, key := range slices.Sorted(maps.Keys(raw.Raw)) {
		if !strings.HasPrefix(key, dirNodes) {
			continue
		}
		n, err := node(raw.Raw[key])
		h := flannel.Host{Key: "node " + n.Name, Name: n.Name, Err: err}
		taking := err != nil
		if err == nil {
			h.Lease, taking, h.Err = r.keys.decode(n, config)
		}
		if n.Name == r.o.Source.Node {
			self = h.Lease
		}
		if taking {
			l.Hosts = append(l.Hosts, h)
		}
	}
	merged := l.Merge(own, r.o.Source.Node)
	// The length of a node's subnets is the cluster's business (--node-cidr-mask-size).
	if n, ok := merged.Networks[flannel.Network]; ok && len(self.Prefixes()) > 0 && merged != own {
		if self.Subnet.IsValid() {
			n.SubnetLenIPv4 = self.Subnet.Bits()
		}
		if self.IPv6Subnet.IsValid() {
			n.SubnetLenIPv6 = self.IPv6Subnet.Bits()
		}
		merged.Networks[flannel.Network] = n
	}
	return merged
}

// Keep implements flannel.Registry: it writes the node's annotations. The node's
// subnets are what Kubernetes says, whatever prefer is.
func (r *registry) Keep(
	ctx context.Context, raw *topology.Snapshot, _, want flannel.Lease, _ []netip.Prefix,
) (flannel.Lease, error) {
	name := r.o.Source.Node
	kv, ok := raw.Raw[dirNodes+name]
	if !ok {
		return want, &topology.Error{
			Kind: topology.ErrNotFound, Code: fault.SourceMalformed, Item: "Kubernetes node " + name,
			What: "there is none of this name", Remedy: "set NODE_NAME, or --node, to the name that 'kubectl get nodes' shows",
		}
	}
	n, err := node(kv)
	if err != nil {
		return want, err
	}
	if len(n.PodCIDRs) == 0 {
		return want, &topology.Error{
			Kind: topology.ErrNotFound, Code: fault.SourceMalformed, Item: "Kubernetes node " + name,
			What:   "it has no podCIDR yet",
			Remedy: "start kube-controller-manager with --allocate-node-cidrs and --cluster-cidr",
		}
	}
	config, err := flannel.DecodeNetConf(raw.Raw[flannel.ConfigKey].Value)
	if err != nil {
		return want, err
	}
	if err := subnets(n, config, &want); err != nil {
		return want, err
	}
	if err := contained(name, config, want); err != nil {
		return want, err
	}
	changes := r.keys.wanted(want, n.Annotations)
	maps.DeleteFunc(changes, func(name, text string) bool { return n.Annotations[name] == text })
	available := !r.o.KeepCondition && n.NetworkUnavailable != statusFalse
	if len(changes) == 0 && !available {
		return want, nil
	}
	// What was written a moment ago may not have been seen yet.
	if r.written == string(kv.Value) && time.Since(r.writtenAt) < seenWithin {
		return want, nil
	}
	if err := r.o.Nodes.Patch(ctx, name, changes, available); err != nil {
		return want, err
	}
	r.written, r.writtenAt = string(kv.Value), time.Now()
	return want, nil
}

// contained refuses podCIDRs outside of the configured network, which no peer would
// have a route to.
func contained(node string, c flannel.Config, l flannel.Lease) error {
	for _, p := range l.Prefixes() {
		network := c.IPv4
		if p.Addr().Is6() {
			network = c.IPv6
		}
		if !network.IsValid() || network.Bits() > p.Bits() || !network.Contains(p.Addr()) {
			return &topology.Error{
				Kind: topology.ErrInvalid, Code: fault.SourceMalformed, Item: "Kubernetes node " + node,
				What: fmt.Sprintf("its podCIDR %s is not in the network of net-conf.json", p),
				Remedy: "set \"Network\" (\"EnableIPv6\" and \"IPv6Network\") in net-conf.json to kube-controller-manager's " +
					"--cluster-cidr",
			}
		}
	}
	return nil
}

func noNetConf(err error) error {
	return &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.SourceUnavailable, Item: "net-conf.json", What: err.Error(),
		Remedy: "put flannel's configuration there (a ConfigMap in flannel's manifest), or name it with --net-config-path",
	}
}
