package command

import (
	"cmp"
	"context"
	"sync"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/agent"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/flannel"
	"github.com/baize-net/baize/topology/source"
)

// flannelFlags are those with which an agent takes part in flannel's network.
func flannelFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.BoolFlag{Name: "flannel", Usage: "take part in flannel's network, with its leases in etcd"},
		sourceFlag(),
		&ucli.StringFlag{
			Name: "subnet-file", Value: subnetenv.FlannelFile,
			Usage: "`FILE` that --flannel or --kube-subnet-mgr writes the node's subnet into",
		},
		&ucli.BoolFlag{
			Name:  "ip-masq",
			Usage: "with --flannel or --kube-subnet-mgr: masquerade what leaves the network, and tell Docker not to",
		},
	}
}

var foreignManFile = manFile{
	subnetenv.FlannelFile, "the node's subnet for flannel's plugins, with --flannel or --kube-subnet-mgr",
}

// sourceFlag says where flannel's keys are, which are no part of Baize's
// own.
func sourceFlag() ucli.Flag {
	return &ucli.StringFlag{
		Name: "flannel-prefix", Usage: "`PREFIX` of flannel's keys in etcd", Value: flannel.DefaultPrefix,
	}
}

// sourceRightsFlags are for users that have to do with flannel's keys.
func sourceRightsFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.BoolFlag{Name: "flannel", Usage: "with rights to flannel's keys, too"}, sourceFlag(),
	}
}

// sourceRights are those that the flags ask for, beside rights of a role to Baize's own keys.
func sourceRights(c *ucli.Context, role string) []topology.Right {
	prefix := cmp.Or(c.String("flannel-prefix"), flannel.DefaultPrefix)
	switch {
	case !c.Bool("flannel"):
		return nil
	case role == roleOperator:
		return topology.OperatorRights(prefix)
	case role == roleReader:
		return topology.ReaderRights(prefix)
	}
	return flannel.NodeRights(prefix)
}

// flannelKeys opens flannel's keys in the same etcd.
func (r *runner) flannelKeys(c *ucli.Context) (*etcdstore.Keys, error) {
	cfg, err := r.storeConfig(c)
	if err != nil {
		return nil, err
	}
	cfg.Prefix = cmp.Or(c.String("flannel-prefix"), flannel.DefaultPrefix)
	return etcdstore.OpenKeys(c.Context, cfg)
}

// withTopology reads the whole topology for people: with what flannel's keys
// have, where there are any in the same etcd and the user may read them, and what this
// host's agent knows of Kubernetes' nodes. self is the node whose view is meant; it may
// be "".
func (r *runner) withTopology(c *ucli.Context, self string, f func(snap *topology.Snapshot) error) error {
	return r.withSnapshot(c, func(_ *etcdstore.Store, snap *topology.Snapshot) error {
		keys, err := r.flannelKeys(c)
		if err != nil {
			return err
		}
		defer func() { _ = keys.Close() }()
		// A user who may not read flannel's keys sees Baize's.
		raw, err := keys.Snapshot(c.Context)
		if err != nil {
			raw = nil
		}
		return f(r.kubeNodes(c)(withFlannel(snap, raw, self), self))
	})
}

// followTopology calls deliver after every change of the topology, as withTopology
// reads it, until the context ends or deliver fails. stale says why etcd cannot be
// followed at the moment.
func (r *runner) followTopology(c *ucli.Context, deliver func(s *topology.Snapshot, stale error) error) error {
	return r.withStore(c, func(s *etcdstore.Store) error {
		keys, err := r.flannelKeys(c)
		if err != nil {
			return err
		}
		defer func() { _ = keys.Close() }()
		var mu sync.Mutex
		var own etcdstore.Update
		var foreign *topology.Snapshot
		withKube := r.kubeNodes(c)
		changed := make(chan struct{}, 1)
		set := func(f func()) {
			mu.Lock()
			defer mu.Unlock()
			f()
			select {
			case changed <- struct{}{}:
			default:
			}
		}
		ctx, cancel := context.WithCancel(c.Context)
		var watching sync.WaitGroup
		defer watching.Wait()
		defer cancel()
		watching.Go(func() { _ = s.Watch(ctx, func(u etcdstore.Update) { set(func() { own = u }) }) })
		watching.Go(func() {
			_ = keys.Watch(ctx, func(last *topology.Snapshot, _ error) { set(func() { foreign = last }) })
		})
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-changed:
			}
			mu.Lock()
			u, raw := own, foreign
			mu.Unlock()
			if u.Snapshot == nil {
				continue // what was read before stays
			}
			if err := deliver(withKube(withFlannel(u.Snapshot, raw, ""), ""), u.Err); err != nil {
				return err
			}
		}
	})
}

