// Package gather gathers the facts that the doctor looks at on this host: from the
// agent, Open vSwitch, etcd, the kernel, and the namespaces of endpoints. It only reads.
// Whatever does not answer costs itself alone, and its own time.
package gather

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// Config says where to look.
type Config struct {
	// Node is this host's name as a node.
	Node string
	// Bridge, OVSDB and RunDir are those of Open vSwitch, as the agent's.
	Bridge, OVSDB, RunDir string
	VXLANPort, GenevePort int
	// StateDir and Socket are the agent's, PluginSocket is where Docker finds its plugin.
	StateDir, Socket, PluginSocket string
	Etcd                           etcdstore.Config
	// Merge adds the topology's other sources to Baize's own records; nil: there are none.
	Merge func(context.Context, *topology.Snapshot) *topology.Snapshot
	// MergeKept adds those of which the agent has a copy, without asking etcd; nil: none.
	MergeKept func(*topology.Snapshot) *topology.Snapshot
	// Version is this program's.
	Version string
}

// withoutEtcd says why there is no topology to look at.
const withoutEtcd = "the agent has no etcd, and tells the topology to nobody"

// Limits of what may take long.
const (
	agentTimeout = 5 * time.Second
	toolTimeout  = 5 * time.Second
)

// gatherer is one gathering.
type gatherer struct {
	cfg   Config
	facts doctor.Facts
	// snap is the topology as etcd has it, or as the agent has kept it where etcd does not
	// answer; own are the endpoints that the agent's file has.
	snap *topology.Snapshot
	own  []ovs.Endpoint
	// observed is Open vSwitch's database.
	observed *ovs.Observed
	db       *vswitch.Client
	flows    *openflow.Client
	// devices are those of this host, by name.
	devices []hostnet.Interface
}

// Facts gathers the facts of this host.
func Facts(ctx context.Context, cfg Config) (doctor.Facts, error) {
	g := gatherer{cfg: cfg}
	err := g.gather(ctx)
	return g.facts, err
}

// gather gathers the facts that there are of every host.
func (g *gatherer) gather(ctx context.Context) error {
	began, cfg, f := time.Now(), g.cfg, &g.facts
	f.At, f.Version, f.Node = began, cfg.Version, cfg.Node
	f.Hostname, _ = hostnet.Hostname()
	f.Endpoints = []doctor.Endpoint{}
	f.Mesh.Skipped = "no agent answers; 'underlay' is what can be seen from this host"
	db, err := vswitch.New(vswitch.Config{Endpoint: cfg.OVSDB, Bridge: cfg.Bridge})
	if err != nil {
		return err
	}
	defer db.Close()
	g.db, g.flows = db, openflow.New(openflow.Config{Bridge: cfg.Bridge, RunDir: cfg.RunDir, Timeout: toolTimeout})
	store, err := etcdstore.Open(ctx, cfg.Etcd)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	g.own, _ = attach.ReadFile(cfg.StateDir)
	g.devices, _ = hostnet.Interfaces("")
	var wg sync.WaitGroup
	for _, part := range []func(context.Context){
		g.agent, func(ctx context.Context) { g.store(ctx, store) }, g.ovs, g.netfilter,
	} {
		wg.Go(func() { part(ctx) })
	}
	wg.Wait()
	if a := f.Agent.Status; a != nil && a.Etcd.Unused {
		// Whatever answered where this command looks for etcd is not this node's.
		f.Store, g.snap = doctor.Store{Read: doctor.Read{Skipped: withoutEtcd}}, nil
	}
	g.inForce()
	// These need what the ones above have found.
	g.compare(ctx)
	for _, part := range []func(context.Context){g.underlay, g.endpoints, g.host} {
		wg.Go(func() { part(ctx) })
	}
	wg.Wait()
	g.lostNow(ctx)
	f.Took = time.Since(began)
	return ctx.Err()
}

