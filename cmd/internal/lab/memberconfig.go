package lab

import (
	"os"
	"path/filepath"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/lab/engine"
	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/topology"
)

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
		l.state.addHostConfig(&c)
	}
	return c
}

// addHostConfig adds to a host's configuration what is a host's.
func (s *state) addHostConfig(c *engine.Config) {
	n := member.HostNumber(c.Member)
	kernel, _ := hostnet.Datapath()
	c.Place = fabric.HostPlace(n, s.Segments, kernel)
	c.Args = agentArgs(s.agentArgs(n, c.Dir))
	if s.FRR {
		c.FRR = engine.FRRHostConf(s.topologyNetworks(), n, s.Segments)
	}
	c.Docker, c.DockerBridge, c.Engine = s.Docker, s.DockerBridge, s.Engines[c.Member]
	s.addForeignConfig(c)
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
