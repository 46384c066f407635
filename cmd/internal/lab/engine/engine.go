// Package engine says what runs in the members of a lab, as services of their
// supervisor: Open vSwitch and the agent on hosts, etcd in the fabric, FRR on the
// router, and where they are asked for Docker, FRR and other programs on hosts. A
// file has one engine: its command line, its configuration, what has to be done
// before it starts, and how it shows that it is ready.
package engine

import (
	"context"
	"os"

	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/cmd/internal/lab/supervisor"
)

// Config is what a member's pid 1 reads of its engines, beside who it is and
// where.
type Config struct {
	member.Identity
	fabric.Place
	foreign
	// Args are those of the agent, or of etcd in the fabric.
	Args []string `json:"args"`
	// Docker says that a container engine runs here.
	Docker bool `json:"docker,omitempty"`
	// DockerBridge says that docker0 is a part of a network.
	DockerBridge bool `json:"dockerBridge,omitempty"`
	// Engine is the directory of the container engine, where it is not the
	// system's own.
	Engine string `json:"engine,omitempty"`
	// FRR is frr.conf where FRR runs here.
	FRR string `json:"frr,omitempty"`
}

// Runner runs a command to its end and returns what it printed.
type Runner func(ctx context.Context, argv ...string) (string, error)

// Services are those of a member in the order of their start.
func Services(c Config, run Runner) []*supervisor.Service {
	switch {
	case c.IsFabric():
		return []*supervisor.Service{etcdService(c)}
	case c.IsRouter():
		return routerServices(c, run)
	}
	all := append(ovsServices(c, run), networkService(c, run))
	if c.FRR != "" {
		// The switch takes over the underlay's addresses, and a zebra that starts
		// meanwhile (8.4) may never see them.
		all = append(all, frrServices(c, run, ServiceVswitchd)...)
	}
	if c.Docker {
		all = append(all, dockerServices(c, run)...)
	}
	return all
}

// networkService is what gives the host its subnet: the agent, or what runs in
// its place.
func networkService(c Config, run Runner) *supervisor.Service {
	if other := c.foreignService(c, run); other != nil {
		return other
	}
	return agentService(c)
}

// Networker is the name of networkService.
func Networker(c Config) string { return networkService(c, nil).Name }

// removeAll removes files that an earlier start has left.
func removeAll(files ...string) {
	for _, f := range files {
		_ = os.Remove(f)
	}
}
