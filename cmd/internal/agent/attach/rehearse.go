package attach

import (
	"net/netip"

	"github.com/baize-net/baize/cmd/internal/agent/addresses"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// rehearse says what endpoint a request would make. Nothing is leased, asked or written for
// it, and nothing is kept: the next request may get its address. Where the node has to lease
// a subnet first, only the addresses that were asked for are known. Its port has no name.
func (p *Part) rehearse(req api.EndpointRequest) (ovs.Endpoint, error) {
	e, t, err := p.requested(req)
	if err != nil {
		return e, err
	}
	e.Node, e.Port = p.hub.Self().Node, ""
	have, there := t.Snapshot.Networks[e.Network]
	if err := have.CheckOpen(); err != nil {
		return e, err
	}
	n, err := p.view(t, e.Network)
	if there && have.Layout == "" && (err != nil || !hasSubnets(n)) {
		e.IPs = req.IPs
		return e, nil
	}
	if err == nil {
		err = p.checkStatic(t, n, req.IPs)
	}
	if err != nil {
		return e, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	full, err := p.fit(n, &e, req.IPs, req.MoveFrom)
	if full != 0 {
		e.IPs, err = req.IPs, nil
	}
	return e, err
}

// fit fills in addresses and MAC. full names the family that the node's subnets have no
// address left in. It needs p.mu.
func (p *Part) fit(
	n topology.NetworkView, e *ovs.Endpoint, static []netip.Addr, from string,
) (full topology.Family, err error) {
	if err := p.checkOpen(n.Name); err != nil {
		return 0, err
	}
	if _, there := p.find(*e); there {
		return 0, &topology.Error{
			Kind: topology.ErrExists, Item: "endpoint " + e.Name, What: "is in network " + e.Network + " already",
			Remedy: "remove it first, or choose another name",
		}
	}
	if e.IPs, full, err = addresses.ChooseAll(n, static, p.occupiedBut(n.Name, static, from)); err != nil {
		return full, err
	}
	if e.MAC == nil {
		e.MAC = topology.MACOf(e.IPs[0])
	}
	return 0, p.checkMAC(n, *e)
}
