package lab

import (
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/cmd/internal/lab/supervisor"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Status is what runs of a lab.
type Status struct {
	Name      string             `json:"name"`
	Dir       string             `json:"dir"`
	Transport topology.Transport `json:"transport"`
	Networks  []NetworkSpec      `json:"networks"`
	// Etcd is its address inside, EtcdSocket for processes outside.
	Etcd       string       `json:"etcd"`
	EtcdSocket string       `json:"etcdSocket"`
	Fabric     MemberStatus `json:"fabric"`
	// Router is nil where there is one segment.
	Router    *MemberStatus    `json:"router,omitempty"`
	Hosts     []MemberStatus   `json:"hosts"`
	Endpoints []EndpointStatus `json:"endpoints"`
	// Problems are what 'baize lab up' would set right, or a person should
	// know.
	Problems []fault.Fault `json:"problems"`
}

// MemberStatus is a host or the fabric.
type MemberStatus struct {
	Name string `json:"name"`
	// PID is its pid 1 as seen from outside; 0 where it does not run.
	PID int `json:"pid,omitempty"`
	// Netns is its name for ip-netns(8).
	Netns string `json:"netns"`
	// Addrs are its underlay addresses.
	Addrs    []netip.Addr        `json:"addrs"`
	Services []supervisor.Status `json:"services"`
}

// Ready reports whether all its services are ready.
func (m MemberStatus) Ready() bool {
	return m.PID != 0 && len(m.Services) > 0 && !slices.ContainsFunc(
		m.Services, func(s supervisor.Status) bool { return s.State != supervisor.StateReady },
	)
}

// Status looks at what runs.
func (l *Lab) Status() (*Status, error) {
	running, err := l.running()
	if err != nil {
		return nil, err
	}
	s := &Status{
		Name: l.cfg.Name, Dir: l.cfg.dir(), Transport: l.state.Transport, Networks: l.Networks(),
		Etcd: fabric.EtcdURL(l.state.IPv6Underlay), EtcdSocket: l.EtcdEndpoint(),
		Endpoints: []EndpointStatus{}, Problems: []fault.Fault{},
	}
	s.Fabric = l.memberStatus(running, member.Fabric, fabric.Addrs())
	all := []MemberStatus{s.Fabric}
	if l.state.Segments > 1 {
		router := l.memberStatus(running, member.Router, fabric.RouterPorts(l.state.Segments)...)
		s.Router = &router
		all = append(all, router)
	}
	for _, h := range l.Hosts() {
		s.Hosts = append(
			s.Hosts, l.memberStatus(running, h.name, fabric.HostAddrs(member.HostNumber(h.name), l.state.Segments)),
		)
	}
	for _, m := range append(all, s.Hosts...) {
		s.problems(m, running[m.Name])
	}
	for name := range running {
		if name != member.Fabric && name != member.Router && !slices.Contains(l.state.Hosts, name) {
			s.problem("host "+name, "it runs although the lab is not to have it", "'"+CommandLine(s.Name, "up")+"' removes it")
		}
	}
	if _, err := l.endpoints(&s.Endpoints); err != nil {
		s.Problems = append(s.Problems, fault.Of(err))
	}
	return s, nil
}

func (l *Lab) memberStatus(running map[string]member.Member, name string, ports ...[]netip.Prefix) MemberStatus {
	s := MemberStatus{Name: name, Netns: member.MachineName(l.cfg.Name, name), Services: []supervisor.Status{}}
	for _, a := range slices.Concat(ports...) {
		s.Addrs = append(s.Addrs, a.Addr())
	}
	if m, ok := running[name]; ok {
		s.PID = m.PID
		if services, err := m.Services(); err == nil {
			s.Services = services
		}
	}
	return s
}

func (s *Status) problem(item, what, remedy string) {
	s.Problems = append(s.Problems, fault.Fault{Item: item, What: what, Remedy: remedy})
}

func (s *Status) problems(ms MemberStatus, m member.Member) {
	item := "host " + ms.Name
	if member.HostNumber(ms.Name) == 0 {
		item = ms.Name
	}
	if ms.PID == 0 {
		s.problem(item, "it does not run", remake(s.Name))
		return
	}
	for _, svc := range ms.Services {
		switch svc.State {
		case supervisor.StateReady:
		case supervisor.StateStopped:
			s.problem(item, svc.Name+" is stopped", "remove "+supervisor.StoppedFile(svc.Name)+" inside")
		default:
			what := svc.Name + " is " + svc.State
			if svc.Last != "" {
				what += ": " + strings.SplitN(svc.Last, "\n", 2)[0]
			}
			s.problem(item, what, "look at "+m.Dir+"/log")
		}
	}
	// Built again meanwhile: what runs is the old executable.
	inside, err := os.Stat(m.Inside(supervisor.Executable))
	if err != nil {
		return
	}
	var c member.Identity
	if err := member.ReadConfig(m.Dir, &c); err == nil {
		if now, err := os.Stat(c.Binary); err == nil && !os.SameFile(inside, now) {
			down := CommandLine(s.Name, "down")
			s.problem(item, "it runs an older build of "+c.Binary, "'"+down+"' and 'up' to use the new one")
		}
	}
}
