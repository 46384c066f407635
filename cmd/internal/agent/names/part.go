package names

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Called is what an engine calls its containers.
type Called struct {
	// ByEndpoint are the names by the engine's ID of the endpoint.
	ByEndpoint map[string][]string
	// Containers are the containers themselves, by the same.
	Containers map[string]Container
	// Known: the engine has answered.
	Known bool
}

// Container is what an engine says of a container. All of it stays on the host.
type Container struct {
	Name string
	// Service is its service of compose behind the project, "shop/web"; empty where
	// it has none.
	Service string
	Image   string
}

// Store is where names are published.
type Store interface {
	PutNames(ctx context.Context, n topology.Names) error
}

// Label is the label of endpoints that has the engine's ID of them.
type Label string

const (
	passTimeout = 30 * time.Second
	passEvery   = time.Minute
	passPause   = 50 * time.Millisecond
)

// Part is the part of the agent that publishes what this node's containers are
// called, and keeps a name server in each of them.
type Part struct {
	hub     *hub.Hub
	store   Store
	known   *part.Cell[attach.Known]
	called  *part.Cell[Called]
	label   Label
	serve   bool
	chosen  Settings
	reverse reverseIndex
	servers *Servers
	log     *logrus.Entry
	wake    part.Signal
	faults  part.Faults
	stats   part.Stats
}

// NewPart returns the part. It starts nothing. called is nil where this host
// has no engine: then names that an engine had published are taken back.
func NewPart(
	h *hub.Hub,
	store Store,
	known *part.Cell[attach.Known],
	called *part.Cell[Called],
	label Label,
	chosen Settings,
	log *logrus.Entry,
) *Part {
	p := &Part{
		hub: h, store: store, known: known, called: called, label: label, serve: called != nil, chosen: chosen,
		log: log.WithField("part", "names"), wake: part.NewSignal(),
	}
	if p.called == nil {
		p.called = part.NewCell[Called](nil)
		p.called.Set(Called{Known: true})
	}
	p.servers = New(p, p.log)
	p.servers.host = chosen.Host
	return p
}

// Name implements part.Part.
func (p *Part) Name() string { return "names" }

// Faults implements part.Part.
func (p *Part) Faults() []fault.Fault { return p.faults.Get() }

// FaultsWake implements part.FaultTeller.
func (p *Part) FaultsWake(s part.Signal) { p.faults.Wakes(s) }

// Passes implements part.Reconciler.
func (p *Part) Passes() part.Passes { return p.stats.Passes() }

// Cleanup implements part.Part: name servers end with the agent.
func (p *Part) Cleanup(context.Context, part.Undo) ([]string, error) { return nil, nil }

// Run implements part.Part.
func (p *Part) Run(ctx context.Context) error {
	p.hub.Records().Wakes(p.wake)
	p.known.Wakes(p.wake)
	p.called.Wakes(p.wake)
	defer p.servers.Close()
	part.Loop{
		Wake:    p.wake,
		Every:   passEvery,
		Pause:   passPause,
		Timeout: passTimeout,
		Stats:   &p.stats,
	}.Run(
		ctx,
		func(ctx context.Context) error {
			known := p.known.Get()
			if !known.Complete {
				return nil
			}
			faults := p.keepServers(known.Endpoints)
			err := p.publish(ctx, known.Endpoints)
			for _, f := range p.faults.Set(fault.Add(faults, err)) {
				p.log.Warn(f)
			}
			return err
		},
	)
	return nil
}

// keepServers has a name server in every container of an engine that is in a
// network: in Docker's, and in others' that have names. The host's own has the names of
// all networks.
func (p *Part) keepServers(endpoints []ovs.Endpoint) []fault.Fault {
	wanted := map[string][]string{}
	for _, e := range endpoints {
		named := e.Labels[api.LabelAliases] != "" || (p.serve && e.Labels[string(p.label)] != "")
		if named && e.Netns != "" {
			wanted[e.Netns] = append(wanted[e.Netns], e.Network)
		}
	}
	if t := p.hub.Topology().Get(); p.chosen.Host.IsValid() && t.Known() {
		wanted[thisHost] = slices.Sorted(maps.Keys(t.Snapshot.Networks))
	}
	var out []fault.Fault
	for _, err := range p.servers.Sync(wanted) {
		if !errors.Is(err, topology.ErrNotFound) { // a container that is ending
			f := fault.Of(err)
			if f.Code == "" {
				f.Code = fault.NameServer
			}
			out = append(out, f)
		}
	}
	return out
}

// publish writes what this node's containers are called.
func (p *Part) publish(ctx context.Context, endpoints []ovs.Endpoint) error {
	t, called := p.hub.Records().Get(), p.called.Get()
	if !t.Known() || t.Cached || t.Err != nil {
		return nil
	}
	self := p.hub.Self().Node
	if _, registered := t.Snapshot.Nodes[self]; !registered {
		return nil
	}
	if !called.Known {
		// Containers go on while their engine is down, so do their names.
		called.ByEndpoint = published(t.Snapshot, self, endpoints, p.label)
	}
	wanted := namesOf(endpoints, called.ByEndpoint, p.label)
	var errs []error
	for _, n := range t.Snapshot.SortedNetworks() {
		next := topology.Names{Network: n.Name, Node: self, Names: wanted[n.Name], Layout: n.Layout}
		have, there := t.Snapshot.Names[topology.NamesID{Network: n.Name, Node: self}]
		if (there || len(next.Names) > 0) && !reflect.DeepEqual(have.Names, next.Names) {
			errs = append(errs, p.store.PutNames(ctx, next))
		}
	}
	for id := range t.Snapshot.Names {
		// That of another layout, which has no record that its names would go with.
		if _, there := t.Snapshot.Networks[id.Network]; !there && id.Node == self {
			errs = append(errs, p.store.PutNames(ctx, topology.Names{Network: id.Network, Node: self}))
		}
	}
	return errors.Join(errs...)
}

// published returns what an engine's containers were called when this node wrote their
// names last, by the engine's ID of the endpoint.
func published(s *topology.Snapshot, self string, endpoints []ovs.Endpoint, label Label) map[string][]string {
	out := map[string][]string{}
	for _, e := range endpoints {
		id := e.Labels[string(label)]
		if id == "" {
			continue
		}
		for name, addrs := range s.Names[topology.NamesID{Network: e.Network, Node: self}].Names {
			if slices.ContainsFunc(e.IPs, func(a netip.Addr) bool { return slices.Contains(addrs, a) }) {
				out[id] = append(out[id], name)
			}
		}
	}
	return out
}

// namesOf returns, by network, the addresses of containers by what they are
// called.
func namesOf(endpoints []ovs.Endpoint, called map[string][]string, label Label) map[string]map[string][]netip.Addr {
	out := map[string]map[string][]netip.Addr{}
	for _, e := range endpoints {
		aliases := strings.FieldsFunc(e.Labels[api.LabelAliases], func(r rune) bool { return r == ',' })
		for _, name := range slices.Concat(called[e.Labels[string(label)]], aliases) {
			if out[e.Network] == nil {
				out[e.Network] = map[string][]netip.Addr{}
			}
			name = topology.CanonicalName(name)
			out[e.Network][name] = append(out[e.Network][name], e.IPs...)
		}
	}
	for _, network := range out {
		for name := range maps.Keys(network) {
			slices.SortFunc(network[name], netip.Addr.Compare)
			network[name] = slices.Compact(network[name])
		}
	}
	return out
}
