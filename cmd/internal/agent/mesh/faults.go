package mesh

import (
	"fmt"
	"strings"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// mostFaults is how many ways with one verdict are reported one by one; of more it is
// said that they are many.
const mostFaults = 8

// kindOfFault says how a verdict is reported.
type kindOfFault struct {
	code fault.Code
	// what and remedy are for one way, many for several.
	what, remedy func(Result) string
	many         string
}

// ports are the UDP ports of encapsulations; 0: the usual one.
type ports map[topology.Transport]int

// packets says what the packets are to a firewall.
func (p ports) packets(t topology.Transport) string {
	if t == topology.Route {
		return "packets"
	}
	port := p[t]
	if port == 0 {
		port = topology.DefaultPort(t)
	}
	if port == 0 {
		return "IP protocol 47 (" + strings.ToUpper(string(t)) + ")"
	}
	return fmt.Sprintf("UDP port %d", port)
}

const oneWay = "one direction only: its frames arrive here, those of this node do not arrive there"

func (p ports) kinds() map[Verdict]kindOfFault {
	return map[Verdict]kindOfFault{
		Silent: {
			fault.PeerSilent,
			func(r Result) string {
				if r.HostAnswers {
					return "no frame arrives from it, though its host answers ping: " + r.Detail
				}
				return "no frame arrives from it: " + r.Detail
			},
			p.silentRemedy,
			"no frame arrives from them",
		},
		Deaf: {
			fault.PeerDeaf,
			func(Result) string { return oneWay },
			p.deafRemedy,
			"one direction only: their frames arrive here, those of this node do not arrive there",
		},
		Lossy: {
			fault.PeerLossy,
			func(r Result) string { return "frames are lost: " + r.Detail },
			func(r Result) string {
				return fmt.Sprintf("look for errors and drops on the links between %s and %s ('ip -s link'); 'baize ping %s'",
					r.Local, r.Remote, r.Node)
			},
			"a part of the frames is lost",
		},
		Narrow: {
			fault.PathMTU,
			func(r Result) string {
				return fmt.Sprintf("packets of more than %s bytes do not arrive there, and network %s lets endpoints send %d",
					r.Detail, r.Network, r.Needed)
			},
			func(r Result) string {
				return fmt.Sprintf("raise the MTU of the links between %s and %s, or 'baize network update %s --mtu %s'",
					r.Local, r.Remote, r.Network, r.Detail)
			},
			"large packets do not arrive there, and networks let endpoints send them",
		},
		Slow: {
			fault.PeerSlow,
			func(r Result) string { return fmt.Sprintf("even the fastest answers take %s", r.Detail) },
			func(r Result) string {
				return fmt.Sprintf("compare with 'ping %s' from this host; if that is fast, the hosts are busy", r.Remote)
			},
			"even the fastest answers take long",
		},
		Misled: {
			fault.PeerMisled,
			func(r Result) string { return "frames of " + r.Detail + " come out of its tunnel" },
			func(r Result) string {
				return fmt.Sprintf("do two hosts have the address %s, or does something translate addresses between the hosts?",
					r.Remote)
			},
			"frames of other nodes come out of their tunnels",
		},
	}
}

// silentRemedy says where to look for what does not arrive.
func (p ports) silentRemedy(r Result) string {
	firewalls := "look at the firewalls of both hosts and between them ('nft list ruleset')"
	if r.HostAnswers {
		return fmt.Sprintf("something drops %s from %s to %s: %s; 'baize status' on %s says whether this node's frames "+
			"arrive there", p.packets(r.Encap), r.Remote, r.Local, firewalls, r.Node)
	}
	return fmt.Sprintf("%s does not answer ping either, or no ping passes: is the host up, is the network between the "+
		"hosts? else %s", r.Remote, firewalls)
}

func (p ports) deafRemedy(r Result) string {
	return fmt.Sprintf("something drops %s from %s to %s, or changes its source address: look at what this host "+
		"lets out, what %s lets in, and the firewalls between them ('nft list ruleset')",
		p.packets(r.Encap), r.Local, r.Remote, r.Node)
}

// faultsOf reports what is wrong. The results are sorted by node.
func faultsOf(results []Result, p ports) []fault.Fault {
	var out []fault.Fault
	kinds := p.kinds()
	for v := Unknown; v <= verdictLast; v++ {
		k, reported := kinds[v]
		if !reported {
			continue
		}
		var list []Result
		for _, r := range results {
			if r.Verdict == v {
				list = append(list, r)
			}
		}
		if len(list) > mostFaults {
			out = append(out, manyFault(list, len(results), k))
			continue
		}
		for _, r := range list {
			out = append(out, fault.Fault{
				Code: k.code, Severity: k.code.Severity(), Item: fmt.Sprintf("peer %s over %s", r.Node, r.Encap),
				What: k.what(r), Remedy: k.remedy(r),
			})
		}
	}
	return out
}

func manyFault(list []Result, all int, k kindOfFault) fault.Fault {
	var names []string
	for _, r := range list[:3] {
		names = append(names, r.Node)
	}
	return fault.Fault{
		Code: k.code, Severity: k.code.Severity(),
		Item: fmt.Sprintf("%d of %d peers, among them %s", len(list), all, strings.Join(names, ", ")),
		What: k.many,
		Remedy: "many at a time: look at this host first, its firewall ('nft list ruleset') and its links; " +
			"then 'baize ping --mesh'",
	}
}
