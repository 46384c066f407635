// Package agent is what runs on every node: a runner and a list of parts. Each
// part has a folder of its own:
//
//	hub          holds the newest topology, and hands it to whoever subscribed
//	membership   liveness, the node's record, subnet leases, pins (etcd)
//	attach       endpoints: the one way in for the command line and engines
//	addresses    which address an endpoint gets (pure)
//	openvswitch  the switch: bridge, ports, flows; nothing else can stop it
//	kernel       the host's own ports, routes, sysctls, firewall
//	fastpath     what goes past Open vSwitch and the kernel's IP stack
//	docker0      Docker's own bridge as a part of a network
//	docker       Docker's network and IPAM plugin
//	names        names of containers, published and answered
//	captures     packets that other hosts ask this one to capture
//	answers      what other hosts ask this one, by way of etcd
//	bgp          the routers of the fabric
//	mesh         probes of the ways to all peers
//	events       the journal of what happened, and why
//	metrics      what Prometheus asks for
//	part         what a part is, and what parts hand to each other
//
// A part that fails is reported and started again; the others go on. Forwarding
// depends neither on the agent nor on etcd: an agent that stops leaves
// everything as it is.
package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Agent is one agent.
type Agent struct {
	cfg     Config
	world   World
	log     *logrus.Entry
	started time.Time
	parts   []part.Part
	rooms   rooms
	// pulse knows whether the parts still turn.
	pulse *part.Pulse
	// failed are the parts that had to be started again, by name.
	failed map[string]*part.Faults

	mu    sync.Mutex
	ready bool
	// restarts count how often parts failed, by name.
	restarts map[string]uint64
}

// garbage is how much the heap grows between two collections, in percent of what is in
// use, unless GOGC says otherwise: an agent is idle nearly always, and what it does not
// use is missing to the containers.
const garbage = 50

// Run runs an agent until ctx is done. It returns an error only where it
// could not start: another host has the node's name, the configuration is
// wrong, it is not root. Whatever fails later is retried and reported.
func Run(ctx context.Context, cfg Config, log *logrus.Logger) error {
	cfg, err := cfg.Defaults()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return &topology.Error{
			Kind: topology.ErrUnavailable, Item: "baize agent", What: "needs root: it changes Open vSwitch and network devices",
			Remedy: "run it with sudo or from its systemd unit",
		}
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	world, err := realWorld(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer world.close()
	a, err := New(cfg, world, log)
	if err != nil {
		return err
	}
	// A second agent on this host is refused before it does anything.
	l, err := api.ListenAndKeep(cfg.Socket)
	if err != nil {
		return err
	}
	if err := a.listenDocker(); err != nil {
		return errors.Join(err, l.Close())
	}
	a.log.WithFields(logrus.Fields{"version": cfg.Version, "datapath": world.Datapath, "bridge": cfg.Bridge}).
		Infof("agent starts (%s)", world.DatapathReason)
	return a.Run(ctx, l)
}

// listenDocker makes the plugin's socket before the node is ready.
func (a *Agent) listenDocker() error {
	if a.rooms.docker == nil {
		return nil
	}
	err := a.rooms.docker.Listen()
	if err != nil && a.cfg.DockerPlugin == "auto" {
		a.log.Warnf("no Docker plugin yet: %v", err)
		return nil // its part tries again
	}
	return err
}

// Run runs the parts, and answers the local API on l, unless that is nil, until
// ctx ends.
func (a *Agent) Run(ctx context.Context, l net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range a.parts {
		g.Go(func() error { return a.supervise(ctx, p) })
	}
	if l != nil {
		g.Go(func() error { return api.Serve(ctx, l, a) })
	}
	g.Go(func() error {
		a.awaitReady(ctx)
		debug.FreeOSMemory() // a start takes more than what follows
		return nil
	})
	g.Go(func() error { a.serveWatchdog(ctx); return nil })
	err := g.Wait()
	a.log.Info("agent stops; forwarding goes on")
	return err
}

const (
	// restartFirst and restartLast bound the wait before a part that failed is
	// started again.
	restartFirst = 200 * time.Millisecond
	restartLast  = 10 * time.Second
	// mendedAfter is how long after its last failure a part is reported.
	mendedAfter = 2 * restartLast
)

// supervise runs one part, and again when it failed. Only an error that the part
// calls fatal ends the agent.
func (a *Agent) supervise(ctx context.Context, p part.Part) error {
	backoff := restartFirst
	// A part that goes on working is not reported for ever.
	mended := time.AfterFunc(mendedAfter, func() { a.failed[p.Name()].Set(nil) })
	defer mended.Stop()
	for {
		var err error
		began := time.Now()
		// Profiles then say which part a goroutine is of.
		pprof.Do(ctx, pprof.Labels("part", p.Name()), func(ctx context.Context) {
			err = fault.Protect(func() error { return p.Run(part.WithPulse(ctx, a.pulse, p.Name())) })
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case part.IsFatal(err):
			return fmt.Errorf("%s: %w", p.Name(), err)
		case err == nil:
			err = part.ErrEnded
		}
		mended.Stop()
		a.log.WithField("part", p.Name()).Errorf("%v; it is started again", err)
		if p := (*fault.Panic)(nil); errors.As(err, &p) {
			a.log.Errorf("%s", p.Stack)
		}
		a.mu.Lock()
		a.restarts[p.Name()]++
		a.mu.Unlock()
		f := fault.Of(err)
		a.failed[p.Name()].Set([]fault.Fault{{
			Code: fault.PartFailed, Severity: fault.Error, Item: "part " + p.Name() + " of the agent",
			What: "failed, and is started again: " + f.String(),
		}})
		if time.Since(began) > restartLast {
			backoff = restartFirst
		}
		if !part.Sleep(ctx, backoff) {
			return nil
		}
		backoff = min(2*backoff, restartLast)
		mended.Reset(mendedAfter)
	}
}

// isReady reports whether systemd was told so.
func (a *Agent) isReady() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ready
}

// failures are how often each part was started again.
func (a *Agent) failures() map[string]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[string]uint64, len(a.parts))
	for _, p := range a.parts {
		out[p.Name()] = a.restarts[p.Name()]
	}
	return out
}

func (a *Agent) allReady() bool {
	for _, p := range a.parts {
		if r, waits := p.(part.Readier); waits && !r.Ready() {
			return false
		}
	}
	return true
}

// Faults are what any part sees wrong now.
func (a *Agent) Faults() []fault.Fault {
	var out []fault.Fault
	for _, p := range a.parts {
		out = fault.Merge(out, p.Faults()...)
		out = fault.Merge(out, a.failed[p.Name()].Get()...)
	}
	return out
}

// faultsWake wakes a signal whenever Faults may have changed, as far as parts tell.
func (a *Agent) faultsWake(s part.Signal) {
	for _, p := range a.parts {
		if t, tells := p.(part.FaultTeller); tells {
			t.FaultsWake(s)
		}
		a.failed[p.Name()].Wakes(s)
	}
}

// Parts are the agent's parts in the order in which they are started.
func (a *Agent) Parts() []part.Part { return a.parts }

// Hub holds the topology that the agent acts on.
func (a *Agent) Hub() *hub.Hub { return a.rooms.hub }
