package docker

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/topology"
)

// pool is a part of a network to give addresses from, as its ID tells: the ID
// is all that the engine gives back, also years later.
type pool struct {
	// Network is the name in Baize; "" where the engine's network tells.
	Network string
	Prefix  netip.Prefix
	// Range, where valid, is that of --ip-range.
	Range netip.Prefix
}

const poolSeparator = "|"

// ID returns "NETWORK|PREFIX|RANGE".
func (p pool) ID() string {
	r := ""
	if p.Range.IsValid() {
		r = p.Range.String()
	}
	return strings.Join([]string{p.Network, p.Prefix.String(), r}, poolSeparator)
}

func parsePool(id string) (pool, error) {
	f := strings.Split(id, poolSeparator)
	if len(f) != 3 {
		return pool{}, &topology.Error{Kind: topology.ErrInvalid, Item: "pool " + id, What: "this plugin did not make it"}
	}
	p := pool{Network: f[0]}
	var err error
	if p.Prefix, err = netip.ParsePrefix(f[1]); err == nil && f[2] != "" {
		p.Range, err = netip.ParsePrefix(f[2])
	}
	if err != nil {
		return pool{}, &topology.Error{Kind: topology.ErrInvalid, Item: "pool " + id, What: err.Error()}
	}
	return p, nil
}

const (
	// maxPools bounds the pools whose network was never created.
	maxPools = 64
	// maxAsked bounds how often in a row the engine is given the same one.
	maxAsked = 8
)

func (p *Plugin) requestPool(ctx context.Context, r poolRequest) (poolAnswer, error) {
	q := pool{Network: r.Options[OptionNetwork]}
	bad := func(item, remedy, what string, args ...any) (poolAnswer, error) {
		return poolAnswer{}, &topology.Error{
			Kind:   topology.ErrInvalid,
			Item:   item,
			What:   fmt.Sprintf(what, args...),
			Remedy: remedy,
		}
	}
	if unknown := unknownOptions(r.Options, OptionNetwork); len(unknown) > 0 {
		return bad("--ipam-opt "+unknown[0], "known is "+OptionNetwork, "there is none of that name")
	}
	if r.Pool == "" {
		prefix, err := p.prefixOf(ctx, q.Network, r.V6)
		if err != nil {
			return poolAnswer{}, err
		}
		q.Prefix = prefix
		if p.asksForEver(q) {
			return bad(
				"subnet "+prefix.String(),
				"give it yourself: --subnet "+prefix.String(),
				"Docker does not choose it, because something of this host is in it: a route (docker0's, or that of a network "+
					"with transport route or auto) or a nameserver",
			)
		}
	} else {
		prefix, err := netip.ParsePrefix(r.Pool)
		if err != nil {
			return bad("subnet "+r.Pool, "", "%v", err)
		}
		q.Prefix = prefix.Masked()
	}
	if r.SubPool != "" {
		sub, err := netip.ParsePrefix(r.SubPool)
		if err != nil || !q.Prefix.Contains(sub.Addr()) || sub.Bits() < q.Prefix.Bits() {
			return bad("--ip-range "+r.SubPool, "choose a part of "+q.Prefix.String(), "it is no part of the subnet")
		}
		q.Range = sub.Masked()
	}
	p.mu.Lock()
	p.pools = append(p.pools, q)
	p.pools = p.pools[max(0, len(p.pools)-maxPools):]
	p.mu.Unlock()
	return poolAnswer{PoolID: q.ID(), Pool: q.Prefix.String()}, nil
}

// asksForEver reports that the engine has asked for a pool too often. Where it
// has not named one itself, it takes none that overlaps one of the host's routes
// or nameservers, and asks again, for ever (libnetwork, requestPoolHelper).
func (p *Plugin) asksForEver(q pool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked != q {
		p.asked, p.times = q, 0
	}
	if p.times++; p.times <= maxAsked {
		return false
	}
	p.times = 0
	return true
}

// taken says that the engine has accepted, or given up, what it asked for.
func (p *Plugin) taken() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.times = 0
}

func (p *Plugin) releasePool(context.Context, poolRelease) error {
	p.taken()
	return nil
}

// prefixOf returns a network's prefix of one family.
func (p *Plugin) prefixOf(ctx context.Context, name string, v6 bool) (netip.Prefix, error) {
	all, err := p.node.Networks(ctx)
	if err != nil {
		return netip.Prefix{}, err
	}
	f := topology.IPv4
	if v6 {
		f = topology.IPv6
	}
	var names []string
	for _, n := range all {
		if n.Name != name {
			names = append(names, n.Name)
			continue
		}
		if prefix := n.Prefix(f); prefix.IsValid() {
			return prefix, nil
		}
		return netip.Prefix{}, &topology.Error{
			Kind: topology.ErrInvalid,
			Item: "network " + name,
			What: fmt.Sprintf("it has no %s prefix", f),
		}
	}
	if name == "" {
		return netip.Prefix{}, &topology.Error{
			Kind: topology.ErrInvalid, Item: fmt.Sprintf("%s subnet", f), What: "none is given",
			Remedy: "give one with --subnet, or name a network that is there with '--ipam-opt " + OptionNetwork +
				"=NAME': " + strings.Join(names, ", "),
		}
	}
	return netip.Prefix{}, &topology.Error{
		Kind:   topology.ErrNotFound,
		Item:   "network " + name,
		What:   "there is none of that name, so it has no subnet yet",
		Remedy: "give one with --subnet, or choose of " + strings.Join(names, ", "),
	}
}

