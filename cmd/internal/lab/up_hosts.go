package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/cmd/internal/lab/engine"
	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/machine"
	"github.com/baize-net/baize/cmd/internal/lab/member"
)

const parallelHosts = 8

// upHosts makes the hosts and their endpoints, several at a time.
func (l *Lab) upHosts(ctx context.Context, fab member.Member) error {
	running, err := l.running()
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelHosts)
	for _, name := range l.state.Hosts {
		g.Go(func() error {
			m, ok := running[name]
			if !ok {
				var err error
				if m, err = l.makeHost(gctx, name); err != nil {
					return err
				}
			}
			return l.upHost(gctx, fab, m)
		})
	}
	return g.Wait()
}

// makeHost starts the pid 1 of a host that does not run.
func (l *Lab) makeHost(ctx context.Context, name string) (m member.Member, err error) {
	end := l.begin("%s: make the host", name)
	// A host that is rebuilt is a new installation that keeps its identity:
	// the endpoints of its old database went with their namespaces.
	dir := l.Host(name).Dir()
	err = errors.Join(
		os.RemoveAll(filepath.Join(dir, "etc-openvswitch")), os.RemoveAll(filepath.Join(dir, "lib-openvswitch")),
	)
	if err == nil {
		m, err = l.make(ctx, name)
	}
	return m, end(err)
}

// upHost completes a host whose pid 1 runs.
func (l *Lab) upHost(ctx context.Context, fab, m member.Member) error {
	if err := machine.NameNetns(m); err != nil {
		return err
	}
	if err := fabric.PlugHost(fab, m, l.state.Segments); err != nil {
		return err
	}
	if !m.Stopped(ServiceVswitchd) {
		if err := l.upService(ctx, m, ServiceVswitchd, "Open vSwitch", ovsTimeout); err != nil {
			return err
		}
	}
	service := engine.Networker(l.memberConfig(m.Name))
	if m.Stopped(service) {
		return nil // somebody wants it so
	}
	what := "the agent"
	if service != ServiceAgent {
		what = l.state.foreignName()
	}
	if err := l.upService(ctx, m, service, what, agentTimeout); err != nil {
		return err
	}
	if l.state.Docker && !m.Stopped(ServiceDockerd) {
		if err := l.upService(ctx, m, ServiceDockerd, "Docker", dockerTimeout); err != nil {
			return err
		}
	}
	return l.upEndpoints(ctx, m, service)
}

// upService waits until a service is ready; what is its name for people.
func (l *Lab) upService(ctx context.Context, m member.Member, service, what string, timeout time.Duration) error {
	if m.Ready(service) {
		return nil
	}
	end := l.begin("%s: start %s", m.Name, what)
	return end(m.AwaitService(ctx, service, timeout))
}

// upEndpoints attaches the endpoints that a host lacks. service is what gives
// the host its subnet.
func (l *Lab) upEndpoints(ctx context.Context, m member.Member, service string) error {
	h := l.Host(m.Name)
	for i, n := range l.state.Networks {
		for j, endpoint := range l.state.endpointNames(i) {
			if attached(m, endpoint) == n.Name {
				continue
			}
			if service != ServiceAgent {
				end := l.begin("%s: make container %s behind docker0", m.Name, endpoint)
				if err := end(h.addBehindDocker0(ctx, m, j+1, endpoint)); err != nil {
					return err
				}
				continue
			}
			end := l.begin("%s: attach endpoint %s to network %s", m.Name, endpoint, n.Name)
			if err := end(h.addEndpoint(ctx, m, n.Name, endpoint)); err != nil {
				return err
			}
		}
	}
	return nil
}
