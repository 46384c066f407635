// Package agent is what runs on every node: it registers the node, leases its
// subnets, attaches endpoints and keeps the node's Open vSwitch in the state
// that the topology asks for.
//
// One goroutine (reconcileLoop) keeps bridge, ports and flows; everything else
// only wakes it. What has to happen within milliseconds is in restore.go.
// Forwarding depends neither on the agent nor on etcd: an agent that stops
// leaves everything as it is.
package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/bgp"
	"github.com/baize-net/baize/cmd/internal/docker"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/names"
	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/flannel"
)

// Config is what an agent is started with.
type Config struct {
	// Node is the node's name; empty: the host's name.
	Node string
	// VTEP is an address or an interface; empty: found by the way to etcd.
	VTEP string
	// Bridge is the integration bridge's name.
	Bridge string
	// Datapath is "auto", "system" or "netdev".
	Datapath string
	// OVSDB is the database's address, OVSRunDir where ovs-vswitchd has its
	// control sockets; empty: Open vSwitch's own defaults.
	OVSDB, OVSRunDir string
	// Networks are those the node carries; empty: all.
	Networks []string
	// StateDir keeps the node's identity and the last topology seen.
	StateDir string
	// Socket is where the local API is served.
	Socket string
	// DockerPlugin is "auto" (where an engine is installed), "on" or "off";
	// DockerSocket is where it is served.
	DockerPlugin, DockerSocket string
	// DockerStandIn, with the socket as one more argument, is the command line of
	// who answers Docker while no agent does; empty: nobody does.
	DockerStandIn []string
	// VXLANPort and GenevePort are UDP ports; 0: the standard ones.
	VXLANPort, GenevePort int
	// LivenessTTL is how long after its death peers see the agent as alive.
	LivenessTTL time.Duration
	// AuditInterval is how often whole flow texts are compared.
	AuditInterval time.Duration
	// DockerBridge is the bridge that Docker's containers without a network of
	// their own hang on, docker0, which becomes a part of DockerNetwork; empty:
	// it does not.
	DockerBridge string
	// DockerNetwork is empty where the node carries one network only.
	DockerNetwork string
	// DockerEnv is the file that says what Docker must be started with.
	DockerEnv string
	// Etcd says where the topology is.
	Etcd etcdstore.Config
	// Flannel makes the agent take part in flannel's network, below
	// FlannelPrefix of etcd, and write SubnetFile.
	Flannel       bool
	FlannelPrefix string
	SubnetFile    string
	// BGP makes the agent speak with the routers of the fabric, where it has an
	// AS or neighbours.
	BGP bgp.Config
	// IPMasq masquerades what leaves flannel's network, as flanneld's -ip-masq.
	IPMasq bool
	// Version is the program's.
	Version string
}

// Defaults returns the configuration with what was left open filled in.
func (c Config) Defaults() (Config, error) {
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	if c.Node == "" {
		name, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("the host has no name: %w", err)
		}
		c.Node, _, _ = strings.Cut(name, ".")
	}
	set(&c.Bridge, ovs.DefaultBridge)
	set(&c.Datapath, "auto")
	set(&c.OVSDB, vswitch.DefaultEndpoint)
	set(&c.StateDir, "/var/lib/baize")
	set(&c.Socket, api.DefaultSocket)
	set(&c.FlannelPrefix, flannel.DefaultPrefix)
	set(&c.SubnetFile, subnetenv.FlannelFile)
	set(&c.DockerPlugin, dockerAuto)
	set(&c.DockerSocket, docker.DefaultSocket)
	if c.LivenessTTL == 0 {
		c.LivenessTTL = 10 * time.Second
	}
	if c.AuditInterval == 0 {
		c.AuditInterval = 30 * time.Second
	}
	if !slices.Contains([]string{"auto", "system", "netdev"}, c.Datapath) {
		return c, &topology.Error{Kind: topology.ErrInvalid, Item: "datapath " + c.Datapath, What: "unknown", Remedy: "use auto, system (kernel) or netdev (userspace)"}
	}
	if c.DockerBridge != "" && c.DockerBridge != dockerBridge {
		return c, &topology.Error{Kind: topology.ErrInvalid, Item: "--docker-bridge " + c.DockerBridge, What: "dockerd takes an address (--bip) for docker0 only",
			Remedy: "use docker0; for further networks there is the plugin, 'docker network create -d baize'"}
	}
	set(&c.DockerEnv, subnetenv.BaizeFile)
	if !slices.Contains([]string{dockerAuto, dockerOn, dockerOff}, c.DockerPlugin) {
		return c, &topology.Error{Kind: topology.ErrInvalid, Item: "Docker plugin " + c.DockerPlugin, What: "unknown", Remedy: "use auto (where Docker is installed), on or off"}
	}
	return c, topology.CheckName("node", c.Node)
}

