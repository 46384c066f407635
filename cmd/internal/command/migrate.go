package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/flannel"
)

// sourceFlag says where the topology source is that is no part of Baize's own
// keys.
func sourceFlag() ucli.Flag {
	return &ucli.StringFlag{
		Name: "flannel-prefix", Usage: "`PREFIX` of flannel's keys in etcd", Value: flannel.DefaultPrefix,
	}
}

// flannelKeys opens flannel's keys in the same etcd.
func flannelKeys(c *ucli.Context) (*etcdstore.Keys, error) {
	cfg, err := storeConfig(c)
	if err != nil {
		return nil, err
	}
	cfg.Prefix = cmp.Or(c.String("flannel-prefix"), flannel.DefaultPrefix)
	return etcdstore.OpenKeys(c.Context, cfg)
}

// withTopology reads the whole topology for people: with what flannel's keys
// have, where there are any in the same etcd and the user may read them. self
// is the node whose view is meant; it may be "".
func (r *runner) withTopology(c *ucli.Context, self string, f func(snap *topology.Snapshot) error) error {
	return r.withSnapshot(c, func(_ *etcdstore.Store, snap *topology.Snapshot) error {
		keys, err := flannelKeys(c)
		if err != nil {
			return err
		}
		defer func() { _ = keys.Close() }()
		// A user who may not read flannel's keys sees Baize's.
		if raw, err := keys.Snapshot(c.Context); err == nil && raw.Raw[flannel.ConfigKey].Key != "" {
			snap = flannel.Merge(snap, raw, self)
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
			Flags:  []ucli.Flag{sourceFlag(), &ucli.BoolFlag{Name: "dry-run", Usage: "only say what would be done"}},
			Action: r.migrateFlannel,
		}},
	}
}

func (r *runner) migrateFlannel(c *ucli.Context) error {
	return r.withSnapshot(c, func(s *etcdstore.Store, snap *topology.Snapshot) (err error) {
		keys, err := flannelKeys(c)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, keys.Close()) }()
		raw, err := keys.Snapshot(c.Context)
		if err != nil {
			return err
		}
		m, err := flannel.Plan(snap, raw)
		if err != nil {
			return err
		}
		if err := r.sayMigration(m, keys.Prefix()); err != nil {
			return err
		}
		if c.Bool("dry-run") {
			return r.say("nothing was changed")
		}
		_, err = waiting(r, c, "migrating", func(ctx context.Context) (struct{}, error) {
			return struct{}{}, flannel.Migrate(ctx, keys, s.Prefix(), m)
		})
		if err != nil {
			return fmt.Errorf("migrate flannel: %w", err)
		}
		return r.say("done: network %s is in Baize's own layout", m.Network.Name)
	})
}

// sayMigration says what a migration will do, a line for each step.
func (r *runner) sayMigration(m flannel.Migration, prefix string) error {
	if m.Switched {
		return r.say("network %s is in Baize's own layout already; delete %d leases that were left below %s",
			m.Network.Name, len(m.Delete), prefix)
	}
	n := m.Network
	lines := []string{fmt.Sprintf("create network %s: %s, VNI %d, MTU %d", n.Name, n.IPv4, n.VNI, n.MTU)}
	for _, sub := range m.Stale {
		lines = append(lines, fmt.Sprintf("delete %s: a record of an earlier migration, whose lease is gone", sub.Prefix))
	}
	for _, sub := range m.Subnets {
		owner := "node " + sub.Node
		if sub.Node == "" {
			owner = "nobody"
		}
		if sub.Reserved {
			owner += ", reserved"
		}
		lines = append(lines, fmt.Sprintf("keep %s: %s", sub.Prefix, owner))
	}
	lines = append(lines, fmt.Sprintf("delete %s/%s and %d leases of flannel's", prefix, flannel.ConfigKey, len(m.Delete)))
	for _, line := range lines {
		if err := r.say("%s", line); err != nil {
			return err
		}
	}
	return nil
}