// withFlannel adds what flannel's keys have, where there are any.
func withFlannel(s, keys *topology.Snapshot, self string) *topology.Snapshot {
	if keys == nil || keys.Raw[flannel.ConfigKey].Key == "" {
		return s
	}
	return flannel.Merge(s, keys, self)
}

// addFlannel makes flannel's keys a source of an agent's topology, where that
// was asked for.
func addFlannel(c *ucli.Context, cfg *agent.Config) {
	if !c.Bool("flannel") {
		return
	}
	etcd, file, masquerade := cfg.Etcd, c.String("subnet-file"), c.Bool("ip-masq")
	etcd.Prefix = c.String("flannel-prefix")
	cfg.Masquerade = masqueraded(masquerade)
	cfg.Sources = append(cfg.Sources, func(d agent.SourceDeps) (source.Source, error) {
		keys, err := etcdstore.OpenKeys(c.Context, etcd)
		if err != nil {
			return nil, err
		}
		o := flannelOptions(d, "flannel.json", file, masquerade)
		o.Keys = keys
		return closing{flannel.NewSource(o), keys}, nil
	})
}

// masqueraded says of which networks what leaves is masqueraded: of flannel's, if wanted.
func masqueraded(wanted bool) func(topology.Network) bool {
	return func(n topology.Network) bool { return wanted && n.Name == flannel.Network }
}

// flannelOptions are what every source of flannel's network is made with: kept is the
// file with what it saw last, file the subnet file.
func flannelOptions(d agent.SourceDeps, kept, file string, masquerade bool) flannel.Options {
	return flannel.Options{
		Node: d.Node, Cache: d.Cache(kept, topology.NewRawSnapshot),
		Changed: d.Changed, Member: d.Member, Logf: d.Infof,
		WriteEnv: func(e flannel.Env) error { return subnetenv.Write(file, envOf(e, masquerade)) },
		ReadEnv:  func() (flannel.Env, error) { return readEnv(file) },
	}
}

// closing closes the keys with the source.
type closing struct {
	*flannel.Source
	keys *etcdstore.Keys
}

// Run implements source.Source.
func (s closing) Run(ctx context.Context) error {
	err := s.Source.Run(ctx)
	if ctx.Err() != nil {
		_ = s.keys.Close() // nothing is left to be said to it
	}
	return err
}

func envOf(e flannel.Env, masquerade bool) subnetenv.Env {
	return subnetenv.Env{
		Network: e.Network, IPv6Network: e.IPv6Network, Subnet: e.Subnet, IPv6Subnet: e.IPv6Subnet, MTU: e.MTU,
		IPMasq: masquerade,
	}
}

func readEnv(file string) (flannel.Env, error) {
	e, err := subnetenv.Read(file)
	return flannel.Env{
		Network: e.Network, IPv6Network: e.IPv6Network, Subnet: e.Subnet, IPv6Subnet: e.IPv6Subnet, MTU: e.MTU,
	}, err
}

// merged adds to Baize's own records what withTopology does.
func (r *runner) merged(c *ucli.Context, own *topology.Snapshot, node string) *topology.Snapshot {
	keys, err := r.flannelKeys(c)
	if err != nil {
		return own
	}
	defer func() { _ = keys.Close() }()
	raw, err := keys.Snapshot(c.Context)
	if err != nil {
		raw = nil
	}
	return r.kubeNodes(c)(withFlannel(own, raw, node), node)
}