// Agent is one running agent.
type Agent struct {
	cfg             Config
	id              string
	hostname, epoch string
	store           *etcdstore.Store
	db              *vswitch.Client
	flows           *openflow.Client
	log             *logrus.Entry

	speaker   *bgp.Speaker   // nil without --bgp
	flannel   *flannelSource // nil without --flannel
	plugin    *docker.Plugin // nil where none is served
	names     *names.Servers
	wake      chan struct{} // reconcile soon
	join      chan struct{} // look at our own records soon
	started   time.Time
	datapath  string
	why       string // why this datapath
	readyOnce sync.Once
	restore   *restoreWait

	mu       sync.Mutex
	snapshot *topology.Snapshot // own, and flannel's
	own      *topology.Snapshot // what Baize's prefix has
	etcdErr  error
	alive    bool  // our liveness key is held
	held     bool  // it once was
	cached   bool  // the snapshot is the one seen last, etcd has not answered
	aliveErr error // why it is not
	joined   error // what keeps the node from having its subnets
	last     pass
	ready    bool
	// forwarded: there was a pass that put all flows in place.
	forwarded bool
	audit     bool
	waiters   []chan error
	pending   map[string]ovs.Endpoint // being attached: their addresses are taken
	segment   segmentState
	accepted  accepted
	reserved  map[reservation]time.Time

	// background is what goes on after a request was answered, until lifetime
	// ends; run sets it.
	background sync.WaitGroup
	lifetime   context.Context
}

// Run runs an agent until ctx is done. It returns an error only where it
// could not start: another host has the node's name, the configuration is
// wrong, it is not root. Whatever fails later is retried and reported.
func Run(ctx context.Context, cfg Config, log *logrus.Logger) error {
	a, err := newAgent(cfg, log)
	if err != nil {
		return err
	}
	defer a.store.Close()
	defer a.db.Close()
	if a.flannel != nil {
		defer a.flannel.store.Close()
	}
	return a.run(ctx)
}

func newAgent(cfg Config, log *logrus.Logger) (*Agent, error) {
	cfg, err := cfg.Defaults()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, &topology.Error{Kind: topology.ErrUnavailable, Item: "baize agent", What: "needs root: it changes Open vSwitch and network devices", Remedy: "run it with sudo or from its systemd unit"}
	}
	id, err := nodeID(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	hostname, err := hostnet.Hostname()
	if err != nil {
		return nil, err
	}
	epoch, err := hostnet.BootID()
	if err != nil {
		return nil, err
	}
	store, err := etcdstore.Open(context.Background(), cfg.Etcd)
	if err != nil {
		return nil, err
	}
	db, err := vswitch.New(vswitch.Config{Endpoint: cfg.OVSDB, Bridge: cfg.Bridge})
	if err != nil {
		return nil, err
	}
	var fl *flannelSource
	if cfg.Flannel {
		if fl, err = newFlannel(cfg); err != nil {
			return nil, err
		}
	}
	a := &Agent{
		cfg: cfg, flannel: fl, id: id, hostname: hostname, epoch: epoch, store: store, db: db,
		flows:   openflow.New(openflow.Config{Bridge: cfg.Bridge, RunDir: cfg.OVSRunDir}),
		log:     log.WithField("node", cfg.Node),
		wake:    make(chan struct{}, 1),
		join:    make(chan struct{}, 1),
		started: time.Now(),
		pending: map[string]ovs.Endpoint{}, reserved: map[reservation]time.Time{},
		restore: newRestoreWait(),
		audit:   true,
	}
	if a.speaker, err = a.newSpeaker(cfg.BGP); err != nil {
		return nil, err
	}
	a.names = names.New(a, a.log)
	return a, nil
}

