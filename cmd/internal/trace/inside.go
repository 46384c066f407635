package trace

import (
	"fmt"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
)

// leaves lets the endpoint's own kernel send a packet: is there a way, and does its own
// firewall let it out?
func (h *hop) leaves(e ovs.Endpoint, p forward.Packet) bool {
	from, to, ip := p.Addrs()
	in, known := h.inside(e, ip)
	if !known || p.Number(forward.EthDst)>>40&1 == 1 {
		return true
	}
	look := fmt.Sprintf("'nsenter --net=%s ip route get %s' there", e.Netns, to)
	switch way := in.Way(to); {
	case way.Err != nil:
		h.end(StageEndpoint, fmt.Sprintf("endpoint %s itself sends nothing there: %v", h.who(e), way.Err), look)
		return false
	case way.Dev != in.Ifname:
		text := fmt.Sprintf("endpoint %s itself sends it by %s, and not by %s", h.who(e), way.Dev, in.Ifname)
		h.end(StageEndpoint, text, look)
		return false
	}
	return h.ownFirewall(e, in, Passing{Out: in.Ifname, From: from, To: to, Packet: p})
}

// takes lets the endpoint's own firewall have a packet that came for it.
func (h *hop) takes(e ovs.Endpoint, p forward.Packet) bool {
	from, to, ip := p.Addrs()
	in, known := h.inside(e, ip)
	return !known || h.ownFirewall(e, in, Passing{In: in.Ifname, From: from, To: to, Packet: p})
}

// inside looks into an endpoint's namespace.
func (h *hop) inside(e ovs.Endpoint, ip bool) (kernel.Inside, bool) {
	if !ip || h.Observed == nil || h.Observed.Inside == nil || e.Netns == "" {
		return kernel.Inside{}, false
	}
	in, err := h.Observed.Inside(e)
	return in, err == nil && in.Ifname != "" // one whose interface is gone has a port that says so
}

func (h *hop) ownFirewall(e ovs.Endpoint, in kernel.Inside, p Passing) bool {
	if len(in.Ruleset) == 0 {
		return true
	}
	look := fmt.Sprintf("'nsenter --net=%s nft list ruleset' there", e.Netns)
	filter, err := ParseFilter(in.Ruleset)
	verdict := filter.Judge(p)
	switch {
	case err != nil:
		verdict.Unsure = err.Error()
	case verdict.Drop:
		h.end(StageEndpoint, fmt.Sprintf("the firewall of endpoint %s itself drops it: %s", h.who(e), verdict.Where), look)
		return false
	}
	if verdict.Unsure != "" {
		h.step(StageEndpoint, Unknown, fmt.Sprintf(
			"what the firewall of endpoint %s itself does with it is not known: %s", h.who(e), verdict.Unsure,
		))
	}
	return true
}
