package command

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

// Endpoints are records of their nodes; etcd has the pins of those addresses that lie
// outside of the nodes' subnets. A dry run shows both.

// ownEndpoint finds an endpoint of this node by its name, with its network's before it or
// without, or by its container's.
func (r *runner) ownEndpoint(c *ucli.Context, name string) (api.Endpoint, error) {
	list, err := waiting(r, c, "asking the agent", func(ctx context.Context) ([]api.Endpoint, error) {
		return r.agentClient(c).Endpoints(ctx)
	})
	if err != nil {
		return api.Endpoint{}, err
	}
	var found, called []api.Endpoint
	var names []string
	for _, e := range list {
		names = append(names, e.Name, e.Container)
		switch {
		case e.Name == name || e.Network+"/"+e.Name == name:
			found = append(found, e)
		case e.Is(name):
			called = append(called, e)
		}
	}
	if len(found) == 0 {
		found = called
	}
	switch len(found) {
	case 0:
		return api.Endpoint{}, notFound("endpoint", name, names, "'baize endpoint list' shows those of this node")
	case 1:
		return found[0], nil
	}
	return api.Endpoint{}, &topology.Error{
		Kind: topology.ErrConflict, Item: "endpoint " + name, What: "there is one in several networks",
		Remedy: "name it " + found[0].Network + "/" + found[0].Name,
	}
}

// rehearseAdd shows what 'endpoint add' would make. The owner of an address is not asked.
func (r *runner) rehearseAdd(c *ucli.Context, req api.EndpointRequest) error {
	return r.withSnapshot(c, func(_ *etcdstore.Store, snap *topology.Snapshot) error {
		req.DryRun = true
		e, err := r.agentClient(c).AddEndpoint(c.Context, req)
		if err != nil {
			return err
		}
		if len(e.IPs) < len(snap.Networks[e.Network].Families()) {
			fmt.Fprintf(r.Err, "node %s leases a subnet of network %s first: the addresses not given are of that\n",
				e.Node, e.Network)
		}
		changes := []etcdstore.RehearsedChange{endpointChange(e, false)}
		for _, ip := range e.IPs {
			home, leased := snap.Home(e.Network, ip)
			if leased && home.Node == e.Node {
				continue
			}
			if leased {
				fmt.Fprintf(r.Err, "node %s leases %s, and is asked first whether %s is free\n", home.Node, home.Prefix, ip)
			}
			changes = append(changes, pinChange(snap, pinOf(e, ip)))
		}
		return r.showRehearsal(c, changes)
	})
}

// rehearseMove shows what 'endpoint move' would do.
func (r *runner) rehearseMove(
	c *ucli.Context, snap *topology.Snapshot, old api.Endpoint, req api.EndpointRequest,
) error {
	req.DryRun = true
	e, err := r.agentClient(c).AddEndpoint(c.Context, req)
	if err != nil {
		return err
	}
	changes := []etcdstore.RehearsedChange{endpointChange(old, true), endpointChange(e, false)}
	for _, ip := range e.IPs {
		pin := pinOf(e, ip)
		pin.MovedFrom = old.Node
		changes = append(changes, pinChange(snap, pin))
	}
	return r.showRehearsal(c, changes)
}

// rehearseRemove shows what 'endpoint remove' would remove.
func (r *runner) rehearseRemove(c *ucli.Context, name string) error {
	return r.withSnapshot(c, func(_ *etcdstore.Store, snap *topology.Snapshot) error {
		e, err := r.ownEndpoint(c, name)
		if err != nil {
			return err
		}
		changes := []etcdstore.RehearsedChange{endpointChange(e, true)}
		for _, ip := range e.IPs {
			pin, pinned := snap.Pins[topology.PinID{Network: e.Network, Addr: ip}]
			if pinned && pin.Node == e.Node && pin.MAC == e.MAC {
				changes = append(changes, etcdstore.RehearsedChange{Key: pin.Key(), Before: topology.Encode(pin)})
			}
		}
		return r.showRehearsal(c, changes)
	})
}

// endpointChange is an endpoint that comes to its node, or leaves it.
func endpointChange(e api.Endpoint, leaves bool) etcdstore.RehearsedChange {
	b, _ := json.Marshal(e) // its fields are texts and addresses
	x := etcdstore.RehearsedChange{Key: "endpoint " + e.Network + "/" + e.Name + " of node " + e.Node, After: b}
	if leaves {
		x.Before, x.After = b, nil
	}
	return x
}

func pinOf(e api.Endpoint, ip netip.Addr) topology.Pin {
	return topology.Pin{Network: e.Network, Addr: ip, Node: e.Node, MAC: e.MAC, Endpoint: e.Name}
}

// pinChange is a pin that is written, over one that is there or not.
func pinChange(snap *topology.Snapshot, pin topology.Pin) etcdstore.RehearsedChange {
	x := etcdstore.RehearsedChange{Key: pin.Key(), After: topology.Encode(pin)}
	if have, there := snap.Pins[topology.PinID{Network: pin.Network, Addr: pin.Addr}]; there {
		x.Before = topology.Encode(have)
	}
	return x
}
