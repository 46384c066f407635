package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// deletionWait is how long a deletion is waited for. Agents that do not use the
// network let go within a second.
const deletionWait = 30 * time.Second

// mostHolders bounds the nodes that an error lists.
const mostHolders = 20

func (r *runner) networkDeleteCommand() *ucli.Command {
	return &ucli.Command{
		Name: "delete", Aliases: []string{"rm"}, Usage: "delete a network", ArgsUsage: "NAME",
		Description: `The network is marked: from then on nothing new is leased or attached in it. Every
agent that does not use it gives its subnets back, and the network goes with the
last of them. An endpoint holds it, and so does a network of Docker's, or docker0,
on any node. Reservations go along.

Where nodes still use it when --wait is over, they are named with what uses it, and
the exit code is 4. The mark stays: the network goes when the last of them lets go.

--force takes it from those who use it: their agents detach the endpoints, so that
containers lose this interface, and what nodes whose agents do not run have in it
is given away. Endpoints of such a node work on until its agent starts, reach
nobody, and are reported by it (BZ0107).

  baize network delete blue
  baize network delete blue --wait 0
  baize network delete blue --cancel`,
		Flags: []ucli.Flag{
			&ucli.DurationFlag{
				Name: "wait", Value: deletionWait, Usage: "the longest to wait until it is gone; 0: only mark it",
			},
			&ucli.BoolFlag{Name: "force", Usage: "take it from those who use it; asks first"},
			yesFlag(), dryRunFlag(),
			&ucli.BoolFlag{Name: "cancel", Usage: "keep a network that is being deleted"},
		},
		Action: r.networkDelete,
	}
}

func (r *runner) networkDelete(c *ucli.Context) error {
	if c.Bool("cancel") && (c.Bool("force") || c.IsSet("wait")) {
		return usagef("baize network delete", "--cancel stands alone")
	}
	name := c.Args().First()
	return r.writing(c, func(s *etcdstore.Store, snap *topology.Snapshot) error {
		n, err := findNetwork(snap, name)
		_, malformed := snap.Malformed[topology.NetworkKey(name)]
		switch {
		case malformed:
			// It cannot be marked: it goes if no node has a part of it.
			if err := s.DeleteNetwork(c.Context, name); err != nil {
				return err
			}
			return r.say("network %s deleted", name)
		case err != nil:
			return err
		case c.Bool("cancel"):
			return r.cancelDeletion(c, s, n)
		}
		how := topology.DeleteUnused
		if c.Bool("force") {
			how = topology.DeleteNow
			if ok, err := r.mayForce(c, snap, name); err != nil || !ok {
				return err
			}
		}
		if n, err = s.MarkNetwork(c.Context, name, how); err != nil {
			if errors.Is(err, context.Canceled) && isMarked(c.Context, s, name) {
				r.sayGoesOn(name)
			}
			return err
		}
		d := deletion{store: s, network: n, force: c.Bool("force"), taken: map[string]bool{}, err: errNotYet(name)}
		if c.Bool(flagDryRun) {
			return d.rehearse(c.Context, snap.Holders(name))
		}
		return r.awaitDeletion(c, &d)
	})
}

func (r *runner) cancelDeletion(c *ucli.Context, s *etcdstore.Store, n topology.Network) error {
	if n.Deleting == "" {
		return r.say("network %s is not being deleted", n.Name)
	}
	if _, err := s.CancelDeletion(c.Context, n.Name); err != nil {
		return err
	}
	return r.say("network %s stays; nodes that had let go of it lease subnets again", n.Name)
}

// mayForce says what --force does, and asks.
func (r *runner) mayForce(c *ucli.Context, snap *topology.Snapshot, name string) (bool, error) {
	down := 0
	holders := snap.Holders(name)
	for _, h := range holders {
		if !h.Alive {
			down++
		}
	}
	return r.agreed(c, fmt.Sprintf("Endpoints in network %s are detached, and containers lose this interface, on all "+
		"nodes that carry it: %d, of which %d without an agent that runs. Delete it?", name, len(holders), down))
}

// awaitDeletion waits until a network that is marked is gone, or says who has it.
func (r *runner) awaitDeletion(c *ucli.Context, d *deletion) error {
	name, limit := d.network.Name, c.Duration("wait")
	_, err := waiting(r, c, "waiting until the nodes have let go of network "+name,
		func(ctx context.Context) (struct{}, error) {
			gone, err := d.await(ctx, limit)
			if err == nil && !gone {
				err = errHeld
			}
			return struct{}{}, err
		})
	switch {
	case err == nil:
		return r.say("network %s deleted", name)
	case errors.Is(err, context.Canceled):
		r.sayGoesOn(name)
		return err
	case !errors.Is(err, errHeld):
		return err
	case limit == 0:
		return r.say("network %s is being deleted; 'baize network show %s' says what it waits for", name, name)
	}
	if len(d.holders) == 0 {
		return d.err
	}
	fmt.Fprintf(r.Err, "network %s waits for:\n", name)
	var rows [][]string
	for _, h := range d.holders[:min(len(d.holders), mostHolders)] {
		rows = append(rows, []string{"  " + h.Node, h.Why()})
	}
	if more := len(d.holders) - mostHolders; more > 0 {
		rows = append(rows, []string{fmt.Sprintf("  and %d more", more), ""})
	}
	if err := writeRows(r.Err, rows); err != nil {
		return err
	}
	return &topology.Error{
		Kind: topology.ErrInUse, Item: "network " + name,
		What: "it is being deleted, and in use on " + fault.Counted(len(d.holders), "node"),
		Remedy: fmt.Sprintf("remove what uses it, and 'baize node remove' what is gone for good, or take it away with "+
			"'baize network delete --force %s'; 'baize network delete --cancel %s' keeps it", name, name),
	}
}

