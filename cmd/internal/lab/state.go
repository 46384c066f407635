package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/topology"
)

const stateFile = "lab.json"

// state is what a lab is wanted to be, kept in lab.json. What it is shows in
// /proc.
type state struct {
	Hosts        []string           `json:"hosts"` // by number
	Transport    topology.Transport `json:"transport"`
	Networks     []NetworkSpec      `json:"networks"`
	Endpoints    int                `json:"endpoints"`
	IPv6Underlay bool               `json:"ipv6Underlay,omitempty"`
	Docker       bool               `json:"docker,omitempty"`
	DockerBridge bool               `json:"dockerBridge,omitempty"`
	Segments     int                `json:"segments,omitempty"` // 0 is 1
	FRR          bool               `json:"frr,omitempty"`
	Flannel      bool               `json:"flannel,omitempty"`
	Flanneld     string             `json:"flanneld,omitempty"`
	FlannelHost  string             `json:"flannelHost,omitempty"`
	Engines      map[string]string  `json:"engines,omitempty"`
	AgentArgs    []string           `json:"agentArgs,omitempty"`
	Env          []string           `json:"env,omitempty"`
}

// readState returns a wrapped fs.ErrNotExist where there is no lab.
func readState(dir string) (state, error) {
	var s state
	b, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, &topology.Error{Kind: topology.ErrInvalid, Item: filepath.Join(dir, stateFile), What: err.Error(), Remedy: "remove the lab with 'baize lab down' and make it anew"}
	}
	return s, nil
}

func (s state) write(dir string) error { return writeJSON(filepath.Join(dir, stateFile), s) }

// writeJSON replaces a file whole, or not at all.
func writeJSON(file string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(file, append(b, '\n'), 0o600)
}

// merge changes a state to what a configuration asks for.
func (s state) merge(c Config) (state, error) {
	if c.Transport != "" && c.Transport != s.Transport {
		// Networks that followed the lab's transport follow the new one.
		s.Transport = c.Transport
	}
	if s.Transport == "" {
		s.Transport = topology.VXLAN
	}
	if len(c.Networks) > 0 {
		if err := sameNetworks(s.Networks, c.Networks); err != nil {
			return s, err
		}
		s.Networks = slices.Clone(c.Networks)
	}
	if len(s.Networks) == 0 && !c.Flannel {
		s.Networks = []NetworkSpec{DefaultNetworkSpec(netip.Prefix{})}
	}
	if c.Endpoints != 0 {
		s.Endpoints = max(c.Endpoints, 0)
	} else if len(s.Hosts) == 0 {
		s.Endpoints = 1
	}
	s, err := s.mergeFlannel(c)
	if err != nil {
		return s, err
	}
	if c.DockerBridge && !s.DockerBridge && len(s.Hosts) > 0 {
		return s, &topology.Error{Kind: topology.ErrConflict, Item: "lab " + c.Name, What: "it runs without docker0 in a network, and a host's services do not change", Remedy: "remove the lab first with 'baize lab down'"}
	}
	s.DockerBridge = s.DockerBridge || c.DockerBridge
	c.Docker = c.Docker || c.DockerBridge
	if c.Docker && !s.Docker && len(s.Hosts) > 0 {
		return s, &topology.Error{Kind: topology.ErrConflict, Item: "lab " + c.Name, What: "it runs without Docker, and a host's services do not change", Remedy: "remove the lab first with 'baize lab down'"}
	}
	s.Docker = s.Docker || c.Docker
	if (c.Segments != 0 && c.Segments != max(s.Segments, 1) || c.FRR && !s.FRR) && len(s.Hosts) > 0 {
		return s, &topology.Error{Kind: topology.ErrConflict, Item: "lab " + c.Name, What: fmt.Sprintf("it runs with %d segments of the underlay, FRR on its hosts: %t, and hosts do not change in that", max(s.Segments, 1), s.FRR), Remedy: "remove the lab first with 'baize lab down'"}
	}
	if c.Segments > 1 {
		s.Segments = c.Segments
	}
	if c.FRR && s.Segments < 2 {
		s.Segments = MaxSegments
	}
	s.FRR = s.FRR || c.FRR
	if c.Engines != nil {
		s.Engines = c.Engines
	}
	s.IPv6Underlay = s.IPv6Underlay || c.IPv6Underlay
	if c.AgentArgs != nil {
		s.AgentArgs = c.AgentArgs
	}
	if c.Env != nil {
		s.Env = c.Env
	}
	n := c.Hosts
	if n == 0 {
		n = len(s.Hosts)
	}
	if n == 0 {
		n = DefaultHosts
	}
	s.Hosts = resize(s.Hosts, n)
	return s.flannelHost(c), nil
}

