package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/bgp"
	"github.com/baize-net/baize/cmd/internal/agent/docker"
	"github.com/baize-net/baize/cmd/internal/agent/docker0"
	"github.com/baize-net/baize/cmd/internal/agent/fastpath"
	"github.com/baize-net/baize/cmd/internal/agent/metrics"
	"github.com/baize-net/baize/cmd/internal/agent/names"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/cmd/internal/console"
	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/settings"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/source"
)

// Config is what an agent is started with.
type Config struct {
	// Node is the node's name; empty: the host's name.
	Node string
	// VTEP is an address or an interface; empty: the one that etcd is reached from.
	VTEP string
	// Bridge is the integration bridge's name.
	Bridge string
	// Datapath is "auto", "system" or "netdev".
	Datapath string
	// OVSDB is the database's address, OVSRunDir where ovs-vswitchd has its
	// control sockets; empty: Open vSwitch's own defaults.
	OVSDB, OVSRunDir string
	// FastPath is "auto" or "off" (fastpath.Config).
	FastPath string
	// SFlow is how the bridge tells of its packets; nil: not at all.
	SFlow *ovs.SFlow
	// Networks are those that the node leases subnets in before anything needs them,
	// LeaseGrace is how long it keeps its subnets after the last need.
	Networks   []string
	LeaseGrace time.Duration
	// StateDir keeps the node's identity, its endpoints and the last topology seen.
	StateDir string
	// Socket is where the local API is served.
	Socket string
	// Metrics is where metrics are served: an address and a port, or unix:PATH; empty:
	// they are not.
	Metrics string
	// DockerPlugin is "auto" (where an engine is installed), "on" or "off";
	// DockerSocket is where it is served.
	DockerPlugin, DockerSocket string
	// DockerRelay is the command line of what stands between Docker and the agent
	// (docker.Settings); empty: nothing does.
	DockerRelay []string
	// PublicNames: containers are answered names of the Internet, too, where a
	// container elsewhere has one.
	PublicNames bool
	// HostNames is where processes of the host may ask for names, as CheckHostNames
	// takes it; empty: nowhere.
	HostNames string
	// VXLANPort and GenevePort are UDP ports; 0: the standard ones.
	VXLANPort, GenevePort int
	// LivenessTTL is how long after its death peers see the agent as alive.
	LivenessTTL time.Duration
	// ReadyAfter is how long what systemd orders after the agent waits for a node that is
	// not ready; 0: until it is.
	ReadyAfter time.Duration
	// AuditInterval is how often whole flow texts are compared.
	AuditInterval time.Duration
	// ProbeInterval is how long a round of probes to all peers takes; 0: none are sent
	// or answered.
	ProbeInterval time.Duration
	// DockerBridge is docker0 where that is to be a part of DockerNetwork; empty:
	// it is not.
	DockerBridge string
	// DockerNetwork is empty where there is one network only.
	DockerNetwork string
	// DockerEnv is the file that says what Docker must be started with.
	DockerEnv string
	// Etcd says where the topology is. WithoutEtcd: there is none, and the topology is
	// that of Sources alone; Reach is what they are reached at.
	Etcd        etcdstore.Config
	WithoutEtcd bool
	Reach       []Reached
	// Sources make the further sources of the topology.
	Sources []SourceMaker `json:"-"`
	// Masquerade says of which networks packets that leave get this host's address;
	// nil: of none.
	Masquerade func(topology.Network) bool `json:"-"`
	// Pods says in which networks this host routes to containers past the switch, whose
	// packets the host's firewall is to let pass; nil: in none.
	Pods func(topology.Network) bool `json:"-"`
	// BGP makes the agent speak with the routers of the fabric, where it has an
	// AS or neighbours.
	BGP bgp.Config
	// NoRemoteCapture: packets are captured for commands of this host only.
	NoRemoteCapture bool
	// Console is how the console is served; without Listen it is not.
	Console console.Access
	// Version is the program's.
	Version string
	// Settings are the flags that all this came from, for the local API.
	Settings []settings.Setting `json:"-"`
}

// Reached is an address that the agent has to reach for its topology.
type Reached struct {
	Addr netip.Addr
	// What it is, in messages: "etcd's address".
	What string
}

