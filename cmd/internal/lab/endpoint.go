package lab

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/cmd/internal/lab/supervisor"
	"github.com/baize-net/baize/cmd/internal/lab/wait"
)

// Endpoint is a network namespace of a host that is attached to a network.
type Endpoint struct {
	host *Host
	name string
}

// Name returns "HOST/ENDPOINT".
func (e *Endpoint) Name() string { return e.host.name + "/" + e.name }

// Exec runs a command in the endpoint, as Host.Exec does.
func (e *Endpoint) Exec(ctx context.Context, argv ...string) (string, error) {
	return e.host.lab.exec(ctx, e.Name(), argv)
}

// NetnsPath returns the path of the endpoint's network namespace as seen from
// outside.
func (e *Endpoint) NetnsPath() (string, error) {
	m, err := e.host.lab.member(e.host.name)
	return m.Inside(filepath.Join(member.NetnsDir, e.name)), err
}

// Start starts a command in the endpoint, as Host.Start does.
func (e *Endpoint) Start(ctx context.Context, w io.Writer, argv ...string) (stop func(), err error) {
	return e.host.lab.start(ctx, w, e.Name(), argv)
}

// AddEndpoint makes a network namespace in the host and attaches it to a
// network, as 'ip netns add' and 'baize endpoint add' do.
func (h *Host) AddEndpoint(ctx context.Context, network, name string) (*Endpoint, error) {
	m, err := h.lab.member(h.name)
	if err != nil {
		return nil, err
	}
	return h.Endpoint(name), h.addEndpoint(ctx, m, network, name)
}

// endpointsDir has a file for each endpoint that the lab attached; it holds the
// name of its network.
const endpointsDir = supervisor.Dir + "/endpoints"

// attached returns the network that the lab attached an endpoint to, or "".
func attached(m member.Member, endpoint string) string {
	b, err := os.ReadFile(m.Inside(filepath.Join(endpointsDir, endpoint)))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (h *Host) addEndpoint(ctx context.Context, m member.Member, network, name string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if _, err := os.Lstat(m.Inside(filepath.Join(member.NetnsDir, name))); errors.Is(err, fs.ErrNotExist) {
		if _, err := h.Exec(ctx, "ip", "netns", "add", name); err != nil {
			return err
		}
		// What ip does not do: containers have it up.
		if _, err := h.Exec(ctx, "ip", "-n", name, "link", "set", "lo", "up"); err != nil {
			return err
		}
	}
	if err := h.baizeEndpointAdd(ctx, network, name); err != nil {
		return m.WithLog(ServiceAgent, err)
	}
	return recordEndpoint(m, network, name)
}

func recordEndpoint(m member.Member, network, name string) error {
	dir := m.Inside(endpointsDir)
	return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), []byte(network+"\n"), 0o644))
}

// baizeEndpointAdd asks the agent. An Up that was killed may have left the
// endpoint, or its own request may still be under way.
func (h *Host) baizeEndpointAdd(ctx context.Context, network, name string) error {
	baize := func(args []string) error {
		_, err := h.Exec(ctx, append([]string{"baize"}, args...)...)
		return err
	}
	first := baize(endpointAddArgs(network, name))
	if first == nil {
		return nil
	}
	for range 3 {
		if err := baize(endpointRemoveArgs(network, name)); err != nil {
			return first
		}
		if baize(endpointAddArgs(network, name)) == nil {
			return nil
		}
		if wait.Pause(ctx, 200*time.Millisecond) != nil {
			break
		}
	}
	return first
}
