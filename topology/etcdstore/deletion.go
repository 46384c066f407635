package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/baize-net/baize/topology"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A network goes in three steps. Its record is marked (MarkNetwork), so that
// nothing new is leased in it. The nodes give their parts up (LetGo), or answer
// what keeps them (AnswerDeletion). The record goes with the last part
// (FinishDeletion), in a transaction that nobody can lease before: whoever sees
// that nothing is left may do it.

// MarkNetwork marks a network as being deleted. A mark of topology.DeleteNow
// stays one.
func (s *Store) MarkNetwork(ctx context.Context, name string, how topology.Deletion) (topology.Network, error) {
	return s.setDeleting(ctx, name, func(old topology.Deletion) topology.Deletion {
		if old == topology.DeleteNow {
			return old
		}
		return how
	})
}

// CancelDeletion takes the mark back. Nodes that have let go lease anew.
func (s *Store) CancelDeletion(ctx context.Context, name string) (topology.Network, error) {
	return s.setDeleting(ctx, name, func(topology.Deletion) topology.Deletion { return "" })
}

// setDeleting changes nothing else of the record, so a network that contradicts
// another one can be marked.
func (s *Store) setDeleting(
	ctx context.Context, name string, change func(topology.Deletion) topology.Deletion,
) (topology.Network, error) {
	var out topology.Network
	if err := topology.CheckName("network", name); err != nil {
		return out, err
	}
	err := s.attempts(ctx, "network "+name, func() (bool, error) {
		v, err := s.read(ctx, topology.NetworkKey(name))
		if err != nil {
			return false, err
		}
		old, err := v.network(name)
		if err != nil {
			return false, err
		}
		n := old
		if n.Deleting = change(old.Deleting); n.Deleting == old.Deleting {
			out = old
			return true, nil
		}
		resp, err := s.commit(ctx, txn{
			cmps: []clientv3.Cmp{s.unchanged(n.Key(), old.ModRevision)}, then: []clientv3.Op{s.put(n)},
		})
		if err != nil || !resp.Succeeded {
			return false, err
		}
		out = n
		out.Meta = written(old.Meta, resp)
		return true, nil
	})
	return out, err
}

// DeleteNetwork removes a network together with its names and the reservations
// that no node uses, marked or not. While a node leases a subnet or has an
// address pinned it is refused with ErrInUse, naming the nodes; a lease made at
// the same moment wins or fails with ErrNotFound, never both.
func (s *Store) DeleteNetwork(ctx context.Context, name string) error {
	return s.removeNetwork(ctx, name, false)
}

// FinishDeletion is DeleteNetwork for a network that is marked. It is no error
// where it is gone; where the mark is, it is ErrConflict.
func (s *Store) FinishDeletion(ctx context.Context, name string) error {
	return s.removeNetwork(ctx, name, true)
}

func (s *Store) removeNetwork(ctx context.Context, name string, marked bool) error {
	var lost int64 // the birth of the record that a transaction without an answer may have deleted
	return s.attempts(ctx, "network "+name, func() (bool, error) {
		v, err := s.readNetwork(ctx, name)
		if err != nil {
			return false, err
		}
		meta, there := v.meta[topology.NetworkKey(name)]
		switch {
		case !there && marked, lost != 0 && lost != meta.CreateRevision: // it was this call that deleted it
			return true, nil
		case !there:
			_, err := v.network(name)
			return false, err
		case marked && v.Networks[name].Deleting == "":
			return false, notDeleting(name)
		}
		unused, err := s.unusedReservations(ctx, v, name)
		if err != nil {
			return false, err
		}
		if err := v.without(unused).inUse(name, "it cannot be deleted"); err != nil {
			return false, err
		}
		if len(unused) > 0 {
			return false, s.removeReservations(ctx, name, meta, unused[:min(len(unused), mostReservations)])
		}
		resp, err := s.commit(ctx, txn{
			cmps: append(s.stillUnused(name, v.Revision), s.unchanged(topology.NetworkKey(name), meta.ModRevision)),
			then: []clientv3.Op{
				clientv3.OpDelete(s.key(topology.NetworkKey(name))),
				clientv3.OpDelete(s.key(subnetDir(name)), clientv3.WithPrefix()),
				clientv3.OpDelete(s.key(namesDir(name)), clientv3.WithPrefix()),
			},
		})
		if err != nil {
			return false, err
		}
		if resp.repeated {
			lost = meta.CreateRevision
		}
		return resp.Succeeded, nil
	})
}

