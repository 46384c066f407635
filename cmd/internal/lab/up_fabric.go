package lab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"

	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/machine"
	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/cmd/internal/lab/supervisor"
)

// make starts a member's pid 1 and waits until it looks after its services.
func (l *Lab) make(ctx context.Context, name string) (member.Member, error) {
	c := l.memberConfig(name)
	m, err := member.Spawn(c.Identity, c)
	if err == nil {
		err = m.AwaitInit(ctx)
	}
	return m, err
}

// upFabric makes the fabric with etcd.
func (l *Lab) upFabric(ctx context.Context) (member.Member, error) {
	m, err := l.member(member.Fabric)
	if err != nil {
		end := l.begin("fabric: make the underlay")
		m, err = l.make(ctx, member.Fabric)
		if err := end(err); err != nil {
			return m, err
		}
	}
	if err := machine.NameNetns(m); err != nil {
		return m, err
	}
	if m.Ready(ServiceEtcd) {
		return m, nil
	}
	end := l.begin("fabric: start etcd")
	return m, end(m.AwaitService(ctx, ServiceEtcd, etcdTimeout))
}

// upRouter makes the router where there is one, and waits for its FRR.
func (l *Lab) upRouter(ctx context.Context, fab member.Member) error {
	if l.state.Segments < 2 {
		return nil
	}
	end := l.begin("router: join %d segments, start FRR", l.state.Segments)
	m, err := l.member(member.Router)
	if err != nil {
		m, err = l.make(ctx, member.Router)
	}
	if err == nil {
		err = machine.NameNetns(m)
	}
	if err == nil {
		err = fabric.PlugRouter(fab, m, l.state.Segments)
	}
	if err == nil && !m.Stopped(ServiceBGPD) {
		err = m.AwaitService(ctx, ServiceBGPD, ovsTimeout)
	}
	return end(err)
}

// inFabric runs baize where it reaches etcd, and returns its standard output.
func (l *Lab) inFabric(ctx context.Context, fab member.Member, args ...string) (string, error) {
	env := member.ExecEnv(
		os.Environ(), []string{"BAIZE_ETCD_ENDPOINTS=" + fabric.EtcdURL(l.state.IPv6Underlay)}, l.state.Env,
	)
	return member.Output(ctx, fab.Enter(append([]string{supervisor.Executable}, args...)), env)
}

// endedWith reports whether baize ended with one of the exit codes.
func endedWith(err error, codes ...int) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && slices.Contains(codes, exit.ExitCode())
}
