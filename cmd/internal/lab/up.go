package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/topology"
)

// Deadlines of the steps of Up. A step takes a second or two on an idle
// machine.
const (
	initTimeout     = 30 * time.Second
	etcdTimeout     = 60 * time.Second
	ovsTimeout      = 60 * time.Second
	agentTimeout    = 60 * time.Second
	dockerTimeout   = 120 * time.Second
	commandTimeout  = 30 * time.Second
	parallelHosts   = 8
	logLinesInError = 12
)

// Up makes a lab, or makes one that exists what Config says: what is missing
// or has died is made anew, hosts are added or removed, what runs is left
// alone. On an error everything stays for a look at the logs; Up may be
// repeated.
func Up(ctx context.Context, cfg Config) (*Lab, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	if err := checkTools(tools); err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer unlock(false)
	l := &Lab{cfg: cfg}
	before, err := readState(cfg.dir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l.state, err = before.merge(cfg)
	if err != nil {
		return nil, err
	}
	if l.state.Segments > 1 || l.state.FRR {
		if err := checkFRR(); err != nil {
			return nil, err
		}
	}
	if l.state.Docker {
		if err := checkDockerTools(); err != nil {
			return nil, err
		}
	}
	err = l.up(ctx)
	return l, err
}

// AddHost adds the host with the lowest free number and returns it.
func (l *Lab) AddHost(ctx context.Context) (*Host, error) {
	var added string
	err := l.changeHosts(ctx, func(hosts []string) ([]string, error) {
		if len(hosts) >= MaxHosts {
			return nil, &topology.Error{Kind: topology.ErrFull, Item: "lab " + l.cfg.Name, What: fmt.Sprintf("it has %d hosts already", MaxHosts)}
		}
		now := resize(hosts, len(hosts)+1)
		for _, h := range now {
			if !slices.Contains(hosts, h) {
				added = h
			}
		}
		return now, nil
	})
	return l.Host(added), err
}

// RemoveHost removes a host: its agent cleans up, the node is removed from the
// topology, then the host goes.
func (l *Lab) RemoveHost(ctx context.Context, name string) error {
	return l.changeHosts(ctx, func(hosts []string) ([]string, error) {
		if !slices.Contains(hosts, name) {
			return nil, noHost(l.cfg.Name, name, hosts)
		}
		return slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return h == name }), nil
	})
}

func (l *Lab) changeHosts(ctx context.Context, change func([]string) ([]string, error)) error {
	unlock, err := lock(ctx, l.cfg)
	if err != nil {
		return err
	}
	defer unlock(false)
	now, err := readState(l.cfg.dir())
	if errors.Is(err, fs.ErrNotExist) {
		return noLab(l.cfg)
	}
	if err != nil {
		return err
	}
	if now.Hosts, err = change(now.Hosts); err != nil {
		return err
	}
	l.mu.Lock()
	l.state = now
	l.mu.Unlock()
	return l.up(ctx)
}

// up makes what runs what l.state says. The lock is held.
func (l *Lab) up(ctx context.Context) error {
	if err := l.refuseNamesake(); err != nil {
		return err
	}
	if err := os.MkdirAll(l.cfg.dir(), 0o755); err != nil {
		return fmt.Errorf("the lab's directory: %w", err)
	}
	if err := l.state.write(l.cfg.dir()); err != nil {
		return err
	}
	if err := prepareMachine(ctx, l.cfg.dir()); err != nil {
		return err
	}
	// In place: the hosts have this very file.
	if err := os.WriteFile(l.hostsFile(), etcHosts(l.state.Hosts, l.state.Segments), 0o644); err != nil {
		return err
	}
	if err := l.removeUnwanted(ctx); err != nil {
		return err
	}
	fabric, err := l.upFabric(ctx)
	if err != nil {
		return err
	}
	if err := l.upRouter(ctx, fabric); err != nil {
		return err
	}
	if err := l.upNetworks(ctx, fabric); err != nil {
		return err
	}
	if err := l.upHosts(ctx, fabric); err != nil {
		return err
	}
	if l.cfg.NoProof {
		return nil
	}
	proof, err := l.Prove(ctx)
	l.Proof = proof
	return err
}

