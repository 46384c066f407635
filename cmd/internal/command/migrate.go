package command

import (
	"context"
	"errors"
	"fmt"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/flannel"
)

func (r *runner) migrateCommand() *ucli.Command {
	return &ucli.Command{
		Name: "migrate", Usage: "move a cluster from another tool's layout into Baize's own",
		Subcommands: []*ucli.Command{{
			Name: "flannel", Usage: "move flannel's leases into Baize's own layout, when no host runs flannel any more",
			Description: `Every node keeps its subnet, every container its address, and no packet is lost.
It says what it will do, and does it unless --dry-run is given. As long as a
host runs flannel it refuses and names the host.

  baize migrate flannel --dry-run
  baize migrate flannel`,
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