// task is one thing the agent does all the time.
type task struct {
	name string
	run  func(context.Context) error
}

func (a *Agent) tasks(l, dockerListener net.Listener) []task {
	tasks := []task{
		{"topology", a.watchTopology},
		{"liveness", a.keepAlive},
		{"membership", a.membershipLoop},
		{"database", func(ctx context.Context) error { return a.db.Run(ctx, a.poke) }},
		{"openflow", a.watchFlows},
		{"restore", func(ctx context.Context) error { return a.restore.run(ctx, a.db, a.log) }},
		{"links", func(ctx context.Context) error { return hostnet.WatchLinks(ctx, a.rejoin) }},
		{"routes", func(ctx context.Context) error { return route.Watch(ctx, a.poke) }},
		{"reconcile", a.reconcileLoop},
		{"api", func(ctx context.Context) error { return api.Serve(ctx, l, a) }},
	}
	if a.flannel != nil {
		tasks = append(tasks, task{"flannel", a.watchFlannel})
	}
	if a.speaker != nil {
		tasks = append(tasks, task{"bgp", a.speaker.Run})
	}
	if a.cfg.DockerBridge != "" {
		tasks = append(tasks, task{"docker0", func(ctx context.Context) error { return hostnet.WatchLinks(ctx, a.hangOn) }})
	}
	if dockerListener != nil {
		tasks = append(tasks, a.dockerTask(dockerListener))
	}
	return tasks
}

func (a *Agent) run(ctx context.Context) error {
	// A second agent on this host is refused before it does anything.
	l, err := api.Listen(a.cfg.Socket)
	if err != nil {
		return err
	}
	plugin, err := a.listenDocker()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	a.chooseDatapath()
	a.log.WithFields(logrus.Fields{"version": a.cfg.Version, "datapath": a.datapath, "bridge": a.cfg.Bridge}).Infof("agent starts (%s)", a.why)
	g, ctx := errgroup.WithContext(ctx)
	a.lifetime = ctx
	for _, t := range a.tasks(l, plugin) {
		g.Go(func() error {
			err := t.run(ctx)
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			return nil
		})
	}
	err = g.Wait()
	a.background.Wait()
	a.clearLast()
	a.log.Info("agent stops; forwarding goes on")
	return err
}

func (a *Agent) chooseDatapath() {
	if a.cfg.Datapath != "auto" {
		a.datapath, a.why = a.cfg.Datapath, "set with --datapath"
		return
	}
	kernel, err := hostnet.Datapath()
	switch {
	case kernel:
		a.datapath, a.why = "system", "the kernel has the openvswitch module"
	default:
		a.datapath, a.why = "netdev", "userspace: the kernel has no openvswitch module"
		a.log.Debug(err)
	}
}

// poke wakes the reconcile loop.
func (a *Agent) poke() { signal(a.wake) }

