package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology"
)

// Client speaks to the agent of this host. It is a Service; nothing is opened
// until a method is called, and nothing is kept open.
type Client struct {
	socket string
	http   http.Client
	// patience is readTimeout.
	patience time.Duration
}

// readTimeout bounds a request that only reads, which an agent answers from
// memory: one that hangs is not waited for as long as one that is at work.
const readTimeout = 15 * time.Second

var _ Service = (*Client)(nil)

// ErrNoAgent is the kind of error, beside ErrUnavailable, where nothing listens at the
// agent's socket.
var ErrNoAgent = errors.New("no agent")

// NewClient returns the client of an agent's socket.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socket)
	}
	return &Client{
		socket: socket, patience: readTimeout,
		// A little more than the agent takes, so that its own answer comes first.
		http: http.Client{
			Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
			Timeout:   RequestTimeout + 5*time.Second,
		},
	}
}

// AddEndpoint implements Service.
func (c *Client) AddEndpoint(ctx context.Context, req EndpointRequest) (Endpoint, error) {
	var e Endpoint
	err := c.do(ctx, http.MethodPost, "/v1/endpoints", req, &e)
	return e, err
}

// RemoveEndpoint implements Service.
func (c *Client) RemoveEndpoint(ctx context.Context, name string) error {
	if name == "" {
		return &topology.Error{
			Kind:   topology.ErrInvalid,
			Item:   "endpoint",
			What:   "no name is given",
			Remedy: "'baize endpoint list' shows the names",
		}
	}
	return c.do(ctx, http.MethodDelete, "/v1/endpoints?name="+url.QueryEscape(name), nil, nil)
}

// Endpoints implements Service.
func (c *Client) Endpoints(ctx context.Context) ([]Endpoint, error) {
	var list []Endpoint
	err := c.do(ctx, http.MethodGet, "/v1/endpoints", nil, &list)
	return list, err
}

// Status implements Service.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.do(ctx, http.MethodGet, "/v1/status", nil, &s)
	return s, err
}

// Config implements Service.
func (c *Client) Config(ctx context.Context) (Config, error) {
	var out Config
	err := c.do(ctx, http.MethodGet, "/v1/config", nil, &out)
	return out, err
}

// Routes implements Service.
func (c *Client) Routes(ctx context.Context) ([]Route, error) {
	var list []Route
	err := c.do(ctx, http.MethodGet, "/v1/routes", nil, &list)
	return list, err
}

// Reconcile implements Service.
func (c *Client) Reconcile(ctx context.Context, audit bool) error {
	return c.do(ctx, http.MethodPost, "/v1/reconcile?audit="+strconv.FormatBool(audit), nil, nil)
}

// Mesh implements Service.
func (c *Client) Mesh(ctx context.Context) ([]Way, error) {
	var list []Way
	err := c.do(ctx, http.MethodGet, "/v1/mesh", nil, &list)
	return list, err
}

// Ping implements Service.
func (c *Client) Ping(ctx context.Context, req PingRequest) (Pong, error) {
	var out Pong
	err := c.do(ctx, http.MethodPost, "/v1/ping", req, &out)
	return out, err
}

// Point implements Service.
func (c *Client) Point(ctx context.Context, name string) (Point, error) {
	var out Point
	err := c.do(ctx, http.MethodGet, "/v1/points?name="+url.QueryEscape(name), nil, &out)
	return out, err
}

// do sends in as JSON, if any, and decodes the answer into out, if any.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encoding the request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	limited, cancel := ctx, context.CancelFunc(func() {})
	if method == http.MethodGet {
		limited, cancel = context.WithTimeout(ctx, c.patience)
	}
	defer cancel()
	req, err := http.NewRequestWithContext(limited, method, "http://agent"+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.refusal(ctx, resp)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return c.foreign("its answer cannot be read: " + err.Error())
	}
	return nil
}

// refusal reads the error of an answer that is none.
func (c *Client) refusal(ctx context.Context, resp *http.Response) error {
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	var e errorBody
	if json.Unmarshal(b, &e) != nil || e.Error.Message == "" {
		return c.foreign(fmt.Sprintf("it answers %s", resp.Status))
	}
	return fromWire(e.Error)
}

// unreachable says what a failed connection means.
func (c *Client) unreachable(ctx context.Context, err error) error {
	item := "agent at " + c.socket
	unavailable := func(what, remedy string) error {
		return &topology.Error{Kind: topology.ErrUnavailable, Item: item, What: what, Remedy: remedy}
	}
	var timeout net.Error
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return &topology.Error{
			Kind: errors.Join(topology.ErrUnavailable, ErrNoAgent), Item: item, What: "nothing listens there",
			Remedy: "is the agent running? 'systemctl start baize' or 'baize agent'; another socket is named with --socket",
		}
	case errors.Is(err, os.ErrPermission):
		return &topology.Error{
			Kind: errors.Join(topology.ErrUnavailable, os.ErrPermission),
			Item: item, What: "this user may not open its socket", Remedy: "run as root",
		}
	case errors.As(err, &timeout) && timeout.Timeout():
		return unavailable("no answer in time: it is stopped, or hangs",
			"'journalctl -u baize' may say what it waits for; 'systemctl restart baize' interrupts no traffic")
	case errors.Is(err, io.EOF),
		errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, unix.ECONNRESET),
		errors.Is(err, unix.EPIPE):
		return unavailable("it ended before it answered", "'journalctl -u baize' may say why; try again")
	}
	return fmt.Errorf("%s: %w", item, err)
}

func (c *Client) foreign(what string) error {
	return &topology.Error{
		Kind:   topology.ErrConflict,
		Item:   "agent at " + c.socket,
		What:   what,
		Remedy: "is it a Baize agent of this version? see 'baize version'",
	}
}
