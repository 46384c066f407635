package flannel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
	"github.com/baize-net/baize/topology/source"
)

const (
	// lookEvery is how often the node's lease is looked at when nothing happens,
	// lookTimeout bounds one look, retryFirst and retryLast the wait after one that
	// failed.
	lookEvery   = time.Minute
	lookTimeout = 30 * time.Second
	retryFirst  = 200 * time.Millisecond
	retryLast   = 5 * time.Second
	// cacheAfter is how long a start waits for the keys before it uses what was
	// seen last.
	cacheAfter = 3 * time.Second
)

// Env is what the host's subnet file says (flannel's subnet.env).
type Env struct {
	Network, IPv6Network netip.Prefix
	Subnet, IPv6Subnet   netip.Prefix
	MTU                  int
}

// Options is what a source is made with.
type Options struct {
	// Node is the name of the node that asks.
	Node string
	// Keys are flannel's in etcd; nil where Registry has the leases.
	Keys     Keys
	Registry Registry
	// Cache may be nil: then nothing is kept.
	Cache source.Cache
	// Changed is called, without a lock held, when Merge has something new.
	Changed func()
	// Member returns the node as it is now, or source.ErrNotYet before it is
	// registered. Another error is a fault. nil: Run only follows the keys, and the
	// caller calls Join.
	Member func(ctx context.Context) (source.Member, error)
	// WriteEnv writes the subnet file, unless it says the same already, ReadEnv
	// reads it: flanneld, or an agent before this one, may have written it.
	WriteEnv func(Env) error
	ReadEnv  func() (Env, error)
	// Logf receives what an operator wants to have read; may be nil.
	Logf func(format string, args ...any)
}

// Source is flannel's network as a topology source.
type Source struct {
	o        Options
	registry Registry
	wake     chan struct{}

	mu     sync.Mutex
	raw    *topology.Snapshot // nil before the registry was seen
	gone   bool               // the configuration was deleted: raw is as it was before
	merged memo
	lease  Lease
	ready  bool
	// watchErr is why the keys cannot be read, joinErr why the node has no lease.
	watchErr, joinErr error
}

var _ source.Source = (*Source)(nil)

// memo is the last result of Merge, and what it was made of.
type memo struct{ own, raw, out *topology.Snapshot }

// NewSource returns a source. It starts nothing.
func NewSource(o Options) *Source {
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	s := &Source{o: o, registry: o.Registry, wake: make(chan struct{}, 1)}
	if s.registry == nil {
		s.registry = &keysRegistry{keys: o.Keys, node: o.Node, logf: o.Logf}
	}
	return s
}

// Name implements source.Source.
func (s *Source) Name() string { return s.registry.Layout() }

// Wake implements source.Source.
func (s *Source) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Ready implements source.Source: the subnet file is written.
func (s *Source) Ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

// Run implements source.Source.
func (s *Source) Run(ctx context.Context) error {
	fallback := time.AfterFunc(cacheAfter, s.useCache)
	defer fallback.Stop()
	if s.o.Cache != nil {
		defer s.o.Cache.Flush()
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var joined sync.WaitGroup
	if s.o.Member != nil {
		joined.Go(func() {
			if err := fault.Protect(func() error { s.joinLoop(ctx); return nil }); err != nil {
				end(err)
			}
		})
	}
	err := s.registry.Watch(ctx, s.seen)
	end(err)
	joined.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// seen takes what the watch delivers.
func (s *Source) seen(last *topology.Snapshot, err error) {
	s.mu.Lock()
	s.watchErr = err
	if err == nil {
		s.take(last)
	}
	keep := s.raw
	s.mu.Unlock()
	if err == nil && s.o.Cache != nil {
		s.o.Cache.Save(keep)
	}
	s.o.Changed()
	s.Wake()
}

// take needs s.mu. Keys without the configuration are not believed once there
// was one: somebody deleted it, or it was migrated and Baize's own keys are
// about to say so. Either way no packet shall be lost.
func (s *Source) take(last *topology.Snapshot) {
	_, has := last.Raw[ConfigKey]
	had := false
	if s.raw != nil {
		_, had = s.raw.Raw[ConfigKey]
	}
	s.gone = had && !has
	if !s.gone {
		s.raw = last
	}
}

// useCache takes the keys as they were seen last, unless they were seen since.
func (s *Source) useCache() {
	s.mu.Lock()
	seen := s.raw != nil
	s.mu.Unlock()
	if s.o.Cache == nil || seen {
		return
	}
	last, err := s.o.Cache.Load()
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.o.Logf("%v", err)
		}
		return
	}
	s.mu.Lock()
	use := s.raw == nil
	if use {
		s.raw = last
	}
	s.mu.Unlock()
	if use {
		s.o.Logf("%s cannot be read: using what was there at revision %d, seen last", s.registry.Where(), last.Revision)
		s.o.Changed()
	}
}

