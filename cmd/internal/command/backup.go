package command

import (
	"fmt"
	"io"
	"os"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

func (r *runner) backupCommand() *ucli.Command {
	return &ucli.Command{
		Name: "backup", Usage: "write the whole topology into a file", ArgsUsage: "[FILE]",
		Description: `Networks, nodes, subnets, reservations and pins as they are at one revision, as
JSON with sorted keys, so that two backups can be compared with diff. Without FILE,
or with -, it is written to standard output. Keys that running agents maintain by
themselves are left out.

  baize backup /var/backups/baize.json`,
		Action: r.backup,
	}
}

func (r *runner) restoreCommand() *ucli.Command {
	return &ucli.Command{
		Name: "restore", Usage: "restore the topology from a backup", ArgsUsage: "FILE",
		Description: `Shows which keys it will write and which it will remove, and asks if there is a
topology already. Stop the agents first, which interrupts no traffic: an agent that
runs while a network is missing keeps it where the host has endpoints in it (BZ0107),
takes it down elsewhere, and may register its node anew.

  baize restore --dry-run /var/backups/baize.json
  baize restore /var/backups/baize.json`,
		Flags: []ucli.Flag{
			dryRunFlag(),
			&ucli.BoolFlag{Name: flagYes, Usage: "do not ask, and restore even while agents run"},
		},
		Action: r.restore,
	}
}

// withKeys reads every key below the prefix.
func (r *runner) withKeys(c *ucli.Context, f func(s *etcdstore.Store, raw *topology.Snapshot) error) error {
	cfg, err := r.storeConfig(c)
	if err != nil {
		return err
	}
	cfg.Raw = true
	s, err := etcdstore.Open(c.Context, cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	raw, err := s.Snapshot(c.Context)
	if err != nil {
		return err
	}
	return f(s, raw)
}

func (r *runner) backup(c *ucli.Context) error {
	if c.NArg() > 1 {
		return usagef("baize backup", "one FILE at most")
	}
	return r.withKeys(c, func(s *etcdstore.Store, raw *topology.Snapshot) error {
		b := topology.NewBackup(raw, s.Prefix())
		file := c.Args().First()
		if file == "" || file == "-" {
			return b.Write(r.Out)
		}
		var text strings.Builder
		if err := b.Write(&text); err != nil {
			return err
		}
		// Not readable by everybody: somebody may have stored secrets in keys.
		if err := atomicfile.Write(file, []byte(text.String()), 0o600); err != nil {
			return fmt.Errorf("backup: %w", err)
		}
		return r.say("%s: %s at revision %d", file, fault.Counted(b.Count, "key"), b.Revision)
	})
}

func (r *runner) restore(c *ucli.Context) error {
	if c.NArg() != 1 {
		return usagef("baize restore", "name the FILE that 'baize backup' wrote, or - for standard input")
	}
	in, err := r.readFile(c.Args().First())
	if err != nil {
		return err
	}
	b, err := topology.ParseBackup(in)
	if err != nil {
		return err
	}
	return r.withKeys(c, func(s *etcdstore.Store, raw *topology.Snapshot) error {
		plan := b.PlanRestore(raw)
		if err := r.showRestore(plan); err != nil {
			return err
		}
		if plan.Empty() {
			return r.say("nothing to do: all %s are as in the backup", fault.Counted(plan.Same, "key"))
		}
		if c.Bool(flagDryRun) {
			return r.rehearsed(c, s, func() error { return s.Restore(c.Context, plan) })
		}
		if !c.Bool(flagYes) {
			if ok, err := r.mayRestore(plan, raw); err != nil || !ok {
				return err
			}
		}
		if err := s.Restore(c.Context, plan); err != nil {
			return err
		}
		return r.say("restored: %d written, %d removed, %d as they were", len(plan.Put), len(plan.Delete), plan.Same)
	})
}

// showRestore names every key that a restore changes.
func (r *runner) showRestore(plan topology.RestorePlan) error {
	for _, kv := range plan.Delete {
		if err := r.say("remove  %s", kv.Key); err != nil {
			return err
		}
	}
	for _, kv := range plan.Put {
		word := "create "
		if kv.ModRevision != 0 {
			word = "change "
		}
		if err := r.say("%s %s", word, kv.Key); err != nil {
			return err
		}
	}
	return nil
}

// mayRestore refuses while agents run, and asks where there is something to
// lose.
func (r *runner) mayRestore(plan topology.RestorePlan, raw *topology.Snapshot) (bool, error) {
	if alive := topology.AliveIn(raw); len(alive) > 0 {
		return false, &topology.Error{
			Kind: topology.ErrInUse, Item: "nodes " + strings.Join(alive, ", "), What: "their agents run",
			Remedy: "stop them ('systemctl stop baize', which interrupts no traffic), or say --yes",
		}
	}
	if len(raw.Raw) == 0 {
		return true, nil
	}
	write, remove := fault.Counted(len(plan.Put), "key"), fault.Counted(len(plan.Delete), "key")
	return r.confirm(fmt.Sprintf("Write %s and remove %s?", write, remove))
}

func (r *runner) readFile(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(r.In)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, &topology.Error{
			Kind: topology.ErrNotFound, Item: "file " + file, What: err.Error(),
			Remedy: "name the file that 'baize backup' wrote",
		}
	}
	return b, nil
}