// SourceMaker makes a source of the topology for an agent.
type SourceMaker func(SourceDeps) (source.Source, error)

// SourceDeps is what an agent gives a source.
type SourceDeps struct {
	// Node is the node's name.
	Node string
	// Cache returns a cache in a file of the state directory.
	Cache func(file string, decode func(int64, []topology.KV) *topology.Snapshot) source.Cache
	// Changed is to be called when Merge has something new.
	Changed func()
	// Member tells what others have to know of the node.
	Member func(ctx context.Context) (source.Member, error)
	// Infof takes what an operator wants to have read.
	Infof func(format string, args ...any)
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
	set(&c.FastPath, fastpath.ModeAuto)
	set(&c.OVSDB, vswitch.DefaultEndpoint)
	set(&c.StateDir, "/var/lib/baize")
	set(&c.Socket, api.DefaultSocket)
	set(&c.DockerPlugin, docker.ModeAuto)
	set(&c.DockerSocket, docker.DefaultSocket)
	set(&c.DockerEnv, subnetenv.BaizeFile)
	if c.LivenessTTL == 0 {
		c.LivenessTTL = 10 * time.Second
	}
	if c.AuditInterval <= 0 {
		c.AuditInterval = 30 * time.Second
	}
	if !slices.Contains([]string{"auto", "system", "netdev"}, c.Datapath) {
		return c, &topology.Error{
			Kind:   topology.ErrInvalid,
			Item:   "datapath " + c.Datapath,
			What:   "unknown",
			Remedy: "use auto, system (kernel) or netdev (userspace)",
		}
	}
	if c.DockerBridge != "" && c.DockerBridge != docker0.Bridge {
		return c, &topology.Error{
			Kind: topology.ErrInvalid, Item: "--docker-bridge " + c.DockerBridge,
			What:   "dockerd takes an address (--bip) for docker0 only",
			Remedy: "use docker0; for further networks there is the plugin, 'docker network create -d baize'",
		}
	}
	if err := fastpath.CheckMode(c.FastPath); err != nil {
		return c, err
	}
	if c.Metrics != "" {
		if err := metrics.CheckAddress(c.Metrics); err != nil {
			return c, err
		}
	}
	if err := docker.CheckMode(c.DockerPlugin); err != nil {
		return c, err
	}
	return c, topology.CheckName("node", c.Node)
}

// speaks reports whether BGP was asked for.
func (c Config) speaks() bool { return c.BGP.AS != 0 || len(c.BGP.Neighbors) > 0 }

// reached returns what the agent has to reach: what Reach says, and etcd's endpoints that
// are addresses.
func (c Config) reached() []Reached {
	out := slices.Clone(c.Reach)
	if c.WithoutEtcd {
		return out
	}
	for _, e := range c.Etcd.Endpoints {
		if _, rest, ok := strings.Cut(e, "://"); ok {
			e = rest
		}
		if ap, err := netip.ParseAddrPort(e); err == nil {
			out = append(out, Reached{ap.Addr(), "etcd's address"})
		}
	}
	return out
}

// protected are those addresses: a network that covers one would cut this host off
// from it.
func (c Config) protected() []kernel.Protected {
	var out []kernel.Protected
	for _, r := range c.reached() {
		out = append(out, kernel.Protected{Addr: r.Addr, What: r.What})
	}
	return out
}

func (c Config) identityFile() string { return filepath.Join(c.StateDir, "node-id") }

// knownID returns the installation's identity, empty while it has none.
func (c Config) knownID() (string, error) {
	b, err := os.ReadFile(c.identityFile())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the node's identity: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// nodeID returns the installation's identity, drawn once.
func (c Config) nodeID() (string, error) {
	id, err := c.knownID()
	if id != "" || err != nil {
		return id, err
	}
	file := c.identityFile()
	id = rand.Text()
	if err := os.MkdirAll(c.StateDir, 0o750); err != nil {
		return "", fmt.Errorf("keep the node's identity: %w", err)
	}
	if err := atomicfile.Write(file, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the node's identity: %w", err)
	}
	return id, nil
}

// CheckHostNames says whether HostNames can be a text: a loopback address, or one with
// a port.
func CheckHostNames(s string) error {
	_, err := names.ParseHost(s)
	return err
}