// rejoin wakes the membership loop.
func (a *Agent) rejoin() { signal(a.join) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// watchTopology keeps the latest snapshot. Until etcd answers for the first
// time it uses what the agent saw last before it was stopped.
func (a *Agent) watchTopology(ctx context.Context) error {
	c := cache{filepath.Join(a.cfg.StateDir, "topology.json")}
	fallback := time.AfterFunc(cacheAfter, func() { a.useCache(c) })
	defer fallback.Stop()
	keep := saver{cache: c, warn: func(err error) { a.log.Warnf("keep a copy of the topology: %v", err) }}
	defer keep.flush()
	return a.store.Watch(ctx, func(u etcdstore.Update) {
		a.mu.Lock()
		if (u.Err == nil) != (a.etcdErr == nil) {
			if u.Err != nil {
				a.log.Warnf("etcd does not answer, forwarding goes on: %v", u.Err)
			} else {
				a.log.Info("etcd answers again")
			}
		}
		a.etcdErr = u.Err
		if u.Err == nil {
			a.own, a.cached = u.Snapshot, false
			a.merge()
		}
		a.mu.Unlock()
		if u.Err != nil {
			return
		}
		fallback.Stop()
		keep.put(u.Snapshot)
		a.poke()
		a.rejoin()
	})
}

func (a *Agent) useCache(c cache) {
	s, err := c.load()
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			a.log.Warn(err)
		}
		return
	}
	a.mu.Lock()
	if a.own == nil { // whatever other sources have
		a.log.Warnf("etcd does not answer: using the topology of revision %d seen last", s.Revision)
		a.own, a.cached = s, true
		a.merge()
	}
	a.mu.Unlock()
	a.poke()
}

// keepAlive holds the node's liveness key. A second host with the node's name
// is refused here, before it touches anything.
func (a *Agent) keepAlive(ctx context.Context) error {
	l := topology.Liveness{Node: a.cfg.Node, ID: a.id, Hostname: a.hostname, Epoch: a.epoch}
	for {
		err := a.store.KeepAlive(ctx, l, a.cfg.LivenessTTL, func(err error) {
			a.mu.Lock()
			a.alive, a.aliveErr = err == nil, err
			a.held = a.held || err == nil
			a.mu.Unlock()
			a.rejoin()
			a.poke()
		})
		if ctx.Err() != nil {
			return nil
		}
		a.mu.Lock()
		a.alive, a.aliveErr = false, err
		held := a.held
		a.mu.Unlock()
		if !held && errors.Is(err, topology.ErrConflict) {
			return err
		}
		a.log.Warn(err)
		if !wait(ctx, a.cfg.LivenessTTL) {
			return nil
		}
	}
}

// watchFlows notices within milliseconds that ovs-vswitchd was restarted (its
// flows are gone then) or that somebody changed flows by hand.
func (a *Agent) watchFlows(ctx context.Context) error {
	const first, last = 50 * time.Millisecond, 250 * time.Millisecond
	backoff := first
	for {
		err := a.flows.Monitor(ctx, func(e openflow.Event) {
			backoff = first
			switch e.Kind {
			case openflow.Changed:
				a.requestAudit()
			case openflow.Connected:
				a.restore.back()
			}
			a.poke()
		})
		if ctx.Err() != nil {
			return nil
		}
		a.lostVswitchd() // first of all: see restore.go
		a.log.Debugf("OpenFlow connection: %v", err)
		if !wait(ctx, backoff) {
			return nil
		}
		backoff = min(2*backoff, last)
	}
}

func (a *Agent) requestAudit() {
	a.mu.Lock()
	a.audit = true
	a.mu.Unlock()
}

// wait sleeps, and reports false when ctx is done first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// nodeID returns the installation's identity, drawn once.
func nodeID(dir string) (string, error) {
	file := filepath.Join(dir, "node-id")
	b, err := os.ReadFile(file)
	if err == nil && len(strings.TrimSpace(string(b))) > 0 {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the node's identity: %w", err)
	}
	id := rand.Text()
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("keep the node's identity: %w", err)
	}
	if err := writeFile(file, []byte(id+"\n")); err != nil {
		return "", fmt.Errorf("keep the node's identity: %w", err)
	}
	return id, nil
}

func (a *Agent) options(segments []ovs.Segment) pipeline.Options {
	return pipeline.Options{Bridge: a.cfg.Bridge, Datapath: a.datapath, VXLANPort: a.cfg.VXLANPort, GenevePort: a.cfg.GenevePort, Segments: segments}
}
