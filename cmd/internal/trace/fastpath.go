package trace

import (
	"fmt"
	"net/netip"

	"github.com/baize-net/baize/cmd/internal/fastpath"
	"github.com/baize-net/baize/ovs/forward"
)

// The fast path stands before the switch and before the kernel's routes and packet
// filter: what it takes, they do not see.

// fastFrom lets the fast path have a packet that an endpoint sends, and reports
// whether it takes it.
func (h *hop) fastFrom(port string, p forward.Packet) bool {
	if h.Observed == nil {
		return false
	}
	sent, takes := h.Observed.FastPath.Send(port, p)
	if !takes {
		return false
	}
	if sent.Dev == "" {
		h.fastDeliver(sent.Local, p)
		return true
	}
	_, to, _ := p.Addrs()
	way := h.Observed.Way(to)
	if _, router := h.router(to); !router || way.Err != nil || way.Dev != sent.Dev {
		return false
	}
	next := way.Via
	if !next.IsValid() {
		next = to
	}
	peer := h.owner(next)
	if peer == "" {
		peer = home(h.network, h.View.Node.Name, to)
	}
	p.DecTTL()
	h.step(StageFastPath, Good, fmt.Sprintf("past the switch by %s to %s%s", way.Dev, next, toWhom(peer)))
	if h.underlay(next) {
		h.forwarded(peer, p, to)
	}
	return true
}

// fastTo lets the fast path have a packet that another host's kernel routed here, and
// reports whether it takes it.
func (h *hop) fastTo(from netip.Addr, p forward.Packet) bool {
	if h.Observed == nil {
		return false
	}
	local, takes := h.Observed.FastPath.Receive(h.Observed.Way(h.peerVTEP(from)).Dev, p)
	if !takes {
		return false
	}
	p.DecTTL()
	p.SetMAC(forward.EthSrc, local.Src[:])
	p.SetMAC(forward.EthDst, local.MAC[:])
	h.fastDeliver(local, p)
	return true
}

func (h *hop) fastDeliver(local fastpath.Local, p forward.Packet) {
	e, known := h.endpointAt(local.Dev)
	if !known {
		h.end(StageFastPath, fmt.Sprintf("it goes to %s, which is no endpoint's", local.Dev),
			"a running agent puts it right: 'baize status' there")
		return
	}
	if up := h.Observed.Up[local.Dev]; !up {
		h.end(StagePort, fmt.Sprintf("the link of endpoint %s is down (port %s)", h.who(e), local.Dev),
			"'ip link set up' for the interface in its namespace, and for "+local.Dev)
		return
	}
	h.step(StageFastPath, Good, "past firewall and switch to endpoint "+h.who(e))
	if !h.takes(e, p) {
		return
	}
	h.deliverTo(e, local.Dev, p)
}
