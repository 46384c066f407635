package agent

import (
	"context"
	"net/netip"
	"path/filepath"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
	"github.com/baize-net/baize/topology/flannel"
	"github.com/baize-net/baize/topology/source"
)

// flannelSource wires the topology source of package topology/flannel into the
// agent.
type flannelSource struct {
	*flannel.Source
	store *etcdstore.Keys
	// changed and logf are set before it runs.
	changed func()
	logf    func(string, ...any)
}

func newFlannel(cfg Config) (*flannelSource, error) {
	etcd := cfg.Etcd
	etcd.Prefix = cfg.FlannelPrefix
	keys, err := etcdstore.OpenKeys(context.Background(), etcd)
	if err != nil {
		return nil, err
	}
	f := &flannelSource{store: keys, changed: func() {}, logf: func(string, ...any) {}}
	f.Source = flannel.NewSource(flannel.Options{
		Node: cfg.Node, Keys: keys,
		Cache: &sourceCache{saver{
			cache: cache{filepath.Join(cfg.StateDir, "flannel.json")},
			warn:  func(err error) { f.logf("keep a copy of flannel's leases: %v", err) },
		}},
		Changed: func() { f.changed() }, Logf: func(format string, args ...any) { f.logf(format, args...) },
		WriteEnv: func(e flannel.Env) error {
			return subnetenv.Write(cfg.SubnetFile, subnetenv.Env{
				Network: e.Network, IPv6Network: e.IPv6Network, Subnet: e.Subnet, IPv6Subnet: e.IPv6Subnet,
				MTU: e.MTU, IPMasq: cfg.IPMasq,
			})
		},
		ReadEnv: func() (flannel.Env, error) {
			e, err := subnetenv.Read(cfg.SubnetFile)
			return flannel.Env{
				Network: e.Network, IPv6Network: e.IPv6Network, Subnet: e.Subnet, IPv6Subnet: e.IPv6Subnet, MTU: e.MTU,
			}, err
		},
	})
	return f, nil
}

// sourceCache is the copy of what a source has read.
type sourceCache struct{ saver }

// Load implements source.Cache.
func (c *sourceCache) Load() (*topology.Snapshot, error) { return c.read(topology.NewRawSnapshot) }

// Save implements source.Cache.
func (c *sourceCache) Save(s *topology.Snapshot) { c.put(s) }

// Flush implements source.Cache.
func (c *sourceCache) Flush() { c.flush() }

// Remove implements source.Cache: cleanup.go removes it.
func (c *sourceCache) Remove() ([]string, error) { return nil, nil }

// merge makes the topology out of all layouts. It needs a.mu.
func (a *Agent) merge() {
	if a.flannel == nil {
		a.snapshot = a.own
		return
	}
	if merged, ok := a.flannel.Merge(a.own); ok {
		a.snapshot = merged
	}
}

// watchFlannel follows flannel's layout.
func (a *Agent) watchFlannel(ctx context.Context) error {
	a.flannel.logf = a.log.Infof
	a.flannel.changed = func() {
		a.mu.Lock()
		a.merge()
		a.mu.Unlock()
		a.poke()
		a.rejoin()
	}
	return a.flannel.Run(ctx)
}

// isFlannels reports whether a network is flannel's: its subnets are leased
// in flannel's layout.
func (a *Agent) isFlannels(n topology.Network) bool { return n.Layout != "" }

// flannelMember keeps the node's lease.
func (a *Agent) flannelMember(ctx context.Context, _ *topology.Snapshot, endpoints []ovs.Endpoint) error {
	underlay, err := hostnet.VTEP(a.cfg.VTEP, etcdAddrs(a.cfg.Etcd.Endpoints))
	if err != nil {
		return err
	}
	m := source.Member{Underlay: underlay.Addrs, InUse: map[string][]netip.Addr{}}
	for _, e := range endpoints {
		m.InUse[e.Network] = append(m.InUse[e.Network], e.IPs...)
	}
	return a.flannel.Join(ctx, m)
}

// flannelProblems are those of the source.
func (a *Agent) flannelProblems(topology.View) []fault.Fault {
	if a.flannel == nil {
		return nil
	}
	return a.flannel.Faults()
}
