package etcdstore

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// claimTTL is how long a claim keeps others from an address when whoever wrote it
// does not come back to it.
const claimTTL = 30 * time.Second

// ClaimAddress asks for an address for c.Node, and returns the claim as stored:
// decided, or waiting for the answer of Claim.Owner. A claim of the node's own that
// stands is returned as it is: whoever waits asks again with what was returned
// last. One that was refused earlier than that is made again. Where nobody leases
// the address's subnet nobody has to be asked, and where the owner's agent does not
// run nobody can be.
//
// Errors: ErrConflict, naming the node that has the address pinned, or claims it;
// ErrInvalid, ErrNotFound.
func (s *Store) ClaimAddress(ctx context.Context, c topology.Claim) (topology.Claim, error) {
	c.Addr = c.Addr.Unmap()
	if err := topology.CheckName("network", c.Network); err != nil {
		return c, err
	}
	if err := topology.CheckName("node", c.Node); err != nil {
		return c, err
	}
	a := claiming{s: s, want: c}
	err := s.attempts(ctx, addressItem(c.Network, c.Addr), func() (bool, error) { return a.step(ctx) })
	if a.lease != 0 && a.lease != clientv3.LeaseID(a.out.Lease) {
		s.revoke(ctx, a.lease)
	}
	return a.out, err
}

// claiming is a claim on its way.
type claiming struct {
	s     *Store
	want  topology.Claim
	lease clientv3.LeaseID // to put it under
	out   topology.Claim
}

func (a *claiming) step(ctx context.Context) (bool, error) {
	s, c := a.s, a.want
	v, cmps, err := s.readAddress(ctx, c.Network, c.Node, c.Addr)
	if err != nil {
		return false, err
	}
	next, more, err := s.question(ctx, v, c)
	if err != nil {
		return false, err
	}
	id := topology.PinID{Network: c.Network, Addr: c.Addr}
	if have, there := v.Claims[id]; there && have.ID == c.ID && v.stands(have, next, c.ModRevision) {
		a.out = have
		return true, nil
	}
	if a.lease == 0 {
		if a.lease, err = s.grant(ctx, claimTTL); err != nil {
			return false, err
		}
	}
	resp, err := s.commit(ctx, txn{
		cmps: append(cmps, more...),
		then: []clientv3.Op{clientv3.OpPut(s.key(c.Key()), string(topology.Encode(next)), clientv3.WithLease(a.lease))},
	})
	if err != nil || !resp.Succeeded {
		return false, err
	}
	a.out, a.out.Meta = next, written(v.meta[c.Key()], resp)
	a.out.Lease = int64(a.lease)
	return true, nil
}

// question is a claim as it would be put now, and what has to hold still for that.
func (s *Store) question(
	ctx context.Context, v view, c topology.Claim,
) (topology.Claim, []clientv3.Cmp, error) {
	c.Owner, c.Answer, c.Holder = "", topology.ClaimAgreed, ""
	home, leased := v.Home(c.Network, c.Addr)
	switch {
	case !leased || home.Node == c.Node:
		return c, []clientv3.Cmp{s.nothingNewer(subnetDir(c.Network), v.Revision)}, nil
	case home.Segment != "":
		return c, nil, &topology.Error{
			Kind: topology.ErrConflict, Code: fault.AddressTaken, Item: addressItem(c.Network, c.Addr),
			What:   fmt.Sprintf("%s of node %s assigns the addresses of %s itself", home.Segment, home.Node, home.Prefix),
			Remedy: "choose another address",
		}
	}
	alive := topology.AliveKey(home.Node)
	a, err := s.read(ctx, alive)
	if err != nil {
		return c, nil, err
	}
	c.Owner, c.Answer = home.Node, ""
	if _, runs := a.meta[alive]; !runs {
		c.Answer = topology.ClaimAbsent
	}
	return c, []clientv3.Cmp{
		s.unchanged(home.Key(), home.ModRevision), s.sameBirth(alive, a.meta[alive].CreateRevision),
	}, nil
}

// stands reports whether a claim need not be made again: next is what it would be
// now, seen is the revision that whoever waits has seen.
func (v view) stands(have, next topology.Claim, seen int64) bool {
	if have.Owner != next.Owner {
		return false
	}
	home, _ := v.Home(have.Network, have.Addr)
	if have.Answer == topology.ClaimAgreed {
		// Whoever leased the subnet since has agreed to nothing.
		return have.Owner == "" || home.ModRevision < have.ModRevision
	}
	if have.Answer == topology.ClaimRefused {
		return seen > 0 && have.ModRevision > seen
	}
	return have.Answer == next.Answer
}