// agent asks the agent.
func (g *gatherer) agent(ctx context.Context) {
	a := &g.facts.Agent
	a.Socket, a.StateDir = g.cfg.Socket, g.cfg.StateDir
	var st unix.Statfs_t
	if err := unix.Statfs(g.cfg.StateDir, &st); err == nil {
		a.Free, a.Size = st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize)
		a.FreeFiles, a.Files = st.Ffree, st.Files
	}
	if _, err := os.Stat(filepath.Join(g.cfg.StateDir, "node-id")); err == nil {
		a.Traces = append(a.Traces, "it has run here: "+filepath.Join(g.cfg.StateDir, "node-id"))
	}
	if _, err := os.Stat(g.cfg.Socket); errors.Is(err, os.ErrNotExist) {
		a.Skipped = "there is no socket " + g.cfg.Socket
		return
	}
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	s, err := api.NewClient(g.cfg.Socket).Status(ctx)
	switch {
	case err == nil:
		a.Status = &s
		g.facts.Node = s.Node
		g.facts.Mesh = meshOf(s)
	case errors.Is(err, unix.ECONNREFUSED), strings.Contains(err.Error(), "nothing listens there"):
		a.Skipped = "nothing listens at " + g.cfg.Socket
	case errors.Is(err, context.DeadlineExceeded):
		x := fault.Fault{
			Code: fault.AgentHangs, Item: "agent at " + g.cfg.Socket,
			What: "no answer within " + agentTimeout.String() + ": it is stopped, or hangs",
		}
		a.Why = &x
	default:
		x := fault.Of(err)
		a.Why = &x
	}
}

// meshOf says what an agent's probes have looked at by now.
func meshOf(s api.Status) doctor.Mesh {
	m := doctor.Mesh{}
	for _, p := range s.Peers {
		if p.Probed != nil && !slices.Contains(api.StatesUnknown(), p.Probed.State) {
			m.Ways++
		}
	}
	if m.Ways == 0 {
		m.Skipped = "the agent has not probed a tunnel yet: there is no other node, or it has only started, or " +
			"--probe-interval is 0"
	}
	return m
}

// store reads the topology, and asks how etcd is.
func (g *gatherer) store(ctx context.Context, s *etcdstore.Store) {
	f := &g.facts.Store
	f.Endpoints, f.Prefix = g.cfg.Etcd.Endpoints, s.Prefix()
	if len(f.Endpoints) == 0 {
		f.Endpoints = []string{etcdstore.DefaultEndpoint}
	}
	f.Certificates = certificates(g.cfg.Etcd)
	began := time.Now()
	if snap, err := read(ctx, s); err != nil {
		x := fault.Of(err)
		f.Why = &x
		if g.snap = g.cached(); g.snap != nil && g.cfg.MergeKept != nil {
			g.snap = g.cfg.MergeKept(g.snap)
		}
	} else {
		f.Took = time.Since(began)
		if g.cfg.Merge != nil {
			snap = g.cfg.Merge(ctx, snap)
		}
		g.snap = snap
		f.LookAt(snap)
		if err := s.MayWrite(ctx, g.rights(s.Prefix())...); err != nil {
			x := fault.Of(err)
			f.Write = &x
		}
	}
	for _, m := range s.Members(ctx) {
		x := doctor.Member{
			Endpoint: m.Endpoint, Version: m.Version, Took: m.Took, Leader: m.Leader, Size: m.Size, Quota: m.Quota,
			Alarms: m.Alarms,
		}
		if m.Err != nil {
			x.Error = m.Err.Error()
		}
		f.Members = append(f.Members, x)
	}
}

// rights are those that the agent of this node needs: in the networks that it has a part of.
func (g *gatherer) rights(prefix string) []topology.Right {
	if g.cfg.Node == "" {
		return nil
	}
	var networks []string
	for _, sub := range g.snap.SortedSubnets() {
		if sub.Node == g.cfg.Node && g.snap.Networks[sub.Network].Layout == "" {
			networks = append(networks, sub.Network)
		}
	}
	if len(networks) > 0 {
		return topology.NodeRights(prefix, g.cfg.Node, networks)
	}
	return slices.DeleteFunc(topology.NodeRights(prefix, g.cfg.Node, nil), func(r topology.Right) bool {
		own := r.Key == prefix+"/"+topology.NodeKey(g.cfg.Node) || r.Key == prefix+"/"+topology.AliveKey(g.cfg.Node)
		return !own
	})
}

// read reads the topology. Check says better than a read what keeps etcd from answering.
func read(ctx context.Context, s *etcdstore.Store) (*topology.Snapshot, error) {
	if err := s.Check(ctx); err != nil {
		return nil, err
	}
	return s.Snapshot(ctx)
}

// run runs a program and returns what it printed, both streams together where it failed.
func run(ctx context.Context, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = time.Second
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &bad
	if err := cmd.Run(); err != nil {
		if text := strings.TrimSpace(bad.String()); text != "" {
			err = errors.New(text)
		}
		return out.String(), err
	}
	return out.String(), nil
}