// isMarked reports whether a network is being deleted, although who asked for it has
// interrupted the command before the answer came.
func isMarked(ctx context.Context, s *etcdstore.Store, name string) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	snap, err := s.Snapshot(ctx)
	return err == nil && snap.Networks[name].Deleting != ""
}

// sayGoesOn is what an interrupted command leaves behind.
func (r *runner) sayGoesOn(name string) {
	fmt.Fprintf(r.Err, "network %s is being deleted all the same; 'baize network delete --cancel %[1]s' keeps it\n", name)
}

// errHeld says that a network that is marked is not gone yet.
var errHeld = errors.New("not gone yet")

// deletion is a network that is marked, on its way out.
type deletion struct {
	store   *etcdstore.Store
	network topology.Network
	force   bool

	holders []topology.Holder
	taken   map[string]bool // by node
	err     error           // why it is not gone although nobody has it
}

func errNotYet(name string) error {
	return &topology.Error{
		Kind: topology.ErrUnavailable, Item: "network " + name,
		What:   "it is being deleted, and etcd has not said in time who has a part of it",
		Remedy: "see 'baize network show " + name + "'",
	}
}

// await waits until the network is gone, for limit at the most.
func (d *deletion) await(ctx context.Context, limit time.Duration) (gone bool, err error) {
	if limit == 0 {
		snap, err := d.store.Snapshot(ctx)
		if err != nil {
			return false, err
		}
		return d.step(ctx, snap)
	}
	watching, stop := context.WithTimeout(ctx, limit)
	defer stop()
	updates := make(chan etcdstore.Update, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// It ends with the context; what is wrong meanwhile comes with the updates.
		_ = d.store.Watch(watching, func(u etcdstore.Update) {
			select {
			case <-updates: // the last one counts
			default:
			}
			updates <- u
		})
	}()
	defer func() {
		stop()
		<-ended
	}()
	for {
		select {
		case <-watching.Done():
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			return d.end(ctx)
		case u := <-updates:
			if d.err = u.Err; u.Err != nil {
				continue
			}
			if gone, err := d.step(ctx, u.Snapshot); gone || err != nil {
				return gone, err
			}
		}
	}
}

// step looks at the network, takes from nodes whose agents do not run what they
// have if that was asked for, and removes it when nobody has a part of it.
func (d *deletion) step(ctx context.Context, snap *topology.Snapshot) (gone bool, err error) {
	name := d.network.Name
	n, there := snap.Networks[name]
	d.holders = snap.Holders(name)
	switch {
	case snap.Revision < d.network.ModRevision:
		return false, nil
	case !there || n.CreateRevision != d.network.CreateRevision:
		return true, nil
	case n.Deleting == "":
		return false, &topology.Error{
			Kind: topology.ErrConflict, Item: "network " + name, What: "somebody has cancelled its deletion",
			Remedy: "'baize network delete " + name + "' begins again",
		}
	case len(d.holders) == 0:
		return d.finish(ctx)
	case d.force:
		for _, h := range d.holders {
			if !h.Alive && !d.taken[h.Node] {
				if err := d.take(ctx, h.Node); err != nil {
					return false, err
				}
			}
		}
	}
	return false, nil
}

// rehearse goes through what a deletion writes, where nobody answers. Without force
// that is the mark where nodes have a part of the network.
func (d *deletion) rehearse(ctx context.Context, holders []topology.Holder) error {
	if len(holders) > 0 && !d.force {
		return nil
	}
	for _, h := range holders {
		if err := d.take(ctx, h.Node); err != nil {
			return err
		}
	}
	_, err := d.finish(ctx)
	return err
}

// end is the last attempt: with force, what agents did not give is taken.
func (d *deletion) end(ctx context.Context) (gone bool, err error) {
	if d.err != nil && !errors.Is(d.err, topology.ErrInUse) {
		return false, d.err // etcd does not answer
	}
	if !d.force {
		return false, nil
	}
	for _, h := range d.holders {
		if err := d.take(ctx, h.Node); err != nil {
			return false, err
		}
	}
	return d.finish(ctx)
}

func (d *deletion) take(ctx context.Context, node string) error {
	d.taken[node] = true
	return d.store.LetGo(ctx, d.network.Name, node)
}

// finish removes the network unless somebody has a part of it after all.
func (d *deletion) finish(ctx context.Context) (gone bool, err error) {
	err = d.store.FinishDeletion(ctx, d.network.Name)
	if errors.Is(err, topology.ErrInUse) {
		d.err = err
		return false, nil
	}
	return err == nil, err
}