// resolve finds the network of a pool; "" where it is not yet created.
func (p *Plugin) resolve(ctx context.Context, q pool) (string, error) {
	if q.Network != "" {
		return q.Network, nil
	}
	if name := p.unnamed(q.Prefix); name != "" {
		return name, nil
	}
	p.mu.Lock()
	asked := slices.ContainsFunc(p.pools, func(o pool) bool { return o == q })
	p.mu.Unlock()
	if asked {
		return "", nil
	}
	// The file was lost, or the agent was restarted while the engine creates the
	// network.
	known, err := p.engine.networks(ctx)
	if err != nil {
		return "", err
	}
	if err := p.adopt(ctx, known); err != nil {
		return "", err
	}
	return p.unnamed(q.Prefix), nil
}

func (p *Plugin) unnamed(prefix netip.Prefix) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.networks {
		if n.Unnamed && slices.Contains(n.Pools, prefix) {
			return n.Network
		}
	}
	return ""
}

// inUse reports whether the engine has a network with a pool of the network of
// that name.
func (p *Plugin) inUse(name string, prefix netip.Prefix) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.networks {
		if n.Network == name && slices.Contains(n.Pools, prefix) {
			return true
		}
	}
	return false
}

// auxOf are the addresses of a network that are kept for somebody.
func (p *Plugin) auxOf(network string) []netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []netip.Addr
	for _, n := range p.networks {
		if n.Network == network {
			out = append(out, n.Aux...)
		}
	}
	return out
}

func (p *Plugin) requestAddress(ctx context.Context, r addressRequest) (addressAnswer, error) {
	p.taken()
	q, err := parsePool(r.PoolID)
	if err != nil {
		return addressAnswer{}, err
	}
	var want netip.Addr
	if r.Address != "" {
		if want, err = parseAddr(r.Address); err != nil || !q.Prefix.Contains(want) {
			return addressAnswer{}, &topology.Error{
				Kind:   topology.ErrInvalid,
				Item:   "address " + r.Address,
				What:   "outside of subnet " + q.Prefix.String(),
				Remedy: "choose one in it",
			}
		}
	}
	answer := func(a netip.Addr) addressAnswer {
		return addressAnswer{Address: netip.PrefixFrom(a, q.Prefix.Bits()).String()}
	}
	name, err := p.resolve(ctx, q)
	if err != nil {
		return addressAnswer{}, err
	}
	if r.Options[keyAddressType] == keyGateway {
		a, err := p.gateway(ctx, name, q.Prefix, want)
		return answer(a), err
	}
	f := topology.FamilyOf(q.Prefix.Addr())
	if want.IsValid() && !p.inUse(name, q.Prefix) {
		return answer(want), nil // --aux-address of a network to come
	}
	if name == "" {
		return addressAnswer{}, &topology.Error{
			Kind:   topology.ErrNotFound,
			Item:   "subnet " + q.Prefix.String(),
			What:   "no network of Docker has it",
			Remedy: "remove the network and create it again",
		}
	}
	aux := p.auxOf(name)
	if slices.Contains(aux, want) {
		return addressAnswer{}, &topology.Error{
			Kind:   topology.ErrConflict,
			Item:   "address " + want.String(),
			What:   "kept with --aux-address",
			Remedy: "choose another",
		}
	}
	got, err := p.node.Reserve(
		ctx,
		attach.Reservation{
			Network: name, Family: f, Addr: want, Range: q.Range, Excluded: aux, Request: requestName(ctx),
		},
	)
	if err != nil {
		return addressAnswer{}, err
	}
	return answer(got), nil
}

// proposedGateway is in the part of a network that no node leases.
func proposedGateway(prefix netip.Prefix) netip.Addr { return prefix.Masked().Addr().Next() }

// gateway answers what an engine asks of every network: an address of the
// gateway. Containers get it only with OptionGateway.
func (p *Plugin) gateway(ctx context.Context, name string, prefix netip.Prefix, want netip.Addr) (netip.Addr, error) {
	custom := proposedGateway(prefix)
	f := topology.FamilyOf(custom)
	there := false
	if name != "" {
		all, err := p.node.Networks(ctx)
		if err != nil {
			return custom, err
		}
		for _, n := range all {
			if n.Name != name {
				continue
			}
			there = true
			if g := n.Gateway(f); g.IsValid() {
				custom = g
			}
		}
	}
	if want.IsValid() && !there {
		return want, nil // of a network to come, which gets it
	}
	if want.IsValid() && want != custom {
		return want, &topology.Error{
			Kind: topology.ErrConflict, Item: "--gateway " + want.String(),
			What:   "the gateway of the network is " + custom.String(),
			Remedy: "leave --gateway out, or set it for all with 'baize network update --gateway " + want.String() + "'",
		}
	}
	return custom, nil
}

func (p *Plugin) releaseAddress(ctx context.Context, r addressRelease) error {
	q, err := parsePool(r.PoolID)
	if err != nil {
		return err
	}
	a, err := parseAddr(r.Address)
	if err != nil {
		return err
	}
	if name, err := p.resolve(ctx, q); err == nil && name != "" {
		p.node.Release(name, a)
	}
	return nil
}
