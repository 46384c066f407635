package etcdstore

import (
	"context"
	"fmt"
	"slices"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// RegisterNode stores a node's attributes and returns the record as stored;
// nothing is written when nothing changed. Fields unknown to this version are
// kept, and a malformed value is replaced by the node's own. It is refused with
// ErrConflict, naming both hosts, while another agent holds the name alive (one
// with the same ID is another when its machine was booted at another time), and
// where the name is another installation's, whether its agent runs or not: see
// HandOverNode.
func (s *Store) RegisterNode(ctx context.Context, n topology.Node) (topology.Node, error) {
	var out topology.Node
	if err := topology.CheckName("node", n.Name); err != nil {
		return out, err
	}
	alive := topology.AliveKey(n.Name)
	err := s.attempts(ctx, "node "+n.Name, func() (bool, error) {
		v, err := s.read(ctx, n.Key(), alive)
		if err != nil {
			return false, err
		}
		if l, there := v.Alive[n.Name]; there && !sameAgent(l, n.ID, n.Epoch) {
			return false, nodeTaken(n.Name, n.Hostname, n.ID, l)
		}
		old := v.Nodes[n.Name]
		if err := ownedByAnother(old, n.ID, n.Hostname); err != nil {
			return false, err
		}
		next := n
		next.Extra = mergeExtra(old.Extra, n.Extra)
		if old.ModRevision != 0 && sameRecord(old, next) {
			out = old
			return true, nil
		}
		meta := v.meta[n.Key()]
		resp, err := s.commit(ctx, txn{
			cmps: []clientv3.Cmp{s.unchanged(n.Key(), meta.ModRevision), s.unchanged(alive, v.meta[alive].ModRevision)},
			then: []clientv3.Op{s.put(next)},
		})
		if err != nil || !resp.Succeeded {
			return false, err
		}
		out, out.Meta = next, written(meta, resp)
		return true, nil
	})
	return out, err
}

// called is a host in a sentence.
func called(hostname string) string {
	if hostname == "" {
		return "a host without a name"
	}
	return "host " + hostname
}

// ownedByAnother refuses the name of a node that is another installation's: its
// endpoints may be running although its agent is not.
func ownedByAnother(record topology.Node, id, hostname string) error {
	if record.ID == "" || record.ID == id {
		return nil
	}
	return &topology.Error{
		Kind: topology.ErrConflict, Code: fault.NodeOwned, Item: "node " + record.Name,
		What: fmt.Sprintf(
			"the name, its subnets and its pins are those of an installation on %s, whose agent does not run; %s is another "+
				"installation",
			called(record.Hostname),
			called(hostname),
		),
		Remedy: fmt.Sprintf(
			"if this host replaces that one, run 'baize node hand-over %s'; if not, give it another name with --node",
			record.Name,
		),
	}
}

// HandOverNode lets another installation have a node's name, subnets and pins:
// the next agent that comes with the name takes them. It is for a machine that
// was set up anew or replaced. With an id they are let go only if they are still
// those of the installation of that ID, which is no error otherwise. While the
// node's agent runs it is refused with ErrInUse. Nothing is written where that
// was done before.
func (s *Store) HandOverNode(ctx context.Context, name, id string) error {
	if err := topology.CheckName("node", name); err != nil {
		return err
	}
	key, alive := topology.NodeKey(name), topology.AliveKey(name)
	refuse := func(kind error, what, remedy string) error {
		return &topology.Error{Kind: kind, Item: "node " + name, What: what, Remedy: remedy}
	}
	lost := "" // whose a transaction without an answer may have made it nobody's
	return s.attempts(ctx, "node "+name, func() (bool, error) {
		v, err := s.read(ctx, key, alive)
		if err != nil {
			return false, err
		}
		meta, there := v.meta[key]
		if lost != "" && v.Nodes[name].ID != lost {
			return true, nil // it was this call; whoever has it now has taken it since
		}
		if !there {
			return false, refuse(topology.ErrNotFound, "there is no such node", "see 'baize node list'")
		}
		if err := v.malformed(key); err != nil {
			return false, err
		}
		if l, runs := v.Alive[name]; runs {
			return false, refuse(topology.ErrInUse, "its agent runs on "+called(l.Hostname), "stop the agent there first")
		}
		n := v.Nodes[name]
		if n.ID == "" || (id != "" && n.ID != id) {
			return true, nil
		}
		had := n.ID
		n.ID = ""
		resp, err := s.commit(ctx, txn{
			cmps: []clientv3.Cmp{s.unchanged(key, meta.ModRevision), s.sameBirth(alive, 0)},
			then: []clientv3.Op{s.put(n)},
		})
		if err != nil {
			return false, err
		}
		if resp.repeated {
			lost = had
		}
		return resp.Succeeded, nil
	})
}

// nodeTaken refuses a second host of one name.
func nodeTaken(name, hostname, id string, holder topology.Liveness) error {
	e := &topology.Error{
		Kind: topology.ErrConflict, Code: fault.NodeDuplicate, Item: "node " + name,
		What:   fmt.Sprintf("%s runs under this name, %s wants it too", called(holder.Hostname), called(hostname)),
		Remedy: "give one of them another name with --node, or wait until the other agent has stopped",
	}
	if holder.ID == id {
		e.What += ": they have one node ID, so one is a copy of the other"
		e.Remedy = "on the copy, stop the agent, delete node-id in its state directory and give it another name with --node"
	}
	return e
}

// RemoveNode deletes a node, the subnets it leases, its pins and names, and returns
// their keys relative to the prefix. Reservations stay. While the node is
// alive it is refused with ErrInUse unless force is set.
//
// The node's key goes first, so that nothing new can be leased; the rest
// follows in transactions of limited size, each of which deletes only what is
// unchanged since it was seen to be the node's, and only while the node has
// not come back. On an error, removed tells what is gone already; calling
// again goes on.
func (s *Store) RemoveNode(ctx context.Context, name string, force bool) (removed []string, err error) {
	if err := topology.CheckName("node", name); err != nil {
		return nil, err
	}
	r := removal{s: s, node: name, force: force}
	err = s.attempts(ctx, "node "+name, func() (bool, error) { return r.step(ctx) })
	return r.removed, err
}

// removal is a node on its way out.
type removal struct {
	s       *Store
	node    string
	force   bool
	removed []string
}

// step deletes a part of what is left of the node.
func (r *removal) step(ctx context.Context) (done bool, err error) {
	s := r.s
	all, err := s.Snapshot(ctx)
	if err != nil {
		return false, err
	}
	if l, alive := all.Alive[r.node]; alive && !r.force {
		return false, r.refuse(topology.ErrInUse, "its agent runs on host "+l.Hostname,
			"stop the agent there first, or use --force")
	}
	key := topology.NodeKey(r.node)
	v, err := s.read(ctx, key)
	if err != nil {
		return false, err
	}
	meta, registered := v.meta[key]
	owned := ownedBy(all, r.node)
	switch {
	case registered && len(r.removed) > 0:
		return false, r.refuse(topology.ErrConflict, "it registered again while it was being removed",
			"stop the agent on it first")
	case registered:
		owned = slices.Insert(owned, 0, topology.KV{Key: key, Meta: meta})
	case len(owned) == 0 && len(r.removed) > 0:
		return true, nil
	case len(owned) == 0:
		return false, r.refuse(topology.ErrNotFound, "there is no such node", "see 'baize node list'")
	}
	// The node's key alone comes first: without it nothing new can be leased.
	chunk := owned[:1]
	if !registered {
		chunk = owned[:min(len(owned), maxTxnOps-2)]
	}
	ok, err := r.delete(ctx, chunk, registered)
	return ok && len(owned) == len(chunk), err
}

// delete removes keys that are unchanged, as long as the node has not come back.
func (r *removal) delete(ctx context.Context, kvs []topology.KV, registered bool) (bool, error) {
	s := r.s
	var t txn
	for _, kv := range kvs {
		t.cmps = append(t.cmps, s.unchanged(kv.Key, kv.ModRevision))
		t.then = append(t.then, clientv3.OpDelete(s.key(kv.Key)))
	}
	if !registered {
		t.cmps = append(t.cmps, s.sameBirth(topology.NodeKey(r.node), 0))
	}
	if !r.force {
		t.cmps = append(t.cmps, s.sameBirth(topology.AliveKey(r.node), 0))
	}
	resp, err := s.commit(ctx, t)
	if err != nil || !resp.Succeeded {
		return false, err
	}
	for _, kv := range kvs {
		r.removed = append(r.removed, kv.Key)
	}
	return true, nil
}

func (r *removal) refuse(kind error, what, remedy string) error {
	return &topology.Error{Kind: kind, Item: "node " + r.node, What: what, Remedy: remedy}
}

// ownedBy returns the keys a node has: its leases, its pins, its names, its claims.
func ownedBy(s *topology.Snapshot, node string) []topology.KV {
	var out []topology.KV
	for _, sub := range s.SortedSubnets() {
		if sub.Node == node && !sub.Reserved {
			out = append(out, topology.KV{Key: sub.Key(), Meta: sub.Meta})
		}
	}
	for _, p := range s.SortedPins() {
		if p.Node == node {
			out = append(out, topology.KV{Key: p.Key(), Meta: p.Meta})
		}
	}
	for id, n := range s.Names {
		if id.Node == node {
			out = append(out, topology.KV{Key: n.Key(), Meta: n.Meta})
		}
	}
	for _, c := range s.Claims {
		if c.Node == node {
			out = append(out, topology.KV{Key: c.Key(), Meta: c.Meta})
		}
	}
	return out
}