func notDeleting(name string) error {
	return &topology.Error{
		Kind: topology.ErrConflict, Item: "network " + name, What: "it is not being deleted any more: somebody cancelled it",
		Remedy: "'baize network delete " + name + "' begins again",
	}
}

// without leaves out some subnets, and the reservations that their nodes have let
// go of.
func (v view) without(unused []topology.Subnet) view {
	out := *v.Snapshot
	out.Subnets = maps.Clone(v.Subnets)
	for id, sub := range v.Subnets {
		if sub.Reserved && sub.LetGo {
			delete(out.Subnets, id)
		}
	}
	for _, sub := range unused {
		delete(out.Subnets, topology.SubnetID{Network: sub.Network, Prefix: sub.Prefix})
	}
	return view{&out, v.meta}
}

// mostReservations are removed in one transaction, with three comparisons each.
const mostReservations = (maxTxnOps - 1) / 3

// unusedReservations are the reservations for nodes that there are not.
func (s *Store) unusedReservations(ctx context.Context, v view, network string) ([]topology.Subnet, error) {
	var reserved []topology.Subnet
	for _, sub := range v.SortedSubnets() {
		if sub.Network == network && sub.Reserved && sub.Node != "" && !sub.LetGo {
			reserved = append(reserved, sub)
		}
	}
	var unused []topology.Subnet
	for part := range slices.Chunk(reserved, mostReservations) {
		var keys []string
		for _, sub := range part {
			keys = append(keys, topology.NodeKey(sub.Node), topology.AliveKey(sub.Node))
		}
		slices.Sort(keys)
		nodes, err := s.read(ctx, slices.Compact(keys)...)
		if err != nil {
			return nil, err
		}
		for _, sub := range part {
			_, registered := nodes.meta[topology.NodeKey(sub.Node)]
			_, alive := nodes.meta[topology.AliveKey(sub.Node)]
			if !registered && !alive {
				unused = append(unused, sub)
			}
		}
	}
	return unused, nil
}

// removeReservations removes them as long as there are no such nodes.
func (s *Store) removeReservations(
	ctx context.Context, network string, meta topology.Meta, unused []topology.Subnet,
) error {
	t := txn{cmps: []clientv3.Cmp{s.unchanged(topology.NetworkKey(network), meta.ModRevision)}}
	for _, sub := range unused {
		t.cmps = append(t.cmps, s.unchanged(sub.Key(), sub.ModRevision),
			s.sameBirth(topology.NodeKey(sub.Node), 0), s.sameBirth(topology.AliveKey(sub.Node), 0))
		t.then = append(t.then, clientv3.OpDelete(s.key(sub.Key())))
	}
	_, err := s.commit(ctx, t)
	return err
}

