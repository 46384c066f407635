package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/bgp"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/topology"
)

// newSpeaker returns nil where the agent does not speak BGP.
func (a *Agent) newSpeaker(cfg bgp.Config) (*bgp.Speaker, error) {
	if cfg.AS == 0 && len(cfg.Neighbors) == 0 {
		return nil, nil
	}
	return bgp.New(cfg, speakerLog(a.log), a.poke)
}

func speakerLog(log *logrus.Entry) *slog.Logger {
	return slog.New(&slogHandler{log.WithField("task", "bgp")})
}

// forget makes the routers of the fabric forget this node. It returns what it
// did and what it could not do, one line each.
func forget(ctx context.Context, cfg Config, log *logrus.Logger) ([]string, error) {
	if cfg.BGP.AS == 0 && len(cfg.BGP.Neighbors) == 0 {
		return nil, nil
	}
	c, err := cfg.BGP.Defaults()
	if err != nil {
		return nil, err
	}
	missed, err := bgp.Forget(ctx, c, cfg.Node, speakerLog(logrus.NewEntry(log)))
	if err != nil {
		return nil, err
	}
	var report []string
	for _, n := range missed {
		report = append(report, fmt.Sprintf("left this node's routes on BGP neighbour %s, to which there is no session: they go there %s after the agent's end", n.Addr, c.RestartTime))
	}
	if len(missed) < len(c.Neighbors) {
		report = append(report, fmt.Sprintf("withdrew this node's routes from %d BGP neighbours", len(c.Neighbors)-len(missed)))
	}
	return report, nil
}

// fabric returns the ways through routers to what lives on other nodes: by the
// routing daemon of this host, by our own sessions, or, while those have not
// told all after a start, by the routes that are there.
func (a *Agent) fabric(networks []route.Network, reach topology.OnLink, have route.Observed) (topology.NextHops, error) {
	out := topology.NextHops{}
	foreign := route.Dynamic(have)
	learned, settled, err := a.learned(networks)
	if err != nil {
		return nil, err
	}
	own := map[netip.Prefix]route.Route{}
	for _, r := range have.Own {
		if r.Via.IsValid() {
			own[r.Prefix.Masked()] = r
		}
	}
	devices := map[netip.Addr]string{}
	device := func(hop netip.Addr) string {
		dev, asked := devices[hop]
		if !asked {
			dev = underlayDevice(hop)
			devices[hop] = dev
		}
		return dev
	}
	for _, n := range networks {
		for _, p := range n.Paths(reach, nil) {
			prefix := p.Prefix.Masked()
			f, isForeign := foreign[prefix]
			l, isLearned := learned[prefix]
			r, isOwn := own[prefix]
			switch {
			case isForeign && underlay(f.Dev) && (p.Kind != topology.PathRoute || f.Before(route.Route{Prefix: prefix})):
				out[prefix] = topology.NextHop{Via: f.Via, Dev: f.Dev, Foreign: true, Why: "kernel route of protocol " + f.ProtocolName()}
			case isLearned && device(l.NextHop) != "":
				out[prefix] = topology.NextHop{Via: l.NextHop, Dev: device(l.NextHop), Why: fmt.Sprintf("learned by BGP from %s", l.From)}
				if l.Stale {
					out[prefix] = topology.NextHop{Via: l.NextHop, Dev: device(l.NextHop), Why: fmt.Sprintf("learned by BGP from %s, which is away and expected back", l.From)}
				}
			case !settled && isOwn && device(r.Via) != "":
				out[prefix] = topology.NextHop{Via: r.Via, Dev: device(r.Via), Why: "learned by BGP before the agent's restart"}
			}
		}
	}
	return out, nil
}

// learned asks the speaker. settled is true where there is none.
func (a *Agent) learned(networks []route.Network) (learned map[netip.Prefix]bgp.Learned, settled bool, err error) {
	if a.speaker == nil {
		return nil, true, nil
	}
	var within []netip.Prefix
	for _, n := range networks {
		within = append(within, n.Prefixes()...)
	}
	// Asked first: what comes in between is in the list.
	if settled = a.speaker.Settled(); len(within) == 0 {
		return nil, settled, nil
	}
	list, err := a.speaker.Learned(within)
	learned = make(map[netip.Prefix]bgp.Learned, len(list))
	for _, l := range list {
		learned[l.Prefix.Masked()] = l
	}
	return learned, settled, err
}

// announce tells the fabric what lives here: subnets for endpoints and the
// node's own pins in networks that are routed. Segments are Ethernets, in an
// auto network reached as such, and are not announced.
func (a *Agent) announce(v topology.View) {
	if a.speaker == nil {
		return
	}
	var local []bgp.Local
	add := func(p netip.Prefix) {
		if hop, ok := v.Node.VTEP(topology.FamilyOf(p.Addr())); ok {
			local = append(local, bgp.Local{Prefix: p, NextHop: hop})
		}
	}
	for _, n := range v.Networks {
		if !n.Transport.Routed() {
			continue
		}
		for _, p := range n.Subnets {
			add(p)
		}
		for _, pin := range n.Pins {
			if pin.Node == v.Node.Name {
				add(netip.PrefixFrom(pin.Addr, pin.Addr.BitLen()))
			}
		}
	}
	id, _ := v.Node.VTEP(topology.IPv4)
	a.speaker.Announce(a.cfg.Node, id, local)
}

// underlay tells the devices through which packets may leave for other nodes
// from those of our own networks.
func underlay(dev string) bool { return dev != "" && dev != "lo" && !strings.HasPrefix(dev, "bn-") }

// underlayDevice is by which device of the underlay an address is on-link; ""
// for none.
func underlayDevice(a netip.Addr) string {
	if dev := hostnet.OnLinkDevice(a); underlay(dev) {
		return dev
	}
	return ""
}

// bgpStatus adds the sessions to a status.
func (a *Agent) bgpStatus(st *api.Status) {
	if a.speaker == nil {
		return
	}
	st.Problems = append(st.Problems, a.speaker.Problems()...)
	for _, s := range a.speaker.Sessions() {
		st.BGP = append(st.BGP, api.BGPSession{Neighbor: s.Neighbor.Addr, AS: s.Neighbor.AS, Up: s.Up, State: s.State, Since: s.Since, Last: s.Last})
	}
}

// slogHandler passes a library's log on, at the level debug.
type slogHandler struct{ log *logrus.Entry }

func (h *slogHandler) Enabled(context.Context, slog.Level) bool {
	return h.log.Logger.IsLevelEnabled(logrus.DebugLevel)
}

func (h *slogHandler) Handle(_ context.Context, r slog.Record) error {
	fields := logrus.Fields{}
	r.Attrs(func(a slog.Attr) bool {
		fields[a.Key] = a.Value.String()
		return true
	})
	h.log.WithFields(fields).Debug(r.Message)
	return nil
}

func (h *slogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	fields := logrus.Fields{}
	for _, a := range attrs {
		fields[a.Key] = a.Value.String()
	}
	return &slogHandler{h.log.WithFields(fields)}
}

func (h *slogHandler) WithGroup(string) slog.Handler { return h }
