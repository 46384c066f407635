package pipeline

import (
	"encoding/base32"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
)

// Names of ports are for people. What a port is stands in its external_ids
// (ovs.TunnelID, ovs.KeyNetwork), and readers look there; but no two ports may
// have one name. So all names of a view are computed in one place.

// maxIfname is the longest name of a network device (IFNAMSIZ less the NUL).
const maxIfname = 15

// tunnelPrefix is what a tunnel's port name starts with.
func tunnelPrefix(t topology.Transport) string {
	e, _ := topology.EncapsulationOf(t)
	return e.PortPrefix
}

// hostPrefix is what the name of the host's own port in a network starts with.
const hostPrefix = "bn-"

// endpointPrefix is what the names of ports start with that are named after containers and
// endpoints.
const endpointPrefix = "bz-"

// secondTunnel is added to a peer's name for the tunnel over IPv6 that it has
// beside the one over IPv4. No name of a node has a space in it.
const secondTunnel = " IPv6"

// Names are the names of the ports that a view needs.
type Names struct {
	tunnels map[topology.Transport]map[string]string // by encapsulation and the peer's name
	hosts   map[string]string                        // by network
}

// NamesOf returns the names of a view's ports. Equal views have equal names, and
// no two ports one name.
func NamesOf(v topology.View) Names { return namedIn(v).names() }

// named is what has ports named after it: networks, and by encapsulation peers.
type named struct {
	networks []string
	peers    map[topology.Transport][]string
}

func namedIn(v topology.View) named {
	out := named{make([]string, 0, len(v.Networks)), map[topology.Transport][]string{}}
	for _, n := range v.Networks {
		out.networks = append(out.networks, n.Name)
		for i := range n.Peers {
			p := &n.Peers[i]
			if p.Encap == "" {
				continue
			}
			names := out.peers[p.Encap]
			if names == nil {
				names = make([]string, 0, len(n.Peers))
			}
			names = append(names, p.Node)
			if hasSecond(p) {
				names = append(names, p.Node+secondTunnel)
			}
			out.peers[p.Encap] = names
		}
	}
	return out
}

func (n named) equal(o named) bool {
	return slices.Equal(n.networks, o.networks) && maps.EqualFunc(n.peers, o.peers, slices.Equal[[]string])
}

func (n named) names() Names {
	out := Names{
		tunnels: make(map[topology.Transport]map[string]string, len(n.peers)), hosts: HostPortNames(n.networks),
	}
	for encap, names := range n.peers {
		out.tunnels[encap] = portNames(tunnelPrefix(encap), names)
	}
	return out
}

// Tunnel returns the name of the port to a peer.
func (n Names) Tunnel(t topology.Transport, peer string) string {
	if name, ok := n.tunnels[t][peer]; ok {
		return name
	}
	return TunnelName(t, peer)
}

// Host returns the name of the host's own port in a network.
func (n Names) Host(network string) string {
	if name, ok := n.hosts[network]; ok {
		return name
	}
	return HostPortName(network)
}

// TunnelName returns the name of the port to a peer that shares its name with no
// other. Which name it has beside others NamesOf knows, and which it has in a
// switch ovs.Observed.Tunnels.
func TunnelName(t topology.Transport, peer string) string {
	return portName(tunnelPrefix(t), peer, 0)
}

// HostPortName returns the name of the host's own port in a network that shares
// its name with no other; see TunnelName.
func HostPortName(network string) string { return portName(hostPrefix, network, 0) }

// HostPortNames returns the names of the host's own ports in several networks,
// by network.
func HostPortNames(networks []string) map[string]string { return portNames(hostPrefix, networks) }

// portNames gives each name a port's name of its own. Names that fit as they are
// come first, then the others in their order: whoever finds a name taken takes the
// next that its hash leads to.
func portNames(prefix string, names []string) map[string]string {
	out := make(map[string]string, len(names))
	var long []string
	for _, name := range names {
		if len(prefix)+len(name) > maxIfname {
			long = append(long, name)
		} else if out[name] == "" {
			out[name] = prefix + name
		}
	}
	slices.Sort(long)
	taken := make(map[string]bool, len(long))
	for _, name := range slices.Compact(long) {
		for try := 0; ; try++ {
			port := portName(prefix, name, try)
			if _, short := out[port[len(prefix):]]; !short && !taken[port] {
				out[name], taken[port] = port, true
				break
			}
		}
	}
	return out
}

// EndpointPortName returns the name of the port of an endpoint, after what people call it
// or its container. Where another port has the name, the next try has another.
func EndpointPortName(called string, try int) string {
	return portName(endpointPrefix, called, try)
}

// FitsEndpointPort reports whether a port's name has all of an endpoint's or a container's
// name.
func FitsEndpointPort(called string) bool {
	return len(endpointPrefix)+len(called) <= maxIfname
}

// portName returns the prefix and a name, which is replaced by 30 bits of a hash
// and its own end where it is too long, or taken: what differs among machines' names
// is usually at the end.
func portName(prefix, name string, try int) string {
	if try == 0 && len(prefix)+len(name) <= maxIfname {
		return prefix + name
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	if try > 0 {
		fmt.Fprintf(h, " %d", try)
	}
	sum := h.Sum(nil)
	for i := range 4 {
		sum[i] ^= sum[i+4]
	}
	const digits = 6
	hash := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:4]))[:digits]
	return prefix + hash + "-" + ending(name, maxIfname-len(prefix)-digits-1)
}

// ending returns the last characters of a name, of a machine's full name those
// of its first label.
func ending(name string, length int) string {
	for i := range len(name) - 1 {
		if name[i] == '.' && (name[i+1] < '0' || name[i+1] > '9') {
			name = name[:i]
			break
		}
	}
	name = strings.ReplaceAll(name, " ", "")
	return strings.TrimLeft(name[max(0, len(name)-length):], "-._")
}
