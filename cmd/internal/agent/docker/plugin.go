// Package docker serves Docker's remote network and IPAM driver, so that
// containers of an engine hang on Baize's networks:
//
//	docker network create -d baize --ipam-driver baize -o baize.network=blue --subnet 10.1.0.0/16 blue
//
// What the plugin has to remember is little. Addresses that are in use are
// those of the agent's endpoints, which are recorded at their ports. A pool's
// ID carries the network's name. Which Docker network belongs to which network
// of Baize is the one thing that the engine tells once and never again: it is
// kept in a file of the state directory, and can be asked of the engine again
// where the file is lost.
package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/names"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// DefaultSocket is where an engine looks for the driver "baize".
const DefaultSocket = "/run/docker/plugins/baize.sock"

// DefaultEngine is the engine's own socket.
const DefaultEngine = "/var/run/docker.sock"

// DriverName is what -d and --ipam-driver are given.
const DriverName = "baize"

// addressSpace tells our pools from those of other IPAM drivers.
const addressSpace = "baize"

// Labels of the endpoints that belong to containers.
const (
	LabelEndpoint = "docker-endpoint" // the engine's ID of the endpoint
	LabelNetwork  = "docker-network"  // the engine's ID of the network
)

// Node is what the plugin needs of the agent it is part of. Errors for people
// are *topology.Error.
type Node interface {
	// Networks lists the networks of the topology seen last.
	Networks(ctx context.Context) ([]topology.Network, error)
	// EnsureNetwork creates a network where there is none of that name, asks
	// accept whether the one that is there will do, and waits until this node
	// has a subnet in it in each of the families.
	EnsureNetwork(
		ctx context.Context,
		n topology.Network,
		families []topology.Family,
		accept func(topology.Network) error,
	) (topology.Network, error)
	// Reserve takes an address for an endpoint to come.
	Reserve(ctx context.Context, r attach.Reservation) (netip.Addr, error)
	// Release gives back what Reserve took; others it leaves alone.
	Release(network string, a netip.Addr)
	// Promise makes addresses outside the node's subnets known to the others.
	Promise(ctx context.Context, e ovs.Endpoint) error
	// Forget undoes Promise for an endpoint that was not handed over.
	Forget(e ovs.Endpoint)
	// HandOver attaches an endpoint and returns the device, in the host's
	// namespace, that is to be moved into e.Netns by somebody else. Its port is named
	// after what people call the container, where that is known.
	HandOver(ctx context.Context, e ovs.Endpoint, called string) (device string, err error)
	// Endpoints are the node's, Pending those that were promised and not yet
	// handed over.
	Endpoints() []ovs.Endpoint
	Pending() []ovs.Endpoint
	// Detach removes an endpoint; one that is gone is fine.
	Detach(ctx context.Context, e ovs.Endpoint) error
	// Abandoned reports whether an endpoint's device is in no container.
	Abandoned(e ovs.Endpoint) (bool, error)
}

// Plugin is the driver. Its zero value is of no use; see New.
type Plugin struct {
	node   Node
	log    logrus.FieldLogger
	file   string
	engine *engine
	// settings is the engine's own file of settings.
	settings string

	mu       sync.Mutex
	networks map[string]network // by the engine's ID
	created  map[string]planned // by the engine's ID, until it deletes them
	pools    []pool             // asked for, their network not yet created
	asked    pool               // the one that the engine was left to accept last,
	times    int                // and how often in a row
	names    containerNames
	silent   time.Time // when the engine last did not answer nameOf in time
	// called tells of the names, used of the networks in use.
	called *part.Cell[names.Called]
	used   *part.Cell[map[string][]string]
	// stopping: what fails now fails because the agent ends.
	stopping atomic.Bool
}

// planned is an endpoint that the engine created.
type planned struct {
	ovs.Endpoint
	at time.Time
}

// New returns a plugin that keeps its networks in a file. engineSocket is where
// the engine answers.
func New(node Node, file, engineSocket string, log logrus.FieldLogger) *Plugin {
	return &Plugin{
		node: node, log: log, file: file, engine: newEngine(engineSocket), settings: engineSettings,
		networks: map[string]network{}, created: map[string]planned{}, called: part.NewCell[names.Called](nil),
		used: part.NewCell(func(a, b map[string][]string) bool { return maps.EqualFunc(a, b, slices.Equal) }),
	}
}

const (
	// requestTimeout bounds one request of the engine, which waits for as long
	// as it takes.
	requestTimeout = 25 * time.Second
	// sweepEvery is how often what an engine forgot is looked for.
	sweepEvery = time.Minute
	// onItsWay is how long an endpoint may take from its creation into its
	// container.
	onItsWay = 2 * time.Minute
	// sweepRetry is how often an engine is asked that does not answer.
	sweepRetry = 2 * time.Second
)