// DefaultNetworkSpec returns the network blue. ipv4, where valid, replaces
// 10.1.0.0/16 (an IPv6 prefix replaces fd00:10:1::/48).
func DefaultNetworkSpec(prefix netip.Prefix) NetworkSpec {
	n := NetworkSpec{Name: DefaultNetwork, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:10:1::/48")}}
	switch {
	case !prefix.IsValid():
	case prefix.Addr().Is4():
		n.Prefixes[0] = prefix
	default:
		n.Prefixes[1] = prefix
	}
	return n
}

// sameNetworks refuses to change a network that exists in what cannot change.
func sameNetworks(have, want []NetworkSpec) error {
	for _, h := range have {
		i := slices.IndexFunc(want, func(w NetworkSpec) bool { return w.Name == h.Name })
		if i < 0 || slices.Equal(want[i].Prefixes, h.Prefixes) {
			continue
		}
		return &topology.Error{Kind: topology.ErrConflict, Item: "network " + h.Name, What: fmt.Sprintf("the lab runs with %v, which cannot become %v", h.Prefixes, want[i].Prefixes), Remedy: "remove the lab first with 'baize lab down'"}
	}
	return nil
}

// resize adds hosts with the lowest free numbers or removes those with the
// highest.
func resize(hosts []string, n int) []string {
	hosts = slices.Clone(hosts)
	byNumber := func(a, b string) int { return hostNumber(a) - hostNumber(b) }
	slices.SortFunc(hosts, byNumber)
	if len(hosts) > n {
		return hosts[:n]
	}
	for i := 1; len(hosts) < n; i++ {
		if !slices.Contains(hosts, hostName(i)) {
			hosts = append(hosts, hostName(i))
		}
	}
	slices.SortFunc(hosts, byNumber)
	return hosts
}

// routerPorts are the addresses of the router's devices.
func (s state) routerPorts() (ports [][]netip.Prefix) {
	for i := range s.Segments {
		ports = append(ports, routerAddrs(i))
	}
	return ports
}

// endpointNames are the namespaces of a network on every host.
func (s state) endpointNames(i int) []string {
	n := s.Networks[i].Endpoints
	if n == 0 {
		n = s.Endpoints
	}
	var names []string
	for j := 1; j <= n; j++ {
		name := fmt.Sprintf("c%d", j)
		if i > 0 {
			name = s.Networks[i].Name + "-" + name
		}
		names = append(names, name)
	}
	return names
}

// transport is that of a network.
func (s state) transport(n NetworkSpec) topology.Transport {
	if n.Transport != "" {
		return n.Transport
	}
	return s.Transport
}

const (
	lockTimeout = 3 * time.Minute
	lockPoll    = 50 * time.Millisecond
)

// lock keeps other ups and downs of the lab away. The lock goes with the
// process. unlock removes what keeps it where remove says so.
func lock(ctx context.Context, c Config) (unlock func(remove bool), err error) {
	unlockFile, err := lockFile(ctx, "lab "+c.Name, c.lockFile())
	if err != nil {
		return nil, err
	}
	return func(remove bool) {
		unlockFile(remove)
		if remove {
			_ = os.Remove(c.BaseDir) // where it is empty
		}
	}, nil
}

// lockFile takes a lock on a file, made where it is not there. item names what
// it is for.
func lockFile(ctx context.Context, item, file string) (unlock func(remove bool), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return nil, fmt.Errorf("lock %s: %w", item, err)
		}
		f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the directory went with another lab
		}
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", item, err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && stillThere(f, file) {
			_ = f.Truncate(0)
			fmt.Fprintf(f, "%d\n", os.Getpid())
			return func(remove bool) {
				if remove {
					_ = os.Remove(file)
				}
				_ = f.Close()
			}, nil
		}
		holder, _ := io.ReadAll(f)
		_ = f.Close()
		if err == nil {
			continue // its holder removed it
		}
		if err := pause(ctx, lockPoll); err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				return nil, err
			}
			return nil, &topology.Error{Kind: topology.ErrInUse, Item: item, What: "process " + strings.TrimSpace(string(holder)) + " has been changing it for minutes", Remedy: "wait for it, or kill it and try again"}
		}
	}
}

func stillThere(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// pause waits, or returns ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// poll calls ready until it returns true or ctx ends, at growing intervals.
func poll(ctx context.Context, ready func() (bool, error)) error {
	for d := 2 * time.Millisecond; ; d = min(2*d, 50*time.Millisecond) {
		ok, err := ready()
		if ok || err != nil {
			return err
		}
		if err := pause(ctx, d); err != nil {
			return err
		}
	}
}

// tail returns the last lines of a log for an error message.
func tail(file string, lines int) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 4096
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	b, _ := io.ReadAll(f)
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
