package ovsfake

import (
	"net/netip"

	"github.com/baize-net/baize/ovs/forward"
)

// Fabric joins the tunnels of several switches: a packet that leaves one by a
// tunnel port arrives at the tunnel port of the switch that has the other end's
// address. An address may be several switches': then each gets a copy.
type Fabric struct {
	// Switches by the addresses they have in the underlay.
	Switches map[netip.Addr][]*Switch
	// Down, unless nil, says that no packet passes from one address to another.
	Down func(from, to netip.Addr) bool
	// Seen, unless nil, is told of every switch that gets a packet.
	Seen func(*Switch)
}

// Arrival is a packet that leaves the fabric by a port that is no tunnel.
type Arrival struct {
	Switch *Switch
	Port   string
	Packet forward.Packet
}

// Send lets a packet into a switch by a port and returns where it comes out,
// on whatever switch. Lost are packets that went into a tunnel with nobody at
// its end.
func (f *Fabric) Send(s *Switch, port string, p forward.Packet) (out []Arrival, lost int) {
	type hop struct {
		s    *Switch
		port string
		p    forward.Packet
	}
	queue := []hop{{s, port, p}}
	for steps := 0; len(queue) > 0 && steps < 10_000; steps++ {
		h := queue[0]
		queue = queue[1:]
		if f.Seen != nil {
			f.Seen(h.s)
		}
		for _, o := range h.s.Receive(h.port, h.p).Outputs {
			local, remote, kind, ok := h.s.tunnel(o.Port)
			if !ok {
				if o.Port != "" {
					out = append(out, Arrival{h.s, o.Port, o.Packet})
				}
				continue
			}
			arrived := false
			for _, peer := range f.Switches[remote] {
				name := peer.tunnelTo(kind, remote, local)
				if name == "" || (f.Down != nil && f.Down(local, remote)) {
					continue
				}
				arrived = true
				queue = append(queue, hop{peer, name, o.Packet.Decapsulated()})
			}
			if !arrived {
				lost++
			}
		}
	}
	return out, lost
}

func (f *Switch) tunnel(port string) (local, remote netip.Addr, kind string, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.Ports[port]
	if !isTunnel(p.Type) {
		return local, remote, "", false
	}
	local, _ = netip.ParseAddr(p.Options["local_ip"])
	remote, _ = netip.ParseAddr(p.Options["remote_ip"])
	return local, remote, p.Type, true
}

// tunnelTo returns the live port that takes packets of a tunnel.
func (f *Switch) tunnelTo(kind string, local, remote netip.Addr) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, p := range f.Ports {
		ends := p.Options["local_ip"] == local.String() && p.Options["remote_ip"] == remote.String()
		if p.Type == kind && p.Live() && ends {
			return name
		}
	}
	return ""
}