// Serve answers on l until ctx ends. l is closed.
func (p *Plugin) Serve(ctx context.Context, l net.Listener) error {
	p.load()
	p.stopping.Store(false)
	defer context.AfterFunc(ctx, func() { p.stopping.Store(true) })()
	g := part.NewGroup(ctx)
	g.Go(func(ctx context.Context) error { p.sweepLoop(ctx); return nil })
	g.Go(func(ctx context.Context) error { p.nameLoop(ctx); return nil })
	g.Go(func(ctx context.Context) error {
		return api.ServeHandler(ctx, l, p.Handler(), "the Docker plugin's socket")
	})
	return g.Wait()
}

// sweepLoop removes what is left of containers and networks that the engine
// removed while nobody answered it.
func (p *Plugin) sweepLoop(ctx context.Context) {
	for {
		limited, cancel := context.WithTimeout(ctx, requestTimeout)
		err := p.sweep(limited)
		cancel()
		next := sweepEvery
		if err != nil {
			p.log.Debugf("Docker: %v", err)
			next = sweepRetry
		}
		t := time.NewTimer(next)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// sweep removes the endpoints whose device came back from its container, and,
// where the engine answers, those that it does not know, and the networks it
// does not know.
func (p *Plugin) sweep(ctx context.Context) error {
	// In this order: what is attached after the reading is no garbage.
	endpoints := p.node.Endpoints()
	for _, e := range p.node.Pending() {
		p.planOf(e.Labels[LabelEndpoint]) // from now on it has its time
	}
	known, asked := p.engine.networks(ctx)
	var errs []error
	for _, e := range endpoints {
		id := e.Labels[LabelEndpoint]
		if id == "" {
			continue
		}
		why := ""
		if asked == nil && !known.hasEndpoint(id) && !p.joining(id) {
			why = "Docker does not know it"
		} else if gone, err := p.node.Abandoned(e); err != nil {
			errs = append(errs, err)
		} else if gone && !p.joining(id) {
			why = "its container is gone"
		}
		if why == "" {
			continue
		}
		if err := p.node.Detach(ctx, e); err != nil {
			errs = append(errs, err)
			continue
		}
		p.log.Infof("endpoint %s of network %s removed: %s", e.Name, e.Network, why)
	}
	if asked == nil {
		errs = append(errs, p.adopt(ctx, known), p.drop(known))
		p.mu.Lock()
		p.tellUsed() // also where the file could not be read
		p.mu.Unlock()
	}
	return errors.Join(append(errs, asked)...)
}

// joining reports whether an endpoint is on its way into its container. Those
// that an agent before this one made may be as well.
func (p *Plugin) joining(id string) bool {
	plan, ok := p.planOf(id)
	return ok && time.Since(plan.at) < onItsWay
}

// planOf finds an endpoint that the engine created, be it that an agent before
// this one answered it.
func (p *Plugin) planOf(id string) (planned, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if plan, ok := p.created[id]; ok {
		return plan, true
	}
	for _, e := range slices.Concat(p.node.Pending(), p.node.Endpoints()) {
		if e.Labels[LabelEndpoint] == id {
			p.created[id] = planned{e, time.Now()}
			return p.created[id], true
		}
	}
	return planned{}, false
}

// drop forgets what the engine does not know, unless it is so new that the
// engine may not have known it when it was asked.
func (p *Plugin) drop(known engineNetworks) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, e := range p.created {
		if !known.hasEndpoint(id) && time.Since(e.at) > onItsWay {
			delete(p.created, id)
			p.node.Forget(e.Endpoint)
		}
	}
	before := len(p.networks)
	for id, n := range p.networks {
		if !slices.ContainsFunc(known, func(k engineNetwork) bool { return k.ID == id }) && time.Since(n.since) > onItsWay {
			p.log.Infof("Docker network %.12s (network %s) is gone", id, n.Network)
			delete(p.networks, id)
		}
	}
	if len(p.networks) == before {
		return nil
	}
	return p.save()
}

// Used are the engine's networks, in words, by the network of Baize that each is.
func (p *Plugin) Used() *part.Cell[map[string][]string] { return p.used }

// tellUsed says which networks the engine has. It needs p.mu.
func (p *Plugin) tellUsed() {
	used := map[string][]string{}
	for _, id := range slices.Sorted(maps.Keys(p.networks)) {
		name := p.networks[id].Network
		used[name] = append(used[name], fmt.Sprintf("Docker network %.12s", id))
	}
	p.used.Set(used)
}

// ours returns the endpoints that belong to an endpoint of the engine.
func (p *Plugin) ours(label, id string) []ovs.Endpoint {
	return slices.DeleteFunc(p.node.Endpoints(), func(e ovs.Endpoint) bool { return e.Labels[label] != id })
}
