package kernel

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/baize-net/baize/topology"
)

// owner is an address of an endpoint of this host, in a network that the kernel forwards.
type owner struct {
	network, port string
	addr          netip.Addr
}

// leavingPause is how long after a look at a port that is to go there is another one.
const leavingPause = 500 * time.Millisecond

// moved compares the endpoints with those of the pass before, and returns the addresses
// that came to this host. Those that went are leaving. Which there are at the first pass
// says nothing: an agent that starts finds endpoints at work.
//
// The kernel's table of connections has states of TCP, translations and expectations of
// who had the address here before. What a connection does while its endpoint is on
// another host they do not see, and a rule that drops what is out of their windows ("ct
// state invalid") would end it when the endpoint comes home.
func (p *Part) moved(v topology.View) (came []netip.Addr) {
	known := p.known.Get()
	if !known.Complete {
		return nil
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
		return nil
	}
	for o := range before {
		if !now[o] {
			p.leaving[o] = true
		}
	}
	for o := range now {
		if !before[o] {
			came = append(came, o.addr)
		}
	}
	return distinct(came)
}

// left returns the addresses of endpoints that went and whose ports are gone: what an
// endpoint sends until then would be a connection again.
func (p *Part) left() (out []netip.Addr) {
	ports := p.outcome.Get().Observed.Ports
	for o := range p.leaving {
		if _, there := ports[o.port]; !there {
			out = append(out, o.addr)
			delete(p.leaving, o)
		}
	}
	if len(p.leaving) > 0 {
		time.AfterFunc(leavingPause, p.wake.Wake)
	}
	return distinct(out)
}

// distinct sorts addresses and leaves each in once.
func distinct(in []netip.Addr) []netip.Addr {
	slices.SortFunc(in, netip.Addr.Compare)
	return slices.Compact(in)
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
