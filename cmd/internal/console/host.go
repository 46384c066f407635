package console

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/cmd/internal/draw"
	"github.com/baize-net/baize/topology"
)

// HostTunnels is what a host's page needs beside the state: one tunnel for each peer
// and encapsulation.
type HostTunnels struct {
	Name    string   `json:"name"`
	Tunnels []Tunnel `json:"tunnels"`
}

// Tunnel joins a host to a peer.
type Tunnel struct {
	Peer string `json:"peer"`
	// Status is the peer's.
	Status   draw.Status        `json:"status"`
	Encap    topology.Transport `json:"encap"`
	Local    netip.Addr         `json:"local"`
	Remote   netip.Addr         `json:"remote"`
	Networks []string           `json:"networks"`
}

// TunnelsOf computes the tunnels of one host; ok is false where there is no such host.
// It is pure.
func TunnelsOf(snap *topology.Snapshot, host string) (out HostTunnels, ok bool) {
	if snap == nil || snap.Nodes[host].Name == "" {
		return out, false
	}
	out = HostTunnels{Name: host, Tunnels: []Tunnel{}}
	type id struct {
		peer  string
		encap topology.Transport
	}
	at := map[id]int{}
	for _, n := range snap.View(host).Networks {
		for _, p := range n.Peers {
			if p.Encap == "" {
				continue
			}
			k := id{p.Node, p.Encap}
			i, known := at[k]
			if !known {
				i = len(out.Tunnels)
				at[k] = i
				out.Tunnels = append(out.Tunnels, Tunnel{
					Peer: p.Node, Status: draw.StatusOf(snap, p.Node), Encap: p.Encap, Local: p.Local, Remote: p.Remote,
				})
			}
			out.Tunnels[i].Networks = append(out.Tunnels[i].Networks, n.Name)
		}
	}
	slices.SortFunc(out.Tunnels, func(a, b Tunnel) int {
		return cmp.Or(topology.CompareNames(a.Peer, b.Peer), cmp.Compare(a.Encap, b.Encap))
	})
	return out, true
}