func (l *Lab) hostsFile() string { return filepath.Join(l.cfg.dir(), "etc-hosts") }

// refuseNamesake: two labs of one name would fight for names of namespaces.
func (l *Lab) refuseNamesake() error {
	all, err := members(l.cfg.Name)
	if err != nil {
		return err
	}
	for _, m := range all {
		if filepath.Dir(m.dir) != l.cfg.dir() {
			return &topology.Error{Kind: topology.ErrExists, Item: "lab " + l.cfg.Name, What: "one of that name runs in " + filepath.Dir(m.dir), Remedy: "choose another name with --name"}
		}
	}
	return nil
}

// running returns the members of this lab by name. Of two with one name, which
// nothing but a broken lock can cause, one is taken.
func (l *Lab) running() (map[string]member, error) {
	all, err := members(l.cfg.Name)
	out := map[string]member{}
	for _, m := range all {
		out[m.name] = m
	}
	return out, err
}

// member finds a running member.
func (l *Lab) member(name string) (member, error) {
	all, err := l.running()
	if err != nil {
		return member{}, err
	}
	if m, ok := all[name]; ok {
		return m, nil
	}
	l.mu.Lock()
	hosts := slices.Clone(l.state.Hosts)
	l.mu.Unlock()
	if name != fabricName && name != routerName && !slices.Contains(hosts, name) {
		return member{}, noHost(l.cfg.Name, name, hosts)
	}
	return member{}, &topology.Error{Kind: topology.ErrUnavailable, Item: "host " + name, What: "it does not run", Remedy: "'baize lab up' makes it anew"}
}

func noHost(lab, name string, have []string) error {
	return &topology.Error{Kind: topology.ErrNotFound, Item: "host " + name, What: "lab " + lab + " has no such host", Remedy: "it has " + strings.Join(have, ", ")}
}

