// Package openflow observes and changes the flow tables of a bridge, through
// ovs-ofctl(8) and go-openvswitch, of which it is the only importer.
//
// Flows are recognised by table and cookie (ovs.CookieOf): the switch prints a
// flow in its own form, so texts are compared only by Audit, which lets
// ovs-ofctl do it.
package openflow

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

const (
	// DefaultRunDir is where ovs-vswitchd has its sockets (OVS_RUNDIR).
	DefaultRunDir = "/var/run/openvswitch"
	// DefaultTimeout bounds one command.
	DefaultTimeout = 10 * time.Second

	// protocol is the version all flows are written in. Bundles need 1.4.
	protocol = "OpenFlow14"
)

// Config says which bridge a Client works on.
type Config struct {
	// Bridge is the bridge's name.
	Bridge string
	// RunDir is the directory with ovs-vswitchd's sockets and pidfile. Empty
	// means DefaultRunDir.
	RunDir string
	// Timeout bounds every command; a command that takes longer is killed. Zero
	// means DefaultTimeout.
	Timeout time.Duration
	// Spare: flows are changed again and again, and the command for the next change is
	// started ahead. Then Close has to be called.
	Spare bool
}

// Client works on one bridge's flows. Its methods may be called from any
// goroutine. It has no state to close, unless Config.Spare says so.
type Client struct {
	cfg Config

	mu sync.Mutex
	// expected are the events our own Apply causes, so that Monitor does not
	// report them.
	expected map[event]pending
	// spare is the command for the next change; closed: there is to be none.
	spare  *spare
	closed bool
}

// New returns a client. It runs nothing.
func New(cfg Config) *Client {
	if cfg.RunDir == "" {
		cfg.RunDir = DefaultRunDir
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	return &Client{cfg: cfg, expected: map[event]pending{}}
}

// target names the bridge's management socket. The bare name would do, but
// ovs-ofctl takes it for a file if there is one of that name.
func (c *Client) target() string {
	return "unix:" + filepath.Join(c.cfg.RunDir, c.cfg.Bridge+".mgmt")
}

// ofctl runs ovs-ofctl with the bridge's protocol version.
func (c *Client) ofctl(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	return c.run(ctx, stdin, "ovs-ofctl", append([]string{"--protocols=" + protocol}, args...)...)
}

// run runs a command with a deadline and returns its standard output.
func (c *Client) run(ctx context.Context, stdin io.Reader, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	cmd := c.command(ctx, name, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), c.explain(ctx, name, err, errOut.String())
	}
	return out.String(), nil
}

// command prepares a child process that is killed when ctx ends.
func (c *Client) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "OVS_RUNDIR="+c.cfg.RunDir, "LC_ALL=C")
	cmd.WaitDelay = time.Second
	return cmd
}

// commandError is a command that ran and failed, with its own words.
type commandError struct {
	exit *exec.ExitError
	text string
}

func (e *commandError) Error() string { return e.text }
func (e *commandError) Unwrap() error { return e.exit }

// explain turns a command's failure into words for people, keeping its own.
func (c *Client) explain(ctx context.Context, name string, err error, text string) error {
	text = strings.TrimSpace(text)
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return &topology.Error{
			Kind: topology.ErrUnavailable, Code: fault.SwitchUnavailable, Item: name, What: "is not installed",
			Remedy: "apt-get install openvswitch-switch",
		}
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &topology.Error{
			Kind: topology.ErrUnavailable, Code: fault.SwitchUnavailable, Item: "ovs-vswitchd",
			What:   fmt.Sprintf("%s got no answer from bridge %s within %s", name, c.cfg.Bridge, c.cfg.Timeout),
			Remedy: "systemctl restart openvswitch-switch",
		}
	case ctx.Err() != nil:
		return ctx.Err()
	case !errors.As(err, &exit):
		return fmt.Errorf("%s: %w", name, err)
	}
	if refused := c.refused(text); refused != nil {
		return refused
	}
	return &commandError{exit, cmp.Or(text, name+": "+exit.Error())}
}

// refused returns the error for what the management socket, or a program that connects to
// it, says; nil: it is none that is known.
func (c *Client) refused(text string) error {
	says := func(some ...string) bool {
		return slices.ContainsFunc(some, func(x string) bool { return strings.Contains(strings.ToLower(text), x) })
	}
	switch {
	case says("permission denied", "operation not permitted"):
		return &topology.Error{
			Kind: topology.ErrUnavailable, Code: fault.SwitchUnavailable, Item: "bridge " + c.cfg.Bridge, What: text,
			Remedy: "run as root",
		}
	case says("connection refused", "cannot read pidfile", "cannot connect"):
		return &topology.Error{
			Kind: topology.ErrUnavailable, Code: fault.SwitchUnavailable, Item: "ovs-vswitchd", What: "is not running: " + text,
			Remedy: "systemctl start openvswitch-switch",
		}
	case says("no such file or directory", "is not a bridge"):
		return &topology.Error{
			Kind: topology.ErrNotFound, Code: fault.BridgeMissing, Item: "bridge " + c.cfg.Bridge,
			What:   "is not there, or ovs-vswitchd is not running: " + text,
			Remedy: "systemctl start openvswitch-switch",
		}
	}
	return nil
}

// Dump returns the flows as a person reads them: ports by name, no counters.
func (c *Client) Dump(ctx context.Context) (string, error) {
	return c.ofctl(ctx, nil, "--names", "--no-stats", "dump-flows", c.target())
}

// text is a flow as ovs-ofctl reads it.
func text(f ovs.BoundFlow) string {
	var b strings.Builder
	fmt.Fprintf(&b, "cookie=%#x,table=%d,priority=%d,", f.Cookie, f.Table, f.Priority)
	if f.Match != "" {
		b.WriteString(f.Match)
		b.WriteByte(',')
	}
	b.WriteString("actions=")
	b.WriteString(f.Actions)
	return b.String()
}
