package kernel

import (
	"context"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/topology"
)

// owner is an address of an endpoint of this host, in a network that the kernel forwards.
type owner struct {
	network, port string
	addr          netip.Addr
}

// moved compares the endpoints with those of the pass before, and returns the addresses
// that came to this host and those that went. Which there are at the first pass says
// nothing: an agent that starts finds endpoints at work.
//
// The kernel's table of connections has states of TCP, translations and expectations of
// who had the address here before. What a connection does while its endpoint is on
// another host they do not see, and a rule that drops what is out of their windows ("ct
// state invalid") would end it when the endpoint comes home.
func (p *Part) moved(v topology.View) (came, went []netip.Addr) {
	known := p.known.Get()
	if !known.Complete {
		return nil, nil
	}
	forwarded := map[string]bool{}
	for _, n := range v.Networks {
		_, forwarded[n.Name] = n.Host()
	}
	now := map[owner]bool{}
	for _, e := range known.All() {
		for _, a := range e.IPs {
			if forwarded[e.Network] {
				now[owner{e.Network, e.Port, a}] = true
			}
		}
	}
	before := p.owners
	p.owners = now
	if before == nil {
		return nil, nil
	}
	return missing(now, before), missing(before, now)
}

// missing returns the addresses of those that are not among others, sorted.
func missing(all, among map[owner]bool) (out []netip.Addr) {
	for o := range all {
		if !among[o] && !slices.Contains(out, o.addr) {
			out = append(out, o.addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// forget makes the kernel forget connections. That it cannot costs nothing else.
func (p *Part) forget(ctx context.Context, addrs []netip.Addr) {
	if len(addrs) == 0 {
		return
	}
	n, err := p.host.Forget(ctx, addrs)
	if err != nil {
		p.log.WithError(err).Warnf("connections of %v are not forgotten: 'conntrack -D' does it by hand", addrs)
		return
	}
	p.log.Debugf("%d connections of %v are forgotten", n, addrs)
}
