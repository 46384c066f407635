// Package standalone has Baize's own records for an agent without etcd: this node's
// record, in memory. Networks, other nodes and subnets come from a topology source
// alone, and what only a store that all nodes share could do is refused.
package standalone

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// Store is what an agent needs of etcdstore.Store.
type Store struct {
	mu      sync.Mutex
	now     *topology.Snapshot
	changed chan struct{}
}

// New returns a store. last is what was in force when the agent ran last, or nil: what
// it says of the node is so until the node registers, since endpoints would be cut off
// from a node that is not known for a moment.
func New(node, id string, last *topology.Snapshot) *Store {
	s := &Store{now: topology.NewSnapshot(1, nil), changed: make(chan struct{})}
	if last != nil && last.Nodes[node].ID == id && id != "" {
		s.put(last.Nodes[node])
	}
	return s
}

// put needs s.mu, or nobody else that has s.
func (s *Store) put(r topology.Record) {
	next := s.now.Revision + 1
	s.set(s.now.With(next, []topology.KV{{
		Key: r.Key(), Value: topology.Encode(r), Meta: topology.Meta{CreateRevision: next, ModRevision: next},
	}}, nil))
}

func (s *Store) set(next *topology.Snapshot) {
	s.now = next
	close(s.changed)
	s.changed = make(chan struct{})
}

// Watch delivers the records, and again after every change, until ctx ends.
func (s *Store) Watch(ctx context.Context, deliver func(etcdstore.Update)) error {
	for {
		s.mu.Lock()
		now, changed := s.now, s.changed
		s.mu.Unlock()
		deliver(etcdstore.Update{Snapshot: now})
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// Faults returns none.
func (*Store) Faults() []fault.Fault { return nil }

// KeepAlive holds the node's liveness until ctx ends.
func (s *Store) KeepAlive(ctx context.Context, l topology.Liveness, _ time.Duration, onState func(error)) error {
	s.mu.Lock()
	s.put(l)
	s.mu.Unlock()
	onState(nil)
	<-ctx.Done()
	return nil
}

// RegisterNode takes the node's record.
func (s *Store) RegisterNode(_ context.Context, n topology.Node) (topology.Node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(n)
	return s.now.Nodes[n.Name], nil
}

// HandOverNode says that there is no record that would outlast the agent.
func (*Store) HandOverNode(_ context.Context, name, _ string) error {
	return &topology.Error{Kind: topology.ErrNotFound, Item: "node " + name, What: "the agent has no etcd"}
}

// PutNames keeps the names of this node's containers, which no other node hears of.
func (s *Store) PutNames(_ context.Context, n topology.Names) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(n.Names) == 0 {
		s.set(s.now.With(s.now.Revision+1, nil, []string{n.Key()}))
		return nil
	}
	s.put(n)
	return nil
}

// Questions waits: nobody can ask.
func (*Store) Questions(ctx context.Context, _ func(topology.Question)) error {
	<-ctx.Done()
	return nil
}

// Ask refuses: questions go by way of etcd.
func (*Store) Ask(_ context.Context, q topology.Question, _ func(topology.NodeAnswer) bool) error {
	return refuse("question " + q.ID)
}

// PutAnswer is not called, since nobody asks.
func (*Store) PutAnswer(_ context.Context, q topology.Question, _ topology.NodeAnswer) error {
	return refuse("question " + q.ID)
}

// refuse is the error for what all nodes would have to agree on.
func refuse(item string) error {
	return &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.StoreUnavailable, Item: item,
		What:   "this agent has no etcd, and takes its topology from elsewhere (--kube-subnet-mgr)",
		Remedy: "start the agent with etcd for networks of Baize's own",
	}
}

// CreateNetwork refuses.
func (*Store) CreateNetwork(_ context.Context, n topology.Network) (topology.Network, error) {
	return n, refuse("network " + n.Name)
}

// LeaseSubnet refuses.
func (*Store) LeaseSubnet(
	_ context.Context, network, _ string, _ topology.Family, _ bool,
) (topology.Subnet, error) {
	return topology.Subnet{}, refuse("network " + network)
}

// LeaseSegment refuses.
func (*Store) LeaseSegment(
	_ context.Context, network, _, _ string, _ topology.Family,
) (topology.Subnet, error) {
	return topology.Subnet{}, refuse("network " + network)
}

// ClaimSubnet refuses.
func (*Store) ClaimSubnet(_ context.Context, sub topology.Subnet) (topology.Subnet, error) {
	return sub, refuse("subnet " + sub.Prefix.String())
}

func address(network string, a netip.Addr) error {
	return refuse("address " + a.String() + " of network " + network)
}

// PutPin refuses: an address outside of the node's subnets is one of another node.
func (*Store) PutPin(_ context.Context, p topology.Pin) (topology.Pin, error) {
	return p, address(p.Network, p.Addr)
}

// DeletePin has nothing to delete.
func (*Store) DeletePin(context.Context, topology.Pin) error { return nil }

// MovePins refuses: no other node says which of its endpoints move.
func (*Store) MovePins(_ context.Context, from string, _ []topology.Pin) error {
	return refuse("addresses of node " + from)
}

// ClaimAddress refuses.
func (*Store) ClaimAddress(_ context.Context, c topology.Claim) (topology.Claim, error) {
	return c, address(c.Network, c.Addr)
}

// AnswerClaim refuses: nobody claims.
func (*Store) AnswerClaim(_ context.Context, c topology.Claim) error {
	return address(c.Network, c.Addr)
}

// DropClaim has nothing to drop.
func (*Store) DropClaim(context.Context, topology.Claim) error { return nil }

// LetGo has nothing to let go of.
func (*Store) LetGo(context.Context, string, string) error { return nil }

// AnswerDeletion has nobody to answer.
func (*Store) AnswerDeletion(context.Context, string, string, []string) error { return nil }

// FinishDeletion has nothing to finish.
func (*Store) FinishDeletion(context.Context, string) error { return nil }

// GiveBack has nothing to give back.
func (*Store) GiveBack(context.Context, string, string) error { return nil }

// Moved has no connection to give up.
func (*Store) Moved() {}
