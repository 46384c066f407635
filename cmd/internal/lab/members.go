package lab

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/lab/engine"
	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/topology"
)

// refuseNamesake: two labs of one name would fight for names of namespaces.
func (l *Lab) refuseNamesake() error {
	all, err := member.Find(l.cfg.Name)
	if err != nil {
		return err
	}
	for _, m := range all {
		if filepath.Dir(m.Dir) != l.cfg.dir() {
			return &topology.Error{
				Kind: topology.ErrExists, Item: "lab " + l.cfg.Name, What: "one of that name runs in " + filepath.Dir(m.Dir),
				Remedy: "choose another name with --name",
			}
		}
	}
	return nil
}

// running returns the members of this lab by name. Of two with one name, which
// nothing but a broken lock can cause, one is taken.
func (l *Lab) running() (map[string]member.Member, error) {
	all, err := member.Find(l.cfg.Name)
	out := map[string]member.Member{}
	for _, m := range all {
		out[m.Name] = m
	}
	return out, err
}

// member finds a running member.
func (l *Lab) member(name string) (member.Member, error) {
	all, err := l.running()
	if err != nil {
		return member.Member{}, err
	}
	if m, ok := all[name]; ok {
		return m, nil
	}
	l.mu.Lock()
	hosts := slices.Clone(l.state.Hosts)
	l.mu.Unlock()
	if name != member.Fabric && name != member.Router && !slices.Contains(hosts, name) {
		return member.Member{}, noHost(l.cfg.Name, name, hosts)
	}
	return member.Member{}, &topology.Error{
		Kind: topology.ErrUnavailable, Item: "host " + name, What: "it does not run", Remedy: remake(l.cfg.Name),
	}
}

// remake is the remedy for what does not run.
func remake(lab string) string { return "'" + CommandLine(lab, "up") + "' makes it anew" }

func noHost(lab, name string, have []string) error {
	return &topology.Error{
		Kind: topology.ErrNotFound, Item: "host " + name, What: "lab " + lab + " has no such host",
		Remedy: "it has " + strings.Join(have, ", "),
	}
}

// memberConfig is what a member's pid 1 is to read.
func (l *Lab) memberConfig(name string) engine.Config {
	c := engine.Config{Identity: member.Identity{
		Lab: l.cfg.Name, Member: name, Dir: filepath.Join(l.cfg.dir(), name), Binary: l.cfg.Binary,
		HostsFile: l.cfg.hostsFile(),
		Env:       member.DaemonEnv(os.LookupEnv, l.state.memberEnv(name), l.state.Env),
	}}
	switch {
	case c.IsFabric():
		c.Share = l.cfg.dir()
		c.Place = fabric.OwnPlace(l.state.Segments)
		c.Args = etcdArgs(filepath.Join(c.Dir, "etcd"), l.cfg.etcdSocket())
	case c.IsRouter():
		c.Place = fabric.RouterPlace(l.state.Segments)
		c.FRR = engine.FRRRouterConf(l.state.Segments)
	default:
		l.state.tellHost(&c)
	}
	return c
}

// tellHost adds to a host's configuration what is a host's.
func (s *state) tellHost(c *engine.Config) {
	n := member.HostNumber(c.Member)
	kernel, _ := hostnet.Datapath()
	c.Place = fabric.HostPlace(n, s.Segments, kernel)
	c.Args = agentArgs(s.agentArgs(n, c.Dir))
	if s.FRR {
		c.FRR = engine.FRRHostConf(s.topologyNetworks(), n, s.Segments)
	}
	c.Docker, c.DockerBridge, c.Engine = s.Docker, s.DockerBridge, s.Engines[c.Member]
	s.tellForeign(c)
	if c.DockerBridge && len(s.Networks) > 0 {
		c.Args = append(c.Args, "--docker-bridge", "docker0", "--docker-network", s.Networks[0].Name)
	}
}

// topologyNetworks are the networks as Baize knows them.
func (s *state) topologyNetworks() (all []topology.Network) {
	for _, n := range s.Networks {
		all = append(all, n.network(s.transport(n)))
	}
	return all
}

// agentArgs are the arguments of the agent of host n, whose directory is dir.
func (s *state) agentArgs(n int, dir string) []string {
	return append(s.agentBGPArgs(n, dir), s.AgentArgs...)
}

// agentBGPArgs are those of BGP: where there is a router, and no FRR beside the
// agent, it speaks to the router itself.
func (s *state) agentBGPArgs(n int, dir string) []string {
	if s.Segments < 2 || s.FRR {
		return nil
	}
	return engine.BGPArgs(n, s.Segments, dir)
}