// Merge implements source.Source.
func (s *Source) Merge(own *topology.Snapshot) (*topology.Snapshot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if own == nil || s.raw == nil {
		return nil, false
	}
	last := s.merged
	switch {
	case last.raw != s.raw || !sameRecords(last.own, own):
		last.out = s.registry.Merge(own, s.raw)
		s.Wake()
	case last.own != own:
		// Liveness and names change often, and nothing here comes from them.
		out := *own
		out.Networks, out.Nodes = last.out.Networks, last.out.Nodes
		out.Subnets, out.Malformed = last.out.Subnets, last.out.Malformed
		last.out = &out
	}
	last.own, last.raw = own, s.raw
	s.merged = last
	return last.out, true
}

// sameRecords compares what Merge uses, by identity: a snapshot shares what did
// not change with the one before.
func sameRecords(a, b *topology.Snapshot) bool {
	if a == nil || b == nil {
		return a == b
	}
	for _, m := range [][2]any{
		{a.Networks, b.Networks}, {a.Nodes, b.Nodes}, {a.Subnets, b.Subnets}, {a.Malformed, b.Malformed},
	} {
		if reflect.ValueOf(m[0]).Pointer() != reflect.ValueOf(m[1]).Pointer() {
			return false
		}
	}
	return true
}

