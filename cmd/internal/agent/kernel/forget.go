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
// that came to this host from another one. Those that went are leaving. Which there are at
// the first pass says nothing: an agent that starts finds endpoints at work.
//
// The table is read as a whole, which takes a second where it has hundreds of thousands:
// a container that starts with an address that never left this host does not wait for it.
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
	forwarded := map[string]topology.NetworkView{}
	for _, n := range v.Networks {
		if _, ok := n.Host(); ok {
			forwarded[n.Name] = n
		}
	}
	now := map[owner]bool{}
	for _, e := range known.All() {
		for _, a := range e.IPs {
			if _, ok := forwarded[e.Network]; ok {
				now[owner{e.Network, e.Port, a}] = true
			}
		}
	}
	p.noteAway(v.Node.Name, forwarded)
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
		abroad := owner{network: o.network, addr: o.addr}
		if !before[o] && (p.away[abroad] || !isHome(forwarded[o.network], o.addr)) {
			came = append(came, o.addr)
			delete(p.away, abroad)
		}
	}
	return distinct(came)
}

// noteAway notes which addresses of this node's subnets live on other nodes. Their pins may be
// gone before they come home.
func (p *Part) noteAway(self string, networks map[string]topology.NetworkView) {
	for _, n := range networks {
		for _, pin := range n.Pins {
			if pin.Node != self && isHome(n, pin.Addr) {
				p.away[owner{network: n.Name, addr: pin.Addr}] = true
			}
		}
	}
}

func isHome(n topology.NetworkView, a netip.Addr) bool {
	return slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(a) })
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