// readAddress reads what decides on an address, with what has to hold still while
// it is decided. It refuses an address outside its network, one that another node
// has pinned and one that another node claims.
func (s *Store) readAddress(ctx context.Context, network, node string, a netip.Addr) (view, []clientv3.Cmp, error) {
	pin, claim := topology.PinKey(network, a), topology.ClaimKey(network, a)
	v, err := s.read(ctx, topology.NetworkKey(network), topology.NodeKey(node), pin, claim, subnetDir(network))
	if err != nil {
		return v, nil, err
	}
	n, err := v.network(network)
	if err != nil {
		return v, nil, err
	}
	whole := n.Prefix(topology.FamilyOf(a))
	if !a.IsValid() || !whole.IsValid() || !whole.Contains(a) {
		return v, nil, invalid(addressItem(network, a), "choose one in "+joinPrefixes(n.Prefixes()),
			"it is outside the network")
	}
	id := topology.PinID{Network: network, Addr: a}
	cmps, err := s.mayReplace(ctx, v.Pins[id], node)
	if err != nil {
		return v, nil, err
	}
	if c, there := v.Claims[id]; there && c.Node != node {
		return v, nil, claimedBy(c)
	}
	return v, append(cmps,
		s.unchanged(pin, v.meta[pin].ModRevision),
		s.unchanged(claim, v.meta[claim].ModRevision),
		s.sameBirth(topology.NetworkKey(network), n.CreateRevision),
		s.sameBirth(topology.NodeKey(node), v.meta[topology.NodeKey(node)].CreateRevision)), nil
}

// claimedBy refuses an address that another node is about to take.
func claimedBy(c topology.Claim) error {
	what := "node " + c.Node + " is about to take it"
	if c.Endpoint != "" {
		what += " for " + c.Endpoint
	}
	return &topology.Error{
		Kind: topology.ErrConflict, Code: fault.AddressTaken, Item: addressItem(c.Network, c.Addr), What: what,
		Remedy: "choose another address",
	}
}

// right returns what has to hold still when an address is pinned, and whether its
// owner was not asked; ErrUnclaimed where it has to be.
func (s *Store) right(ctx context.Context, v view, p topology.Pin) (cmps []clientv3.Cmp, absent bool, err error) {
	home, leased := v.Home(p.Network, p.Addr)
	if !leased || home.Node == p.Node {
		return []clientv3.Cmp{s.nothingNewer(subnetDir(p.Network), v.Revision)}, false, nil
	}
	unclaimed := &topology.Error{
		Kind: topology.ErrUnclaimed, Code: fault.AddressUnconfirmed, Item: pinItem(p),
		What:   fmt.Sprintf("it is in %s, which node %s leases, and that node has not agreed", home.Prefix, home.Node),
		Remedy: "try again",
	}
	c := v.Claims[topology.PinID{Network: p.Network, Addr: p.Addr}]
	if c.Owner != home.Node || !c.Granted() || c.ModRevision < home.ModRevision {
		return nil, false, unclaimed
	}
	cmps = append(cmps, s.unchanged(home.Key(), home.ModRevision))
	if c.Answer == topology.ClaimAgreed {
		return cmps, false, nil
	}
	alive := topology.AliveKey(home.Node)
	a, err := s.read(ctx, alive)
	if err != nil {
		return nil, false, err
	}
	if _, runs := a.meta[alive]; runs {
		return nil, false, unclaimed // it can be asked now
	}
	return append(cmps, s.sameBirth(alive, 0)), true, nil
}

// AnswerClaim writes the owner's answer into a claim, as it was read. It is no
// error when the claim is gone, or another, by now.
func (s *Store) AnswerClaim(ctx context.Context, c topology.Claim) error {
	_, err := s.commit(ctx, txn{
		cmps: []clientv3.Cmp{s.unchanged(c.Key(), c.ModRevision)},
		then: []clientv3.Op{clientv3.OpPut(s.key(c.Key()), string(topology.Encode(c)), clientv3.WithIgnoreLease())},
	})
	return err
}

// DropClaim gives up what c.Node claims. It is no error when there is no claim, or
// that of another node.
func (s *Store) DropClaim(ctx context.Context, c topology.Claim) error {
	c.Addr = c.Addr.Unmap()
	return s.attempts(ctx, c.Key(), func() (bool, error) {
		v, err := s.read(ctx, c.Key())
		if err != nil {
			return false, err
		}
		old, there := v.Claims[topology.PinID{Network: c.Network, Addr: c.Addr}]
		if !there || old.Node != c.Node {
			return true, nil
		}
		resp, err := s.commit(ctx, txn{
			cmps: []clientv3.Cmp{s.unchanged(c.Key(), old.ModRevision)},
			then: []clientv3.Op{clientv3.OpDelete(s.key(c.Key()))},
		})
		return err == nil && resp.Succeeded, err
	})
}