// joinLoop keeps the node's lease.
func (s *Source) joinLoop(ctx context.Context) {
	backoff := retryFirst
	for ctx.Err() == nil {
		err := s.look(ctx)
		next := lookEvery
		if err != nil {
			next, backoff = backoff, min(2*backoff, retryLast)
		} else {
			backoff = retryFirst
		}
		s.mu.Lock()
		same := fmt.Sprint(s.joinErr) == fmt.Sprint(err)
		s.joinErr = err
		s.mu.Unlock()
		if err != nil && !same && ctx.Err() == nil {
			s.o.Logf("flannel's lease: %v", err)
		}
		t := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

func (s *Source) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	m, err := s.o.Member(ctx)
	if errors.Is(err, source.ErrNotYet) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.Join(ctx, m)
}

// Join leases the node's subnet as flannel would, keeps the lease, and writes
// the subnet file for those who start containers. After the migration the
// subnet is one of Baize's own keys, and only the file is kept.
func (s *Source) Join(ctx context.Context, m source.Member) error {
	s.mu.Lock()
	merged, watchErr := s.merged.out, s.watchErr
	s.mu.Unlock()
	switch {
	case watchErr != nil:
		if merged != nil {
			s.lookAtEnv(merged)
		}
		return watchErr
	case merged == nil:
		return nil // Merge wakes us
	}
	n, ok := merged.Networks[Network]
	if !ok {
		return s.noNetwork(merged)
	}
	subnets := merged.NodeSubnets(n.Name, s.o.Node)
	prefixes := make([]netip.Prefix, 0, len(subnets))
	for _, sub := range subnets {
		prefixes = append(prefixes, sub.Prefix)
	}
	if n.Layout == s.Name() {
		l, err := s.keepLease(ctx, n, m)
		if err != nil {
			return err
		}
		prefixes = l.Prefixes()
	}
	return s.writeEnv(n, prefixes)
}

// noNetwork returns why there is no network of flannel's.
func (s *Source) noNetwork(merged *topology.Snapshot) error {
	f, ok := merged.Malformed[malformedKey(ConfigKey)]
	if !ok {
		return nil
	}
	return &topology.Error{Kind: topology.ErrNotFound, Code: f.Code, Item: f.Item, What: f.What, Remedy: f.Remedy}
}

// lookAtEnv finds out whether the subnet file has what is in force, as an agent before
// this one wrote it: then nobody has to wait until the registry can be read.
func (s *Source) lookAtEnv(merged *topology.Snapshot) {
	n := merged.Networks[Network]
	var prefixes []netip.Prefix
	for _, sub := range merged.NodeSubnets(n.Name, s.o.Node) {
		prefixes = append(prefixes, sub.Prefix)
	}
	env := envOf(n, prefixes)
	have, err := s.o.ReadEnv()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = s.ready || (err == nil && env.has() && have == env)
}

// has reports whether there is a subnet: with IPv4, unless the network has none.
func (e Env) has() bool {
	return e.Subnet.IsValid() || (!e.Network.IsValid() && e.IPv6Subnet.IsValid())
}

func envOf(n topology.Network, subnets []netip.Prefix) Env {
	env := Env{Network: n.IPv4, IPv6Network: n.IPv6, MTU: n.MTU}
	for _, p := range subnets {
		if p.Addr().Is4() {
			env.Subnet = p
		} else {
			env.IPv6Subnet = p
		}
	}
	return env
}

func (s *Source) writeEnv(n topology.Network, subnets []netip.Prefix) error {
	env := envOf(n, subnets)
	if !env.has() {
		return nil // to be leased yet, in Baize's layout
	}
	if err := s.o.WriteEnv(env); err != nil {
		return fmt.Errorf("write the subnet's file: %w", err)
	}
	s.mu.Lock()
	s.ready = true
	s.mu.Unlock()
	return nil
}

// keepLease makes the lease that of this node, and keeps it.
func (s *Source) keepLease(ctx context.Context, n topology.Network, m source.Member) (Lease, error) {
	want := WantLease(n, topology.Node{Name: s.o.Node, VTEPs: m.Underlay})
	if addr, _ := want.end(); !addr.IsValid() {
		family := "IPv4"
		if !n.IPv4.IsValid() {
			family = "IPv6"
		}
		return want, &topology.Error{
			Kind: topology.ErrInvalid, Code: fault.UnderlayFamily, Item: "node " + s.o.Node,
			What: "has no " + family + " underlay address, which flannel knows hosts by", Remedy: "set one with --vtep",
		}
	}
	s.mu.Lock()
	have, raw := s.lease, s.raw
	s.mu.Unlock()
	l, err := s.registry.Keep(ctx, raw, have, want, s.prefer(n, m, have))
	if err != nil {
		return l, err
	}
	if !slices.Equal(l.Prefixes(), have.Prefixes()) {
		s.o.Logf("leased %v of flannel's network", l.Prefixes())
	}
	s.mu.Lock()
	s.lease = l
	s.mu.Unlock()
	return l, nil
}

// prefer returns the subnets that containers of this node have addresses of:
// endpoints, or those that Docker started with what the file says. The file is a
// hint, and flanneld reads it, too.
func (s *Source) prefer(n topology.Network, m source.Member, have Lease) []netip.Prefix {
	var out []netip.Prefix
	add := func(p netip.Prefix) {
		if p.IsValid() && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	for _, ip := range m.InUse[n.Name] {
		if p, err := ip.Prefix(n.SubnetLen(topology.FamilyOf(ip))); err == nil {
			add(p)
		}
	}
	add(have.Subnet)
	add(have.IPv6Subnet)
	if e, err := s.o.ReadEnv(); err == nil {
		add(e.Subnet)
		add(e.IPv6Subnet)
	}
	return out
}

// WantLease is what a Baize node says of itself in its lease. The link address
// of VXLAN tunnels is there with every backend: flannel does not mind it, and
// Baize nodes are recognised by it.
func WantLease(n topology.Network, self topology.Node) Lease {
	l := Lease{BackendType: VXLAN}
	if n.Transport == topology.Route {
		l.BackendType = HostGW
	}
	vtep := VTEP{VNI: n.VNI, MAC: topology.RouterMAC(self).String()}
	only6 := n.IPv6.IsValid() && !n.IPv4.IsValid()
	if ip, ok := self.VTEP(topology.IPv4); ok && !only6 {
		l.PublicIP, l.VTEP = ip, vtep
	}
	if ip, ok := self.VTEP(topology.IPv6); ok && n.IPv6.IsValid() && (l.PublicIP.IsValid() || only6) {
		l.PublicIPv6 = ip
		if l.BackendType == VXLAN || only6 {
			l.IPv6VTEP = vtep
		}
	}
	return l
}

// Faults implements source.Source. What is wrong with single leases is in the
// merged topology.
func (s *Source) Faults() []fault.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []fault.Fault
	if s.watchErr != nil {
		f := fault.Of(s.watchErr)
		f.Code, f.What = fault.SourceUnavailable, f.Item+": "+f.What
		f.Item = s.registry.Where()
		out = append(out, f)
	} else {
		out = fault.All(s.joinErr)
	}
	if s.gone && s.merged.out != nil && s.merged.out.Networks[Network].Layout == s.Name() {
		out = append(out, fault.Fault{
			Code: fault.SourceMalformed, Item: "flannel's " + ConfigKey,
			What:   "is gone: forwarding goes on by what it was",
			Remedy: "put it back: " + s.registry.PutConfig(),
		})
	}
	return append(out, s.ignored()...)
}

// ignored says what keeps flannel hosts from using this node's lease. It needs
// s.mu.
func (s *Source) ignored() []fault.Fault {
	if s.merged.out == nil {
		return nil
	}
	n := s.merged.out.Networks[Network]
	if n.Layout != s.Name() || !n.IPv6.IsValid() {
		return nil
	}
	self, joined := s.merged.out.Nodes[s.o.Node]
	if _, dual := self.VTEP(topology.IPv6); dual || !joined {
		return nil
	}
	for _, peer := range s.merged.out.Nodes {
		if peer.Router != nil && peer.Layout == s.Name() {
			return []fault.Fault{{
				Code: fault.SourceIgnoresNode, Item: "node " + s.o.Node,
				What: "has no IPv6 underlay address: hosts that run flannel ignore its lease, for IPv4 as well, " +
					"where flannel's configuration has EnableIPv6",
				Remedy: "give its underlay interface a global IPv6 address",
			}}
		}
	}
	return nil
}

// Files implements source.Source. The subnet file is none of them: Docker was started
// with it.
func (s *Source) Files() []string {
	if s.o.Cache == nil {
		return nil
	}
	return []string{s.o.Cache.File()}
}