// removeUnwanted removes the hosts that are not wanted any more, and all of
// them where the fabric they were joined by is gone.
func (l *Lab) removeUnwanted(ctx context.Context) error {
	all, err := l.running()
	if err != nil {
		return err
	}
	fabric, haveFabric := all[fabricName]
	delete(all, fabricName)
	for name, m := range all {
		switch {
		case !haveFabric:
			if err := l.killHost(ctx, m); err != nil {
				return err
			}
		case name == routerName && l.state.Segments > 1:
		case !slices.Contains(l.state.Hosts, name):
			end := l.begin("%s: remove", name)
			if err := end(l.retire(ctx, fabric, m)); err != nil {
				return err
			}
		}
	}
	// Directories of hosts that are gone, also where they were not retired.
	dirs, _ := filepath.Glob(filepath.Join(l.cfg.dir(), hostPrefix+"*"))
	for _, d := range dirs {
		if !slices.Contains(l.state.Hosts, filepath.Base(d)) {
			if err := os.RemoveAll(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// retire removes a host the way an operator does, and then kills it. A host
// that cannot do its part, because it is broken, goes all the same.
func (l *Lab) retire(ctx context.Context, fabric, m member) error {
	h := &Host{lab: l, name: m.name}
	limited, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if h.StopService(limited, ServiceAgent) == nil {
		bgp := l.state.bgpArgs(hostNumber(m.name), filepath.Join(l.cfg.dir(), m.name))
		_, _ = h.Exec(limited, append([]string{"baize"}, agentCleanupArgs(bgp)...)...)
	}
	_, err := l.inFabric(limited, fabric, nodeRemoveArgs(m.name)...)
	if killErr := l.killHost(ctx, m); killErr != nil {
		return killErr
	}
	_ = unplug(fabric, m.name)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	// A node that never registered is not there to be removed.
	if err != nil && !strings.Contains(err.Error(), "none of that name") && !strings.Contains(err.Error(), "not found") {
		return err
	}
	return nil
}

func (l *Lab) killHost(ctx context.Context, m member) error {
	err := kill(ctx, []member{m})
	unnameNetns(filepath.Join(netnsDir, netnsName(m.lab, m.name)))
	removeCgroups(m.lab, func(name string) bool { return name == m.name })
	return err
}

// initConfig is what a member is told.
func (l *Lab) initConfig(name string) initConfig {
	c := initConfig{
		Lab: l.cfg.Name, Member: name, Dir: filepath.Join(l.cfg.dir(), name), Binary: l.cfg.Binary, HostsFile: l.hostsFile(),
	}
	own := l.state.memberEnv(name)
	c.Segments = l.state.Segments
	gateways := func(segment int) {
		if c.Segments > 1 {
			for _, a := range routerAddrs(segment) {
				c.Gateways = append(c.Gateways, a.Addr())
			}
		}
	}
	switch {
	case c.isFabric():
		c.Addrs, c.Share = fabricAddrs(), l.cfg.dir()
		c.Args = etcdArgs(filepath.Join(c.Dir, "etcd"), filepath.Join(l.cfg.dir(), "etcd.sock"))
		gateways(0)
	case c.isRouter():
		c.Ports, c.FRR = l.state.routerPorts(), routerFRR(c.Segments)
	default:
		n := hostNumber(name)
		c.Addrs, c.MAC = hostAddrs(n, c.Segments), hostMAC(n).String()
		gateways(segmentOf(n, c.Segments))
		c.Args = agentArgs(l.state.agentArgs(n, c.Dir))
		c.Kernel, _ = hostnet.Datapath()
		if l.state.FRR {
			c.FRR = l.state.hostFRR(n)
		}
		c.Docker, c.DockerBridge, c.Engine = l.state.Docker, l.state.DockerBridge, l.state.Engines[name]
		if c.Flannel = l.state.Flannel; c.Flannel {
			c.Args, c.Etcd = append(c.Args, "--flannel"), etcdURL(l.state.IPv6Underlay)
		}
		if name == l.state.FlannelHost {
			c.Flanneld = l.state.Flanneld
		}
		if c.DockerBridge {
			c.Args = append(c.Args, "--docker-bridge", "docker0", "--docker-network", l.state.Networks[0].Name)
		}
	}
	c.Env = daemonEnv(os.LookupEnv, own, l.state.Env)
	return c
}

// upFabric makes the fabric with etcd.
func (l *Lab) upFabric(ctx context.Context) (member, error) {
	m, err := l.member(fabricName)
	fresh := err != nil
	if fresh {
		end := l.begin("fabric: make the underlay")
		m, err = spawn(l.initConfig(fabricName))
		if err == nil {
			err = l.awaitInit(ctx, m)
		}
		if err := end(err); err != nil {
			return m, err
		}
	}
	if err := nameNetns(m); err != nil {
		return m, err
	}
	if ready(m, ServiceEtcd) {
		return m, nil
	}
	end := l.begin("fabric: start etcd")
	return m, end(l.awaitService(ctx, m, ServiceEtcd, etcdTimeout))
}

// upRouter makes the router where there is one, and waits for its FRR.
func (l *Lab) upRouter(ctx context.Context, fabric member) error {
	if l.state.Segments < 2 {
		return nil
	}
	m, err := l.member(routerName)
	end := l.begin("router: join %d segments, start FRR", l.state.Segments)
	if err != nil {
		if m, err = spawn(l.initConfig(routerName)); err == nil {
			err = l.awaitInit(ctx, m)
		}
	}
	if err == nil {
		err = nameNetns(m)
	}
	for i := 0; err == nil && i < l.state.Segments; i++ {
		mac := hostMAC(routerLast - firstHost)
		mac[5] += byte(i)
		err = plug(fabric, m, cable{port: fmt.Sprintf("%s%d", routerName, i), bridge: segmentBridge(i), device: fmt.Sprintf("eth%d", i), mac: mac})
	}
	if err == nil && !stopped(m, ServiceBGPD) {
		err = l.awaitService(ctx, m, ServiceBGPD, ovsTimeout)
	}
	return end(err)
}

// inFabric runs baize where it reaches etcd.
func (l *Lab) inFabric(ctx context.Context, fabric member, args ...string) (string, error) {
	argv := append([]string{insideDir + "/bin/baize"}, args...)
	return run(ctx, enter(fabric, argv), execEnv(os.Environ(), []string{"BAIZE_ETCD_ENDPOINTS=" + etcdURL(l.state.IPv6Underlay)}, l.state.Env))
}

// upNetworks creates the networks, or changes their transport.
func (l *Lab) upNetworks(ctx context.Context, fabric member) error {
	if l.state.Flannel {
		return l.upFlannel(ctx)
	}
	for _, n := range l.state.Networks {
		want := l.state.transport(n)
		var have struct{ Transport topology.Transport }
		show, err := l.inFabric(ctx, fabric, networkShowArgs(n.Name)...)
		if err == nil && json.Unmarshal([]byte(show), &have) == nil {
			if have.Transport == want {
				continue
			}
			end := l.begin("network %s: change to %s", n.Name, want)
			_, err := l.inFabric(ctx, fabric, networkUpdateArgs(n.Name, want)...)
			if err := end(err); err != nil {
				return err
			}
			continue
		}
		var prefixes []string
		for _, p := range n.Prefixes {
			prefixes = append(prefixes, p.String())
		}
		end := l.begin("network %s: create %s (%s)", n.Name, strings.Join(prefixes, ", "), want)
		vni := ""
		if n.VNI != 0 {
			vni = strconv.FormatUint(uint64(n.VNI), 10)
		}
		_, err = l.inFabric(ctx, fabric, networkCreateArgs(n, want, vni, l.state.IPv6Underlay)...)
		if err := end(err); err != nil {
			return err
		}
	}
	return nil
}

// upHosts makes the hosts and their endpoints, several at a time.
func (l *Lab) upHosts(ctx context.Context, fabric member) error {
	running, err := l.running()
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelHosts)
	for _, name := range l.state.Hosts {
		g.Go(func() error {
			m, ok := running[name]
			return l.upHost(gctx, fabric, m, ok, name)
		})
	}
	return g.Wait()
}

func (l *Lab) upHost(ctx context.Context, fabric, m member, alive bool, name string) error {
	if !alive {
		end := l.begin("%s: make the host", name)
		c := l.initConfig(name)
		// A host that is rebuilt is a new installation that keeps its identity:
		// the endpoints of its old database went with their namespaces.
		err := errors.Join(os.RemoveAll(filepath.Join(c.Dir, "etc-openvswitch")), os.RemoveAll(filepath.Join(c.Dir, "lib-openvswitch")))
		if err == nil {
			m, err = spawn(c)
		}
		if err == nil {
			err = l.awaitInit(ctx, m)
		}
		if err := end(err); err != nil {
			return err
		}
	}
	if err := nameNetns(m); err != nil {
		return err
	}
	if err := plug(fabric, m, hostCable(name, l.state.Segments)); err != nil {
		return err
	}
	if !ready(m, ServiceVswitchd) && !stopped(m, ServiceVswitchd) {
		end := l.begin("%s: start Open vSwitch", name)
		if err := end(l.awaitService(ctx, m, ServiceVswitchd, ovsTimeout)); err != nil {
			return err
		}
	}
	networker := l.initConfig(name).networker()
	if stopped(m, networker) {
		return nil // somebody wants it so
	}
	if !ready(m, networker) {
		end := l.begin("%s: start the agent", name)
		if networker == ServiceFlannel {
			end = l.begin("%s: start flannel", name)
		}
		if err := end(l.awaitService(ctx, m, networker, agentTimeout)); err != nil {
			return err
		}
	}
	if l.state.Docker && !ready(m, ServiceDockerd) && !stopped(m, ServiceDockerd) {
		end := l.begin("%s: start Docker", name)
		if err := end(l.awaitService(ctx, m, ServiceDockerd, dockerTimeout)); err != nil {
			return err
		}
	}
	h := &Host{lab: l, name: name}
	for i, n := range l.state.Networks {
		for j, endpoint := range l.state.endpointNames(i) {
			if h.attached(m, endpoint) == n.Name {
				continue
			}
			if networker == ServiceFlannel {
				end := l.begin("%s: make container %s behind docker0", name, endpoint)
				if err := end(h.addBehindDocker0(ctx, m, j+1, endpoint)); err != nil {
					return err
				}
				continue
			}
			end := l.begin("%s: attach endpoint %s to network %s", name, endpoint, n.Name)
			if err := end(h.addEndpoint(ctx, m, n.Name, endpoint)); err != nil {
				return err
			}
		}
	}
	return nil
}
