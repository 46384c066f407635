package docker

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/names"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Values of Settings.Mode.
const (
	ModeAuto = "auto" // where an engine is installed
	ModeOn   = "on"
	ModeOff  = "off"
)

// networksFile, in the state directory, has the networks of this host's engine.
const networksFile = "docker-networks.json"

// dismissTimeout is ample for a process that has nothing to finish.
const dismissTimeout = 2 * time.Second

// marks are what an engine that is installed has, started or not yet: at boot
// the agent comes first.
var marks = []string{"/run/docker", "/var/lib/docker", "/etc/docker"}

// Settings are what the part is started with.
type Settings struct {
	// Mode is ModeAuto, ModeOn or ModeOff.
	Mode string
	// Socket is where the plugin is served, StateDir has its file.
	Socket, StateDir string
	// StandIn, with the socket as one more argument, is the command line of who
	// answers Docker while no agent does; empty: nobody does.
	StandIn []string
}

// CheckMode refuses what is no mode.
func CheckMode(mode string) error {
	if slices.Contains([]string{ModeAuto, ModeOn, ModeOff}, mode) {
		return nil
	}
	return &topology.Error{
		Kind:   topology.ErrInvalid,
		Item:   "Docker plugin " + mode,
		What:   "unknown",
		Remedy: "use auto (where Docker is installed), on or off",
	}
}

// Wanted reports whether the plugin is to be served on this host.
func (s Settings) Wanted() bool {
	return s.Mode == ModeOn || (s.Mode == ModeAuto && installed())
}

func installed() bool {
	if _, err := exec.LookPath("dockerd"); err == nil {
		return true
	}
	return slices.ContainsFunc(marks, func(f string) bool {
		_, err := os.Stat(f)
		return err == nil
	})
}

// Part is the part of the agent that serves the plugin.
type Part struct {
	settings Settings
	plugin   *Plugin
	log      *logrus.Entry
	listener net.Listener // made by Listen, used by the first Run
	faults   part.Faults
}

// NewPart returns the part. It starts nothing.
func NewPart(s Settings, node Node, log *logrus.Entry) *Part {
	log = log.WithField("part", "docker")
	return &Part{settings: s, log: log, plugin: New(node, filepath.Join(s.StateDir, networksFile), DefaultEngine, log)}
}

// Called tells what the engine calls its containers.
func (p *Part) Called() *part.Cell[names.Called] { return p.plugin.Called() }

// Used tells which networks the engine has.
func (p *Part) Used() *part.Cell[map[string][]string] { return p.plugin.Used() }

// Name implements part.Part.
func (p *Part) Name() string { return "docker" }

// Faults implements part.Part.
func (p *Part) Faults() []fault.Fault { return p.faults.Get() }

// Listen makes the socket, before the node is ready: an engine that starts then
// finds it.
func (p *Part) Listen() error {
	l, err := replaceStandIn(p.settings.Socket)
	if err != nil {
		p.faults.Set(fault.All(err))
		return err
	}
	p.faults.Set(nil)
	p.listener = l
	if len(p.settings.StandIn) > 0 {
		if err := StartStandIn(append(slices.Clone(p.settings.StandIn), p.settings.Socket)); err != nil {
			p.log.Warnf("while no agent runs, Docker will wait for one: %v", err)
		}
	}
	return nil
}

// Run implements part.Part.
func (p *Part) Run(ctx context.Context) error {
	p.plugin.load() // whether or not there can be a socket
	if p.listener == nil {
		if err := p.Listen(); err != nil {
			return err
		}
	}
	l := p.listener
	p.listener = nil
	return p.plugin.Serve(ctx, l)
}

// Cleanup implements part.Part.
func (p *Part) Cleanup(context.Context) ([]string, error) {
	dismiss(p.settings.Socket)
	return part.RemoveFiles(p.plugin.file)
}

// replaceStandIn listens in place of a stand-in, which may come up in this
// moment.
func replaceStandIn(socket string) (l net.Listener, err error) {
	for range 3 {
		dismiss(socket)
		if l, err = api.Listen(socket); !errors.Is(err, topology.ErrConflict) {
			break
		}
	}
	return l, err
}

func dismiss(socket string) {
	ctx, cancel := context.WithTimeout(context.Background(), dismissTimeout)
	defer cancel()
	Dismiss(ctx, socket)
}
