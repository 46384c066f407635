package docker

import (
	"cmp"
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

const (
	// dismissTimeout is ample for a process that has nothing to finish.
	dismissTimeout = 2 * time.Second
	// relayTimeout is how long a relay has to start on a busy machine.
	relayTimeout = 20 * time.Second
	// relayPause is between two of them.
	relayPause = time.Second
)

// marks are what an engine that is installed has, started or not yet: at boot
// the agent comes first.
var marks = []string{"/run/docker", "/var/lib/docker", "/etc/docker"}

// Settings are what the part is started with.
type Settings struct {
	// Mode is ModeAuto, ModeOn or ModeOff.
	Mode string
	// Socket is where engines look for the plugin, StateDir has its file.
	Socket, StateDir string
	// Relay, with Socket and AgentSocket as two more arguments, is the command
	// line of the relay between engines and the agent; empty: the agent answers
	// engines itself.
	Relay []string
	// AgentSocket is where the relay finds the agent.
	AgentSocket string
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
	// program is the relay's executable file, as programOf tells it.
	program string
	faults  part.Faults
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

// FaultsWake implements part.FaultTeller.
func (p *Part) FaultsWake(s part.Signal) { p.faults.Wakes(s) }

// Listen makes the socket, before the node is ready: an engine that starts then
// finds it.
func (p *Part) Listen() error {
	l, err := p.listen()
	p.faults.Set(nil)
	if err != nil {
		p.faults.Set(fault.All(err))
		return err
	}
	p.listener = l
	return nil
}

func (p *Part) listen() (net.Listener, error) {
	if len(p.settings.Relay) == 0 {
		dismiss(p.settings.Socket)
		return api.ListenAndKeep(p.settings.Socket)
	}
	l, err := api.ListenAndKeep(p.settings.AgentSocket)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), relayTimeout)
	defer cancel()
	// One that is there will do for now: Run sees to the rest.
	if err := follow(ctx, p.settings.Socket, func(identity) bool { return false }); err == nil {
		return l, nil
	}
	if err := p.replaceRelay(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
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
	g := part.NewGroup(ctx)
	g.Go(func(ctx context.Context) error { return p.plugin.Serve(ctx, l) })
	if len(p.settings.Relay) > 0 {
		g.Go(func(ctx context.Context) error { p.keepRelay(ctx); return nil })
	}
	return g.Wait()
}

// keepRelay sees to it that there is a relay, and that it is of this program.
func (p *Part) keepRelay(ctx context.Context) {
	for {
		err := follow(ctx, p.settings.Socket, p.suits)
		if ctx.Err() != nil {
			return
		}
		p.log.Infof("Docker's requests get a new relay: %v", cmp.Or(err, errAnother))
		limited, cancel := context.WithTimeout(ctx, relayTimeout)
		err = p.replaceRelay(limited)
		cancel()
		p.faults.Set(nil)
		if err != nil {
			p.faults.Set(fault.All(err))
			p.log.Warn(err)
		}
		if !part.Sleep(ctx, relayPause) {
			return
		}
	}
}

var errAnother = errors.New("the one that is there is of another program")

// suits reports whether a relay is the one that this agent would start.
func (p *Part) suits(is identity) bool {
	program := p.program
	if program == "" {
		program, _ = programOf(p.settings.Relay[0])
	}
	return is == identity{program, p.settings.AgentSocket}
}

// replaceRelay starts a relay in place of whoever answers engines, and waits
// until it does.
func (p *Part) replaceRelay(ctx context.Context) error {
	dismiss(p.settings.Socket)
	if err := free(ctx, p.settings.Socket); err != nil {
		return err
	}
	argv := append(slices.Clone(p.settings.Relay), p.settings.Socket, p.settings.AgentSocket)
	if err := startRelay(argv); err != nil {
		return err
	}
	for {
		err := follow(ctx, p.settings.Socket, func(is identity) bool {
			p.program = is.Program // whatever the command line came to
			return false
		})
		if err == nil {
			return nil
		}
		if !part.Sleep(ctx, again) {
			return &topology.Error{
				Kind: topology.ErrUnavailable, Item: "Docker plugin " + p.settings.Socket,
				What: "its relay does not answer: " + err.Error(), Remedy: "look at the log of the agent",
			}
		}
	}
}

// free returns once nobody listens on a socket.
func free(ctx context.Context, socket string) error {
	for range 20 {
		l, err := api.Listen(socket)
		if err == nil {
			return l.Close()
		}
		if !errors.Is(err, topology.ErrConflict) || !part.Sleep(ctx, again) {
			return err
		}
	}
	l, err := api.Listen(socket)
	if err == nil {
		err = l.Close()
	}
	return err
}

// Cleanup implements part.Part.
func (p *Part) Cleanup(_ context.Context, undo part.Undo) ([]string, error) {
	if !undo.DryRun {
		dismiss(p.settings.Socket)
	}
	return undo.RemoveFiles(p.plugin.file)
}

func dismiss(socket string) {
	ctx, cancel := context.WithTimeout(context.Background(), dismissTimeout)
	defer cancel()
	Dismiss(ctx, socket)
}