// LetGo gives up what a node has in a network that is being deleted: its leases,
// its pins, its names. Its reservations stay the operator's, and are marked as
// not used. The network goes with the last node's part. Nothing is done, without
// an error, where the network is gone or its deletion was cancelled.
func (s *Store) LetGo(ctx context.Context, network, node string) error {
	marked := false
	err := s.attempts(ctx, fmt.Sprintf("node %s in network %s", node, network), func() (bool, error) {
		v, err := s.readNetwork(ctx, network, topology.NamesKey(network, node))
		if err != nil {
			return false, err
		}
		n, there := v.Networks[network]
		if marked = there && n.Deleting != ""; !marked {
			return true, nil
		}
		parts := append(s.partsOf(v, network, node), s.reservationsOf(v, network, node)...)
		if len(parts) == 0 {
			return true, nil
		}
		chunk := parts[:min(len(parts), maxTxnOps-1)]
		t := s.settle(chunk)
		t.cmps = append(t.cmps, s.unchanged(n.Key(), n.ModRevision))
		resp, err := s.commit(ctx, t)
		return err == nil && resp.Succeeded && len(chunk) == len(parts), err
	})
	if err != nil || !marked {
		return err
	}
	err = s.FinishDeletion(ctx, network)
	if errors.Is(err, topology.ErrDenied) {
		return nil // whoever deletes it may, and removes the record
	}
	return ignoring(err, topology.ErrInUse, topology.ErrConflict)
}

// ownPart is a key of a node, and what is done to it.
type ownPart struct {
	key      string
	revision int64
	op       clientv3.Op
}

// settle does what is to be done to keys of a node, as far as they are unchanged.
func (s *Store) settle(parts []ownPart) (t txn) {
	for _, p := range parts {
		t.cmps = append(t.cmps, s.unchanged(p.key, p.revision))
		t.then = append(t.then, p.op)
	}
	return t
}

// partsOf are the node's leases, pins and names in a network, to be deleted.
func (s *Store) partsOf(v view, network, node string) []ownPart {
	var out []ownPart
	remove := func(r topology.Record, m topology.Meta) {
		out = append(out, ownPart{r.Key(), m.ModRevision, clientv3.OpDelete(s.key(r.Key()))})
	}
	for _, sub := range v.NodeSubnets(network, node) {
		if !sub.Reserved {
			remove(sub, sub.Meta)
		}
	}
	for _, p := range v.SortedPins() {
		if p.Network == network && p.Node == node {
			remove(p, p.Meta)
		}
	}
	if n, there := v.Names[topology.NamesID{Network: network, Node: node}]; there {
		remove(n, n.Meta)
	}
	return out
}

// reservationsOf are the node's reservations, to be marked as let go.
func (s *Store) reservationsOf(v view, network, node string) []ownPart {
	var out []ownPart
	for _, sub := range v.NodeSubnets(network, node) {
		if sub.Reserved && !sub.LetGo {
			next := sub
			next.LetGo, next.UsedBy, next.UsedByMore = true, nil, 0
			out = append(out, ownPart{sub.Key(), sub.ModRevision, s.put(next)})
		}
	}
	return out
}

// AnswerDeletion says what of a node still uses a network that is being deleted,
// in a record that the node has there. With nothing, it takes back what the node
// answered, and uses its reservations again: the deletion was cancelled. Nothing
// is written where nothing changes.
func (s *Store) AnswerDeletion(ctx context.Context, network, node string, usedBy []string) error {
	return s.attempts(ctx, fmt.Sprintf("node %s in network %s", node, network), func() (bool, error) {
		v, err := s.readNetwork(ctx, network)
		if err != nil {
			return false, err
		}
		n, there := v.Networks[network]
		if !there || (n.Deleting != "") != (len(usedBy) > 0) {
			return true, nil // things have moved on
		}
		t := txn{cmps: []clientv3.Cmp{s.unchanged(n.Key(), n.ModRevision)}}
		for i, sub := range v.NodeSubnets(network, node) {
			next := topology.Answer(sub, usedBy, i == 0)
			if !sameRecord(sub, next) && len(t.then) < maxTxnOps-1 {
				t.cmps = append(t.cmps, s.unchanged(sub.Key(), sub.ModRevision))
				t.then = append(t.then, s.put(next))
			}
		}
		if len(t.then) == 0 {
			return true, nil
		}
		resp, err := s.commit(ctx, t)
		return err == nil && resp.Succeeded, err
	})
}

// ignoring makes nothing of errors of some kinds.
func ignoring(err error, kinds ...error) error {
	if slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(err, kind) }) {
		return nil
	}
	return err
}
