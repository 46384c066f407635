package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

func flannelPrefixFlag() ucli.Flag {
	return &ucli.StringFlag{Name: "flannel-prefix", Usage: "`PREFIX` of flannel's keys in etcd", Value: topology.FlannelPrefix}
}

// flannelStore opens flannel's layout in the same etcd.
func flannelStore(c *ucli.Context) (*etcdstore.Store, error) {
	cfg, err := storeConfig(c)
	if err != nil {
		return nil, err
	}
	cfg.Prefix, cfg.Raw = cmp.Or(c.String("flannel-prefix"), topology.FlannelPrefix), true
	return etcdstore.Open(c.Context, cfg)
}

// withTopology reads the whole topology for people: with what flannel's layout
// has, where there is one in the same etcd and the user may read it. self is
// the node whose view is meant; it may be "".
func (r *runner) withTopology(c *ucli.Context, self string, f func(snap *topology.Snapshot) error) error {
	return r.withSnapshot(c, func(_ *etcdstore.Store, snap *topology.Snapshot) error {
		s, err := flannelStore(c)
		if err != nil {
			return err
		}
		defer s.Close()
		// A user who may not read flannel's keys sees Baize's.
		if raw, err := s.Snapshot(c.Context); err == nil && raw.Raw[topology.FlannelConfigKey].Key != "" {
			snap = snap.WithFlannel(raw, self)
		}
		return f(snap)
	})
}

func (r *runner) migrateCommand() *ucli.Command {
	return &ucli.Command{
		Name: "migrate", Usage: "move a cluster from another tool's layout into Baize's own",
		Subcommands: []*ucli.Command{{
			Name: "flannel", Usage: "move flannel's leases into Baize's own layout, when no host runs flannel any more",
			Description: `Every node keeps its subnet, every container its address, and no packet is lost.
It says what it will do, and does it unless --dry-run is given. As long as a
host runs flannel it refuses and names the host.`,
			Flags: []ucli.Flag{
				flannelPrefixFlag(),
				&ucli.BoolFlag{Name: "dry-run", Usage: "only say what would be done"},
			},
			Action: r.migrateFlannel,
		}},
	}
}

func (r *runner) migrateFlannel(c *ucli.Context) error {
	return r.withSnapshot(c, func(s *etcdstore.Store, snap *topology.Snapshot) (err error) {
		flannel, err := flannelStore(c)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, flannel.Close()) }()
		f, err := flannel.Snapshot(c.Context)
		if err != nil {
			return err
		}
		m, err := snap.MigrateFlannel(f)
		if err != nil {
			return err
		}
		if err := r.say("create network %s: %s, VNI %d, MTU %d", m.Network.Name, m.Network.IPv4, m.Network.VNI, m.Network.MTU); err != nil {
			return err
		}
		for _, sub := range m.Subnets {
			owner := "node " + sub.Node
			if sub.Node == "" {
				owner = "nobody"
			}
			if sub.Reserved {
				owner += ", reserved"
			}
			if err := r.say("keep %s: %s", sub.Prefix, owner); err != nil {
				return err
			}
		}
		if err := r.say("delete %s/%s and %d leases of flannel's", flannel.Prefix(), topology.FlannelConfigKey, len(m.Delete)); err != nil {
			return err
		}
		if c.Bool("dry-run") {
			return r.say("nothing was changed")
		}
		_, err = waiting(r, c, "migrating", func(ctx context.Context) (struct{}, error) {
			return struct{}{}, s.MigrateFlannel(ctx, flannel, m)
		})
		if err != nil {
			return fmt.Errorf("migrate flannel: %w", err)
		}
		return r.say("done: network %s is in Baize's own layout", m.Network.Name)
	})
}
