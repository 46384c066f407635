package lab

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/topology"
)

// merge changes a state to what a configuration asks for.
func (s state) merge(c Config) (state, error) {
	for _, part := range []func(*state, Config) error{
		(*state).mergeNetworks, (*state).mergeForeign, (*state).mergeDocker, (*state).mergeUnderlay, (*state).mergeHosts,
	} {
		if err := part(&s, c); err != nil {
			return s, err
		}
	}
	return s, nil
}

// runs reports whether the lab was made already: then its hosts' services and
// devices stay what they are.
func (s *state) runs() bool { return len(s.Hosts) > 0 }

// conflict refuses a change that a lab which runs cannot make. item is the
// lab where it is empty.
func (c Config) conflict(item, what string) error {
	return &topology.Error{
		Kind: topology.ErrConflict, Item: cmp.Or(item, "lab "+c.Name), What: what,
		Remedy: "remove the lab first with '" + CommandLine(c.Name, "down") + "'",
	}
}

func (s *state) mergeNetworks(c Config) error {
	if c.Transport != "" {
		// Networks that followed the lab's transport follow the new one.
		s.Transport = c.Transport
	}
	if s.Transport == "" {
		s.Transport = topology.VXLAN
	}
	if len(c.Networks) > 0 {
		if err := c.sameNetworks(s.Networks); err != nil {
			return err
		}
		s.Networks = slices.Clone(c.Networks)
	}
	if len(s.Networks) == 0 && !c.wanted() {
		s.Networks = []NetworkSpec{DefaultNetworkSpec(netip.Prefix{})}
	}
	if err := s.checkNetworks(c); err != nil {
		return err
	}
	if c.Endpoints != 0 {
		s.Endpoints = max(c.Endpoints, 0)
	} else if !s.runs() {
		s.Endpoints = 1
	}
	return nil
}

// checkNetworks leaves a network of another program's to that program.
func (s *state) checkNetworks(c Config) error {
	if c.wanted() || s.isForeign() {
		return nil
	}
	for _, n := range s.Networks {
		if err := n.check(s.transport(n)); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) mergeDocker(c Config) error {
	if c.DockerBridge && !s.DockerBridge && s.runs() {
		return c.conflict("", "it runs without docker0 in a network, and a host's services do not change")
	}
	s.DockerBridge = s.DockerBridge || c.DockerBridge
	docker := c.Docker || c.DockerBridge
	if docker && !s.Docker && s.runs() {
		return c.conflict("", "it runs without Docker, and a host's services do not change")
	}
	s.Docker = s.Docker || docker
	if c.Engines != nil {
		s.Engines = c.Engines
	}
	return nil
}

func (s *state) mergeUnderlay(c Config) error {
	segments := max(s.Segments, 1)
	if changed := c.Segments != 0 && c.Segments != segments || c.FRR && !s.FRR; changed && s.runs() {
		return c.conflict("", fmt.Sprintf(
			"it runs with %d segments of the underlay, FRR on its hosts: %t, and hosts do not change in that", segments, s.FRR,
		))
	}
	if c.Segments > 1 {
		s.Segments = c.Segments
	}
	if c.FRR && s.Segments < 2 {
		s.Segments = MaxSegments
	}
	s.FRR = s.FRR || c.FRR
	s.IPv6Underlay = s.IPv6Underlay || c.IPv6Underlay
	return nil
}

func (s *state) mergeHosts(c Config) error {
	if c.AgentArgs != nil {
		s.AgentArgs = c.AgentArgs
	}
	if c.Env != nil {
		s.Env = c.Env
	}
	s.Hosts = resize(s.Hosts, cmp.Or(c.Hosts, len(s.Hosts), DefaultHosts))
	s.chooseForeignHost(c)
	return nil
}

// sameNetworks refuses to change a network that exists in what cannot change.
func (c Config) sameNetworks(have []NetworkSpec) error {
	want := c.Networks
	for _, h := range have {
		i := slices.IndexFunc(want, func(w NetworkSpec) bool { return w.Name == h.Name })
		if i < 0 || slices.Equal(want[i].Prefixes, h.Prefixes) {
			continue
		}
		return c.conflict(
			"network "+h.Name, fmt.Sprintf("the lab runs with %v, which cannot become %v", h.Prefixes, want[i].Prefixes),
		)
	}
	return nil
}

// resize adds hosts with the lowest free numbers or removes those with the
// highest.
func resize(hosts []string, n int) []string {
	hosts = slices.Clone(hosts)
	byNumber := func(a, b string) int { return member.HostNumber(a) - member.HostNumber(b) }
	slices.SortFunc(hosts, byNumber)
	if len(hosts) > n {
		return hosts[:n]
	}
	for i := 1; len(hosts) < n; i++ {
		if !slices.Contains(hosts, member.HostName(i)) {
			hosts = append(hosts, member.HostName(i))
		}
	}
	slices.SortFunc(hosts, byNumber)
	return hosts
}
