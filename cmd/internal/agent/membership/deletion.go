package membership

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/topology"
)

// Closer closes networks to endpoints (attach.Part).
type Closer interface {
	// CloseUnused closes a network of which this node has the subnets own, unless
	// others or endpoints use it. It says what does, in words.
	CloseUnused(n topology.Network, own []netip.Prefix, others []string) ([]string, error)
	// Evict closes a network and detaches what is in it.
	Evict(ctx context.Context, network string) error
	// CloseIdle closes a network that the node is about to give back, unless an
	// endpoint, a promise or a request uses it.
	CloseIdle(network string) bool
	// Reopen undoes the closing.
	Reopen(network string)
}

// User is a part of the agent that has networks in use beside the endpoints.
type User struct {
	// Uses says what of it uses a network, in words. known is false while that
	// cannot be said yet: nothing yet is not none.
	Uses func(network string) (uses []string, known bool)
	// Wakes wakes a signal whenever Uses may say something else.
	Wakes func(part.Signal)
}

// FollowUse says what keeps the node from letting go of a network.
func (p *Part) FollowUse(c Closer, users ...User) { p.closer, p.users = c, users }

// followDeletions gives up what the node has in networks that are being deleted,
// or says what keeps it, and comes back to those that stay after all.
func (p *Part) followDeletions(ctx context.Context, s *topology.Snapshot) error {
	var errs []error
	maps.DeleteFunc(p.unheld, func(name string, _ time.Time) bool {
		_, there := s.Networks[name]
		return !there || len(s.Holders(name)) > 0
	})
	for _, n := range s.SortedNetworks() {
		switch {
		case n.Layout != "":
		case n.Deleting != "":
			errs = append(errs, p.leave(ctx, s, n))
		case p.closing(n.Name):
		default:
			p.closer.Reopen(n.Name)
			errs = append(errs, p.comeBack(ctx, s, n), p.removeOrphan(ctx, s, n))
		}
	}
	return errors.Join(errs...)
}

// comeBack takes back what the node answered to a deletion that was cancelled.
func (p *Part) comeBack(ctx context.Context, s *topology.Snapshot, n topology.Network) error {
	self := p.hub.Self().Node
	for _, sub := range s.NodeSubnets(n.Name, self) {
		if sub.LetGo || len(sub.UsedBy) > 0 {
			return p.store.AnswerDeletion(ctx, n.Name, self, nil)
		}
	}
	return nil
}

// leave gives up what the node has in a network, or says what keeps it.
func (p *Part) leave(ctx context.Context, s *topology.Snapshot, n topology.Network) error {
	self := p.hub.Self().Node
	holders := s.Holders(n.Name)
	i := slices.IndexFunc(holders, func(h topology.Holder) bool { return h.Node == self })
	var own []netip.Prefix
	if i >= 0 {
		own = holders[i].Subnets
	}
	uses, known, err := p.uses(ctx, n, own)
	switch {
	case err != nil || !known:
		return err
	case len(uses) > 0:
		if answered(s.NodeSubnets(n.Name, self), uses) {
			return nil
		}
		return p.store.AnswerDeletion(ctx, n.Name, self, uses)
	case i >= 0:
		p.log.Infof("network %s is being deleted: its subnets %v are given back", n.Name, own)
		return p.store.LetGo(ctx, n.Name, self)
	case len(holders) == 0 && p.mayFinish(s, n.Name):
		err := p.store.FinishDeletion(ctx, n.Name)
		if errors.Is(err, topology.ErrConflict) || errors.Is(err, topology.ErrInUse) {
			return nil // it is not as the snapshot says: the next one will tell
		}
		if errors.Is(err, topology.ErrDenied) {
			return nil // a node's user may not: 'baize network delete' removes the record
		}
		return err
	}
	return nil
}

// uses says what of this node uses a network, in words. Where nothing does, it is
// closed.
func (p *Part) uses(
	ctx context.Context, n topology.Network, own []netip.Prefix,
) (uses []string, known bool, err error) {
	if n.Deleting == topology.DeleteNow {
		return nil, true, p.closer.Evict(ctx, n.Name)
	}
	for _, u := range p.users {
		of, known := u.Uses(n.Name)
		if !known {
			return nil, false, nil // it wakes this part when it is
		}
		uses = append(uses, of...)
	}
	uses, err = p.closer.CloseUnused(n, own, uses)
	return uses, true, err
}

// answered reports whether the node's subnets have its answer already.
func answered(own []topology.Subnet, uses []string) bool {
	for i, sub := range own {
		want := topology.Answer(sub, uses, i == 0)
		if sub.LetGo || sub.UsedByMore != want.UsedByMore || !slices.Equal(sub.UsedBy, want.UsedBy) {
			return false
		}
	}
	return true
}

// mayFinish reports whether it is this node that removes a network of which
// nobody has a part: whoever gave up the last one did not come to it, or an
// operator did. It is the first by name of those whose agents run, and any of
// them where that one does not do it: it may be of a version that cannot.
func (p *Part) mayFinish(s *topology.Snapshot, network string) bool {
	if p.sinceUnheld(network) >= passEvery {
		return true
	}
	self := p.hub.Self().Node
	for name := range s.Alive {
		if topology.CompareNames(name, self) < 0 {
			return false
		}
	}
	return true
}

// sinceUnheld is for how long it is known that nobody has a part of a network.
func (p *Part) sinceUnheld(network string) time.Duration {
	now := time.Now()
	if p.unheld[network].IsZero() {
		p.unheld[network] = now
	}
	return now.Sub(p.unheld[network])
}
