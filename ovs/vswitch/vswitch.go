// Package vswitch observes and changes the database of an Open vSwitch
// (OVSDB, RFC 7047; its tables: ovs-vswitchd.conf.db(5)). It is the only
// importer of libovsdb.
//
// One libovsdb client serves one connection and is thrown away with it. Its own
// reconnecting is not used: it panics when its backoff ends, cannot be stopped
// while disconnected, and serves stale rows meanwhile. Nor are the rows it keeps
// taken for the truth as they are: a transaction is made first. The server sends
// pending updates before it answers, so the rows are then as new as the
// answer.
package vswitch

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// The defaults of Config.
const (
	DefaultEndpoint = "unix:/var/run/openvswitch/db.sock"
	DefaultTimeout  = 5 * time.Second
)

const (
	// reconnectDelay is constant: a local socket costs nothing to try, and a
	// growing delay would add to the outage.
	reconnectDelay = 250 * time.Millisecond
	// probeInterval is how often an idle connection is tried. A server that is
	// gone is noticed at once; this finds one that hangs.
	probeInterval = 5 * time.Second
)

// Config says which database and bridge a Client works on.
type Config struct {
	// Endpoint is "unix:/absolute/path" or "tcp:host:port". Empty means
	// DefaultEndpoint.
	Endpoint string
	// Bridge is the bridge whose ports are observed and changed.
	Bridge string
	// Timeout bounds every single exchange with the server. Zero means
	// DefaultTimeout.
	Timeout time.Duration
}

// Client works on one bridge. Its methods may be called from any goroutine.
type Client struct {
	cfg  Config
	lock chan struct{} // guards the fields below; a channel, to wait with a deadline
	cur  *session
	end  bool

	seen struct {
		sync.Mutex
		ports portsSeen
	}
}

// ErrClosed is returned by the methods of a closed Client.
var ErrClosed = errors.New("ovsdb client is closed")

// New checks the configuration. It neither connects nor starts a goroutine: the
// first call that needs the server does.
func New(cfg Config) (*Client, error) {
	if cfg.Endpoint == "" {
		cfg.Endpoint = DefaultEndpoint
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	bad := func(item, what, remedy string) (*Client, error) {
		return nil, &topology.Error{
			Kind: topology.ErrInvalid, Code: fault.SettingInvalid, Item: item, What: what, Remedy: remedy,
		}
	}
	const remedy = "give unix:/absolute/path or tcp:host:port"
	u, err := url.Parse(cfg.Endpoint)
	switch {
	case err != nil:
		return bad("OVSDB endpoint "+cfg.Endpoint, err.Error(), remedy)
	case u.Scheme == "unix" && filepath.IsAbs(u.Path):
		// libovsdb would silently use another socket for a relative path.
		cfg.Endpoint = "unix:" + u.Path
	case u.Scheme == "tcp" && u.Opaque != "":
	default:
		return bad("OVSDB endpoint "+cfg.Endpoint, "is neither a unix socket's absolute path nor a TCP address", remedy)
	}
	if cfg.Bridge == "" {
		return bad("bridge", "has no name", "give one with --bridge")
	}
	c := &Client{cfg: cfg, lock: make(chan struct{}, 1)}
	c.lock <- struct{}{}
	return c, nil
}

// Run keeps a connection and calls changed whenever something in the database
// may matter: bridges, ports, interfaces (ofport, error, link state, …), the
// versions of Open vSwitch, the connection coming or going. Changes are
// coalesced, and a call says only that an Observe is due. It is called from
// Run's goroutine. Run returns when ctx ends, and may be called again; Close ends
// the connection.
//
// A restart of ovs-vswitchd does not show in the database: see
// openflow.Client.Monitor.
func (c *Client) Run(ctx context.Context, changed func()) error {
	for {
		s, err := c.session(ctx)
		if err == nil {
			if err = s.monitor(ctx); err == nil {
				// Whatever happened before is covered by this call.
				changed()
				s.watch(ctx, changed)
			}
			if ctx.Err() != nil {
				return nil
			}
			c.drop(s)
			changed()
		}
		if errors.Is(err, ErrClosed) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reconnectDelay):
		}
	}
}

// Close ends the connection and waits until its goroutines are gone. The client
// cannot be used again.
func (c *Client) Close() {
	<-c.lock
	s := c.cur
	c.cur, c.end = nil, true
	c.lock <- struct{}{}
	if s != nil {
		s.close()
	}
}

// session returns the connection, making one if there is none.
func (c *Client) session(ctx context.Context) (*session, error) {
	select {
	case <-c.lock:
		defer func() { c.lock <- struct{}{} }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c.end {
		return nil, ErrClosed
	}
	if c.cur != nil {
		select {
		case <-c.cur.gone:
			c.cur.close()
			c.cur = nil
		default:
			return c.cur, nil
		}
	}
	s, err := dial(ctx, c.cfg)
	if err != nil {
		return nil, c.explain(err)
	}
	c.cur = s
	return s, nil
}

// drop closes a connection that failed, so that the next call makes a new one,
// and reports whether the client itself was closed meanwhile.
func (c *Client) drop(s *session) (closed bool) {
	<-c.lock
	if c.cur == s {
		c.cur = nil
	}
	closed = c.end
	c.lock <- struct{}{}
	s.close()
	return closed
}

// failed drops a connection and explains why.
func (c *Client) failed(s *session, err error) error {
	if c.drop(s) {
		return ErrClosed
	}
	return c.explain(err)
}

// explain turns a failure to reach the server into words for people.
func (c *Client) explain(err error) error {
	e := &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.SwitchUnavailable, Item: "Open vSwitch database " + c.cfg.Endpoint,
	}
	const start = "systemctl start openvswitch-switch"
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, syscall.ENOENT):
		e.What, e.Remedy = "no such socket: Open vSwitch is not running", start
	case errors.Is(err, syscall.ECONNREFUSED):
		e.What, e.Remedy = "nobody listens: Open vSwitch is not running", start
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		e.What, e.Remedy = "permission denied", "run as root"
	case errors.Is(err, context.DeadlineExceeded):
		e.What, e.Remedy = "does not answer", "systemctl restart openvswitch-switch"
	default:
		e.What, e.Remedy = err.Error(), start
	}
	if strings.HasPrefix(c.cfg.Endpoint, "unix:") && e.Remedy == start {
		if file, why := damagedDatabase(); why != "" {
			e.What = fmt.Sprintf("ovsdb-server cannot read %s: %s", file, why)
			e.Remedy = "mv " + file + " " + file + ".damaged && systemctl restart openvswitch-switch; Baize makes its part anew"
		}
	}
	return e
}
