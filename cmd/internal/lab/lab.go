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
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"

	"github.com/baize-net/baize/topology"
)

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

// CommandLine returns the command line of 'baize lab VERB' for a lab, for people.
func CommandLine(lab, verb string) string {
	line := "baize lab " + verb
	if lab != DefaultName {
		line += " --name " + lab
	}
	return line
}

func noLab(cfg Config) error {
	remedy := "make it with '" + CommandLine(cfg.Name, "up") + "'"
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
