package lab

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/baize-net/baize/topology"
)

// Defaults of Config.
const (
	DefaultName    = "lab"
	DefaultHosts   = 3
	DefaultBaseDir = "/run/baize-lab"
	DefaultNetwork = "blue"
)

// Config says what a lab is to be. For a lab that exists, zero values mean
// what it is already.
type Config struct {
	// Name tells labs on one machine apart.
	Name string
	// Hosts is their number, host1 to hostN; at most MaxHosts.
	Hosts int
	// Transport is that of every network that does not say its own; vxlan
	// where empty.
	Transport topology.Transport
	// Networks are created in this order; where empty, DefaultNetwork with
	// 10.1.0.0/16 and fd00:10:1::/48.
	Networks []NetworkSpec
	// Endpoints is the number on each host in each network; 1 where 0,
	// none where negative.
	Endpoints int
	// IPv6Underlay makes tunnels and etcd use the fabric's IPv6 addresses.
	IPv6Underlay bool
	// Segments of the underlay, at most MaxSegments: hosts take turns in them, and
	// a router with FRR is between them. 1 where 0.
	Segments int
	// FRR makes FRR run on every host, beside its agent, and hand the host's
	// routes to the router. Without it the agents of a lab of several segments
	// do, with --bgp.
	FRR bool
	// Docker makes a container engine run on every host, with one image,
	// DockerImage.
	Docker bool
	// DockerBridge makes each engine's docker0 a part of the first network; it
	// implies Docker.
	DockerBridge bool
	// Foreign makes the network another program's.
	Foreign
	// Engines are directories with a dockerd of another version, and what it
	// runs beside it, by the host that is to have it.
	Engines map[string]string
	// AgentArgs are added to 'baize agent'.
	AgentArgs []string
	// Env is added to the environment of what the hosts run, as NAME=VALUE.
	Env []string
	// ProofBytes is how much Prove sends each way between two endpoints; where 0,
	// 4 MiB, and less where there are very many.
	ProofBytes int64
	// BaseDir holds the state of labs; DefaultBaseDir where empty.
	BaseDir string
	// Binary is the baize executable; this process's own where empty.
	Binary string
	// NoProof makes Up end without sending traffic between endpoints.
	NoProof bool
	// Progress, unless nil, hears what Up and Down do. Calls do not overlap.
	Progress func(Event)
}

// withDefaults fills in what does not depend on a lab that exists.
func (c Config) withDefaults() (Config, error) {
	if c.Name == "" {
		c.Name = DefaultName
	}
	if c.BaseDir == "" {
		c.BaseDir = DefaultBaseDir
	}
	if err := topology.CheckName("lab", c.Name); err != nil {
		return c, err
	}
	base, err := filepath.Abs(c.BaseDir)
	if err != nil {
		return c, err
	}
	c.BaseDir = base
	if c.Binary == "" {
		c.Binary, err = os.Executable()
	} else {
		c.Binary, err = filepath.Abs(c.Binary)
	}
	if err != nil {
		return c, fmt.Errorf("the baize executable: %w", err)
	}
	return c, c.check()
}

// check refuses what no lab can be.
func (c Config) check() error {
	if c.Hosts < 0 || c.Hosts > MaxHosts {
		return &topology.Error{
			Kind: topology.ErrInvalid, Item: fmt.Sprintf("%d hosts", c.Hosts), What: fmt.Sprintf("a lab has 1 to %d", MaxHosts),
			Remedy: "give another number with --hosts",
		}
	}
	if c.Segments < 0 || c.Segments > MaxSegments {
		return &topology.Error{
			Kind: topology.ErrInvalid, Item: fmt.Sprintf("%d segments", c.Segments),
			What: fmt.Sprintf("a lab's underlay has 1 to %d", MaxSegments), Remedy: "give another number with --segments",
		}
	}
	if c.FRR && c.Segments == 1 {
		return &topology.Error{
			Kind: topology.ErrInvalid, Item: "FRR on the hosts", What: "with one segment there is no router to speak with",
			Remedy: "add --segments 2",
		}
	}
	return nil
}

// Paths of a lab's state.
func (c Config) dir() string        { return filepath.Join(c.BaseDir, c.Name) }
func (c Config) lockFile() string   { return filepath.Join(c.BaseDir, ".lock-"+c.Name) }
func (c Config) hostsFile() string  { return filepath.Join(c.dir(), "etc-hosts") }
func (c Config) etcdSocket() string { return filepath.Join(c.dir(), "etcd.sock") }
