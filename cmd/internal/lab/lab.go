// Package lab makes hosts out of namespaces on one machine: each has its own
// Open vSwitch, run directory and agent, an underlay segment joins them, and
// an etcd serves them all.
//
// A host is a process, 'baize lab host-init', that is pid 1 of a network,
// mount, pid, UTS and IPC namespace. Killing it removes the host with all that
// it runs. The fabric, a bridge that stands for the physical network, is such
// a process too; etcd runs in it.
//
// What runs is found in /proc by the command line of those processes and never
// remembered: a lab whose maker was killed at any moment can be completed by
// Up and removed by Down. All addresses live in namespaces, so labs of
// different names do not meet.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/baize-net/baize/topology"
)

// Defaults of Config.
const (
	DefaultName    = "lab"
	DefaultHosts   = 3
	DefaultBaseDir = "/run/baize-lab"
	DefaultNetwork = "blue"
)

// NetworkSpec is a network that the lab creates.
type NetworkSpec struct {
	Name string `json:"name"`
	// Prefixes are its address ranges, at most one a family.
	Prefixes []netip.Prefix `json:"prefixes"`
	// Transport is that of the lab where empty.
	Transport topology.Transport `json:"transport,omitempty"`
	// VNI is chosen by Baize where 0.
	VNI uint32 `json:"vni,omitempty"`
	// Endpoints is how many each host gets, that of the lab where 0. In the
	// first network they are called c1, c2, …, in others NETWORK-c1, ….
	Endpoints int `json:"endpoints,omitempty"`
}

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
	// Flannel makes the network flannel's, in flannel's own keys, and the agents
	// part of it. Flanneld, where it is not empty, is flannel's program (or one
	// that takes -etcd-endpoints and -iface), which the last host runs in place of
	// the agent.
	Flannel  bool
	Flanneld string
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

// Event is a step that began or ended.
type Event struct {
	// Step is what is done, for people: "host1: start Open vSwitch".
	Step string
	// Ended is false at the beginning of the step.
	Ended bool
	// Elapsed is what the step took, where it ended.
	Elapsed time.Duration
	// Done of Total steps have ended; both grow.
	Done, Total int
}

// Lab is a lab that runs.
type Lab struct {
	cfg   Config
	state state

	// Steps are those of Up with what each took.
	Steps []Event
	// Proof is what Up proved; nil with NoProof.
	Proof *Proof

	mu          sync.Mutex
	done, total int
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
	if c.Hosts < 0 || c.Hosts > MaxHosts {
		return c, &topology.Error{Kind: topology.ErrInvalid, Item: fmt.Sprintf("%d hosts", c.Hosts), What: fmt.Sprintf("a lab has 1 to %d", MaxHosts), Remedy: "give another number with --hosts"}
	}
	if c.Segments < 0 || c.Segments > MaxSegments {
		return c, &topology.Error{Kind: topology.ErrInvalid, Item: fmt.Sprintf("%d segments", c.Segments), What: fmt.Sprintf("a lab's underlay has 1 to %d", MaxSegments), Remedy: "give another number with --segments"}
	}
	if c.FRR && c.Segments == 1 {
		return c, &topology.Error{Kind: topology.ErrInvalid, Item: "FRR on the hosts", What: "with one segment there is no router to speak with", Remedy: "add --segments 2"}
	}
	return c, nil
}

// paths of a lab's state.
func (c Config) dir() string      { return filepath.Join(c.BaseDir, c.Name) }
func (c Config) lockFile() string { return filepath.Join(c.BaseDir, ".lock-"+c.Name) }

// Open returns a lab that exists, as its last Up left it; Config.Name, BaseDir,
// Binary and Progress are used. The error is of kind topology.ErrNotFound where
// there is none of that name.
func Open(cfg Config) (*Lab, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Lab{cfg: cfg}
	l.state, err = readState(cfg.dir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noLab(cfg)
	}
	return l, err
}

func noLab(cfg Config) error {
	remedy := "make one with 'baize lab up'"
	if cfg.Name != DefaultName {
		remedy = "make it with 'baize lab up --name " + cfg.Name + "'"
	}
	if have, err := List(cfg.BaseDir); err == nil && len(have) > 0 {
		remedy += fmt.Sprintf(", or choose of %v with --name", have)
	}
	return &topology.Error{Kind: topology.ErrNotFound, Item: "lab " + cfg.Name, What: "there is none", Remedy: remedy}
}

// List returns the names of the labs under a base directory, sorted.
func List(baseDir string) ([]string, error) {
	if baseDir == "" {
		baseDir = DefaultBaseDir
	}
	files, err := filepath.Glob(filepath.Join(baseDir, "*", stateFile))
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(filepath.Dir(f)))
	}
	slices.Sort(names)
	return names, err
}

// Name returns the lab's name.
func (l *Lab) Name() string { return l.cfg.Name }

// Dir returns the directory of the lab's state and logs.
func (l *Lab) Dir() string { return l.cfg.dir() }

// EtcdEndpoint returns the address of the lab's etcd for processes outside of
// its namespaces.
func (l *Lab) EtcdEndpoint() string { return "unix://" + filepath.Join(l.cfg.dir(), "etcd.sock") }

// Networks returns the networks that the lab created.
func (l *Lab) Networks() []NetworkSpec { return slices.Clone(l.state.Networks) }

// Hosts returns the lab's hosts in the order of their numbers.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	var hosts []*Host
	for _, name := range l.state.Hosts {
		hosts = append(hosts, &Host{lab: l, name: name})
	}
	return hosts
}

// Host returns a host by name. Whether it exists shows when it is used: errors
// name those that do.
func (l *Lab) Host(name string) *Host { return &Host{lab: l, name: name} }

// begin reports a step to Progress; the function returned reports its end and
// passes the error on.
func (l *Lab) begin(format string, args ...any) func(error) error {
	step := fmt.Sprintf(format, args...)
	start := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total++
	l.tell(Event{Step: step, Done: l.done, Total: l.total})
	return func(err error) error {
		if err != nil {
			return stepFailed(step, err)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.done++
		e := Event{Step: step, Ended: true, Elapsed: time.Since(start), Done: l.done, Total: l.total}
		l.Steps = append(l.Steps, e)
		l.tell(e)
		return nil
	}
}

func (l *Lab) tell(e Event) {
	if l.cfg.Progress != nil {
		l.cfg.Progress(e)
	}
}

// stepFailed names the step, keeping errors that are for people as they are.
func stepFailed(step string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%s: %w", step, err)
}
