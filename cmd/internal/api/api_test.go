package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/cmd/internal/settings"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Service that remembers what it was asked.
type fake struct {
	mu     sync.Mutex
	asked  []string
	err    error
	status Status
	events []event.Event
	// hold, if set, is called inside AddEndpoint.
	hold func(context.Context)
}

func (f *fake) note(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, fmt.Sprintf(format, args...))
	return f.err
}

func (f *fake) AddEndpoint(ctx context.Context, r EndpointRequest) (Endpoint, error) {
	if f.hold != nil {
		f.hold(ctx)
	}
	return Endpoint{
			Name:    r.Name,
			Network: r.Network,
			IPs:     r.IPs,
			MAC:     r.MAC,
			Netns:   r.Netns,
			Ifname:  r.Ifname,
			Node:    "host1",
		}, f.note(
			"add %s",
			r.Name,
		)
}
func (f *fake) RemoveEndpoint(_ context.Context, name string) error { return f.note("remove %s", name) }
func (f *fake) Endpoints(context.Context) ([]Endpoint, error)       { return nil, f.note("list") }
func (f *fake) Status(context.Context) (Status, error)              { return f.status, f.note("status") }
func (f *fake) Routes(context.Context) ([]Route, error) {
	return []Route{{Network: "blue", Node: "host2", Kind: "tunnel"}}, f.note("routes")
}
func (f *fake) Config(context.Context) (Config, error) {
	return Config{Settings: []settings.Setting{{Name: "bridge", Value: "br0", Set: true}}}, f.note("config")
}

func (f *fake) Availability(_ context.Context, network string) (Availability, error) {
	return Availability{Attach: true, Why: network}, f.note("availability %s", network)
}

func (f *fake) CheckAttachment(_ context.Context, a Attachment) (Endpoint, error) {
	return Endpoint{Name: a.EndpointName()}, f.note("check %s", a.Container)
}

func (f *fake) Detach(_ context.Context, d Detachment) error {
	return f.note("detach %s %d", d.Attachment.Container, d.Began)
}

func (f *fake) Retain(_ context.Context, r Retention) error {
	return f.note("retain %s %d", r.Network, len(r.Attachments))
}

func (f *fake) Mesh(context.Context) ([]Way, error) {
	return []Way{{From: "host1", To: "host2", Encap: topology.VXLAN, Probed: Probed{State: StateOK}}}, f.note("mesh")
}

func (f *fake) Ping(_ context.Context, req PingRequest) (Pong, error) {
	return Pong{Node: req.Node, Encap: topology.VXLAN, Size: req.Size, RTT: 5}, f.note("ping %s", req.Node)
}

func (f *fake) Point(_ context.Context, name string) (Point, error) {
	return Point{Node: "host1", Kind: PointTunnel, Name: name, Networks: map[uint32]string{7: "blue"}}, f.note("point %s", name)
}

func (f *fake) Events(ctx context.Context, q event.Query, follow bool, show func(event.Event) error) error {
	if err := f.note("events %+v %t", q, follow); err != nil {
		return err
	}
	for _, e := range q.Choose(f.events) {
		if err := show(e); err != nil {
			return err
		}
	}
	if !follow {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (f *fake) Reconcile(_ context.Context, audit bool) error { return f.note("reconcile %t", audit) }

// start serves svc for the length of a test.
func start(t *testing.T, svc Service) (client *Client, stop func() error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := Listen(path)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, svc) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { assert.NoError(t, stop()) })
	return NewClient(path), stop
}

func TestMethods(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f := &fake{status: Status{
		Node: "host1", Ready: true, Drops: map[string]uint64{"spoofed": 1 << 63},
		Networks: []Network{
			{Name: "blue", VNI: 100, Transport: topology.VXLAN, Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.5.0/24")}},
		},
		Peers: []Peer{
			{Node: "host2", VTEPs: []netip.Addr{netip.MustParseAddr("192.168.77.12")}, OFPort: 3, Alive: true},
		},
		Problems:      []fault.Fault{{Code: fault.PortDead, Severity: fault.Warning, Item: "port x", What: "no number"}},
		LastReconcile: Reconcile{At: at, Took: Duration(1500 * time.Millisecond), Changes: 4},
		Uptime:        Duration(time.Hour),
	}}
	c, _ := start(t, f)
	ctx := t.Context()

	req := EndpointRequest{
		Name:    "c1",
		Network: "blue",
		Netns:   "/run/netns/c1",
		Ifname:  "eth0",
		IPs:     []netip.Addr{netip.MustParseAddr("10.1.5.9")},
		MAC:     "02:42:0a:01:05:09",
	}
	e, err := c.AddEndpoint(ctx, req)
	require.NoError(t, err)
	assert.Equal(
		t,
		Endpoint{Name: "c1", Node: "host1", Network: "blue", IPs: req.IPs, MAC: req.MAC, Netns: req.Netns, Ifname: "eth0"},
		e,
	)
	list, err := c.Endpoints(ctx)
	require.NoError(t, err)
	assert.NotNil(t, list, "no endpoints are an empty list")
	assert.Empty(t, list)
	for _, name := range []string{"c1", "a/b c?&", ".."} {
		require.NoError(t, c.RemoveEndpoint(ctx, name))
	}
	require.ErrorIs(t, c.RemoveEndpoint(ctx, ""), topology.ErrInvalid)
	s, err := c.Status(ctx)
	require.NoError(t, err)
	assert.Equal(t, f.status, s)
	cfg, err := c.Config(ctx)
	require.NoError(t, err)
	assert.Equal(t, []settings.Setting{{Name: "bridge", Value: "br0", Set: true}}, cfg.Settings)
	require.NoError(t, c.Reconcile(ctx, true))
	require.NoError(t, c.Reconcile(ctx, false))
	ways, err := c.Mesh(ctx)
	require.NoError(t, err)
	assert.Equal(t, []Way{{From: "host1", To: "host2", Encap: topology.VXLAN, Probed: Probed{State: StateOK}}}, ways)
	pong, err := c.Ping(ctx, PingRequest{Node: "host2", Size: 1450, Timeout: Duration(time.Second)})
	require.NoError(t, err)
	assert.Equal(t, Pong{Node: "host2", Encap: topology.VXLAN, Size: 1450, RTT: 5}, pong)
	point, err := c.Point(ctx, "a/b c?&")
	require.NoError(t, err)
	assert.Equal(t, Point{Node: "host1", Kind: PointTunnel, Name: "a/b c?&", Networks: map[uint32]string{7: "blue"}}, point)
	assert.Equal(
		t,
		[]string{
			"add c1", "list", "remove c1", "remove a/b c?&", "remove ..", "status", "config", "reconcile true",
			"reconcile false", "mesh", "ping host2", "point a/b c?&",
		},
		f.asked,
	)
}

func TestAttachments(t *testing.T) {
	f := &fake{}
	c, _ := start(t, f)
	ctx := t.Context()
	a := Attachment{Engine: EngineCNI, Network: "net", Container: "c1", Ifname: "eth0"}
	got, err := c.Availability(ctx, "a&b")
	require.NoError(t, err)
	assert.Equal(t, Availability{Attach: true, Why: "a&b"}, got)
	e, err := c.CheckAttachment(ctx, a)
	require.NoError(t, err)
	assert.Equal(t, a.EndpointName(), e.Name)
	require.NoError(t, c.Detach(ctx, Detachment{Attachment: a, Baize: "blue", Began: 7}))
	require.NoError(t, c.Retain(ctx, Retention{Engine: EngineCNI, Network: "net", Attachments: []Attachment{a}}))
	require.ErrorIs(t, c.Detach(ctx, Detachment{Attachment: Attachment{Engine: EngineCNI}}), topology.ErrInvalid)
	require.ErrorIs(t, c.Retain(ctx, Retention{Engine: EngineCNI}), topology.ErrInvalid)
	assert.Equal(t, []string{"availability a&b", "check c1", "detach c1 7", "retain net 1"}, f.asked)

	other := a
	other.Ifname = "eth1"
	require.NotEqual(t, a.EndpointName(), other.EndpointName())
	require.NoError(t, topology.CheckName("endpoint", a.EndpointName()))
}

// Events come as they are, also while they are followed; an error keeps its kind.
func TestEvents(t *testing.T) {
	at := time.Date(2026, 1, 2, 14, 3, 0, 123456000, time.UTC)
	f := &fake{events: []event.Event{
		{ID: 1, Time: at, Node: "host1", Kind: event.NodeLost, Subject: "node host2", Text: "lost", Revision: 7},
		{ID: 2, Time: at.Add(time.Minute), Node: "host1", Kind: event.FaultFound, Subject: "port x", Code: fault.PortDead},
	}}
	c, stop := start(t, f)
	q := event.Query{
		Since: at.Add(-time.Hour), Until: at.Add(time.Hour), Kinds: []string{"node-*", "fault-found"}, After: -1,
	}
	var got []event.Event
	show := func(e event.Event) error { got = append(got, e); return nil }
	require.NoError(t, c.Events(t.Context(), q, false, show))
	assert.Equal(t, f.events, got)
	assert.Equal(t, fmt.Sprintf("events %+v false", q), f.asked[0], "the whole query arrives")
	for _, one := range []event.Query{{Subject: "X"}, {After: 1}, {Since: at.Add(time.Second)}} {
		got = nil
		require.NoError(t, c.Events(t.Context(), one, false, show))
		assert.Equal(t, f.events[1:], got, "%+v", one)
	}
	got = nil
	require.NoError(t, c.Events(t.Context(), event.Query{Endpoint: "c1", Network: "blue"}, false, show))
	assert.Empty(t, got)

	enough := errors.New("enough")
	require.ErrorIs(t, c.Events(t.Context(), q, true, func(event.Event) error { return enough }), enough)
	ctx, cancel := context.WithCancel(t.Context())
	seen := 0
	err := c.Events(ctx, q, true, func(event.Event) error {
		if seen++; seen == len(f.events) {
			cancel() // all have come, though there is no end
		}
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)

	f.err = &topology.Error{Kind: topology.ErrUnavailable, Item: "agent", What: "it stops"}
	require.ErrorIs(t, c.Events(t.Context(), q, false, show), topology.ErrUnavailable)
	require.NoError(t, stop())
	require.ErrorIs(t, c.Events(t.Context(), q, true, show), topology.ErrUnavailable)
}

func TestErrorsKeepTheirKind(t *testing.T) {
	f := &fake{}
	c, _ := start(t, f)
	for i, k := range kinds {
		e := &topology.Error{Kind: k.kind, Item: "network blue", What: "something", Remedy: "do otherwise"}
		f.err = e
		err := c.Reconcile(t.Context(), false)
		require.ErrorIs(t, err, k.kind)
		assert.Equal(t, e.Error(), err.Error())
		for j, other := range kinds {
			assert.Equal(t, i == j, errors.Is(err, other.kind), "%v is not %v", k.kind, other.kind)
		}

		f.err = fmt.Errorf("adding c1: %w", e)
		err = c.Reconcile(t.Context(), false)
		require.ErrorIs(t, err, k.kind)
		assert.Equal(t, f.err.Error(), err.Error(), "what wraps it comes along")
		var parts *topology.Error
		require.ErrorAs(t, err, &parts)
		assert.Equal(t, e, parts)

		f.err = fmt.Errorf("a bare %w", k.kind)
		err = c.Reconcile(t.Context(), false)
		require.ErrorIs(t, err, k.kind)
		assert.Equal(t, f.err.Error(), err.Error())
	}
	f.err = errors.New("disk on fire")
	require.EqualError(t, c.Reconcile(t.Context(), false), "disk on fire")
	f.err = fmt.Errorf("reading OVS: %w", context.DeadlineExceeded)
	require.ErrorIs(t, c.Reconcile(t.Context(), false), topology.ErrUnavailable)
}

func TestBadRequests(t *testing.T) {
	c, _ := start(t, &fake{})
	for name, tc := range map[string]struct {
		method, path, body string
		status             int
		want               string
	}{
		"malformed":       {"POST", "/v1/endpoints", "{", 400, "unexpected EOF"},
		"unknown field":   {"POST", "/v1/endpoints", `{"network":"blue","ipz":[]}`, 400, "ipz"},
		"two values":      {"POST", "/v1/endpoints", `{} {}`, 400, "more than one"},
		"bad address":     {"POST", "/v1/endpoints", `{"ips":["10.1.5"]}`, 400, "10.1.5"},
		"too large":       {"POST", "/v1/endpoints", `{"name":"` + strings.Repeat("x", maxBody) + `"}`, 400, "too large"},
		"bad flag":        {"POST", "/v1/reconcile?audit=perhaps", "", 400, "perhaps"},
		"a time":          {"GET", "/v1/events?since=noon", "", 400, "noon"},
		"a number":        {"GET", "/v1/events?after=x", "", 400, "after=x"},
		"follow":          {"GET", "/v1/events?follow=perhaps", "", 400, "perhaps"},
		"no name":         {"DELETE", "/v1/endpoints", "", 400, "name="},
		"no such path":    {"GET", "/v2/status", "", 404, "GET /v2/status"},
		"no such method":  {"PUT", "/v1/status", "", 404, "PUT /v1/status"},
		"a newer version": {"GET", "/", "", 404, "baize version"},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tc.method, "http://agent"+tc.path, strings.NewReader(tc.body))
			require.NoError(t, err)
			resp, err := c.http.Do(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			assert.Equal(t, tc.status, resp.StatusCode, "%s", b)
			assert.Contains(t, string(b), tc.want)
		})
	}
}

func TestAgentNotRunning(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	c := NewClient(path)
	check := func(why string) {
		t.Helper()
		_, err := c.Status(t.Context())
		require.ErrorIs(t, err, topology.ErrUnavailable, why)
		assert.ErrorContains(t, err, "is the agent running?", why)
		assert.ErrorContains(t, err, path, why)
	}
	check("no socket")
	leaveStale(t, path)
	check("a stale socket")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, c.Reconcile(ctx, false), context.Canceled)
}

// leaveStale leaves what a killed agent leaves.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
}

func TestNotAnAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	answer := "not JSON"
	srv := &http.Server{
		ReadHeaderTimeout: time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1/reconcile" {
				w.WriteHeader(http.StatusTeapot)
			}
			_, _ = io.WriteString(w, answer)
		}),
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { assert.NoError(t, srv.Close()); <-done })
	_, err = NewClient(path).Status(t.Context())
	require.ErrorIs(t, err, topology.ErrConflict)
	err = NewClient(path).Reconcile(t.Context(), false)
	require.ErrorIs(t, err, topology.ErrConflict)
	assert.ErrorContains(t, err, "418")
}

func TestNoAnswerInTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.Listen("unix", path) // takes connections and never answers
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = NewClient(path).Status(ctx)
	require.ErrorIs(t, err, topology.ErrUnavailable)
	assert.ErrorContains(t, err, "no answer in time")

	// Nobody has to say how long: one that hangs is not waited for as one at work.
	c := NewClient(path)
	assert.Less(t, c.patience, RequestTimeout)
	c.patience = 50 * time.Millisecond
	_, err = c.Status(t.Context())
	require.ErrorIs(t, err, topology.ErrUnavailable)
	assert.ErrorContains(t, err, "systemctl restart baize")
}

func TestListen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "baize")
	path := filepath.Join(dir, "agent.sock")
	l, err := Listen(path)
	require.NoError(t, err)
	info, err := os.Lstat(path)
	require.NoError(t, err)
	assert.Equal(t, os.ModeSocket|0o600, info.Mode())

	_, err = Listen(path)
	require.ErrorIs(t, err, topology.ErrConflict)
	assert.ErrorContains(t, err, fmt.Sprintf("process %d", os.Getpid()), "it names who listens")
	require.NoError(t, l.Close())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, entries, "nothing is left")

	leaveStale(t, path)
	leaveStale(t, path+makingMark)
	l, err = Listen(path)
	require.NoError(t, err, "a dead agent's socket is replaced")

	// A successor's socket is not removed with ours.
	require.NoError(t, os.Remove(path))
	next, err := Listen(path)
	require.NoError(t, err)
	require.NoError(t, l.Close())
	assert.FileExists(t, path)
	require.NoError(t, next.Close())
	assert.NoFileExists(t, path)
}

// Somebody cleans /run: the socket is there again, and is removed with its listener.
func TestListenAndKeep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	path := filepath.Join(dir, "agent.sock")
	l, err := ListenAndKeep(path)
	require.NoError(t, err)
	accepted := make(chan error, 3)
	go func() {
		for {
			c, err := l.Accept()
			if err == nil {
				err = c.Close()
			}
			accepted <- err
			if err != nil {
				return
			}
		}
	}()
	for _, remove := range []func() error{func() error { return os.Remove(path) }, func() error { return os.RemoveAll(dir) }} {
		require.NoError(t, remove())
		testkit.Await(t, "the socket is there again", func() (bool, string) {
			c, err := net.Dial("unix", path)
			if err != nil {
				return false, err.Error()
			}
			return true, fmt.Sprint(c.Close())
		})
		require.NoError(t, <-accepted)
		info, err := os.Lstat(path)
		require.NoError(t, err)
		require.Equal(t, os.ModeSocket|0o600, info.Mode())
	}
	require.NoError(t, l.Close())
	require.ErrorIs(t, <-accepted, net.ErrClosed)
	require.NoFileExists(t, path)

	// What another one made in the meantime stays his.
	l, err = ListenAndKeep(path)
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, l.Close())
	require.FileExists(t, path)
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("precious"), 0o600))
	_, err := Listen(file)
	require.ErrorIs(t, err, topology.ErrConflict)
	assert.FileExists(t, file, "not ours to remove")
	_, err = Listen(filepath.Join(dir, strings.Repeat("x", 120)))
	require.ErrorIs(t, err, topology.ErrInvalid)
	_, err = Listen("agent.sock")
	require.ErrorIs(t, err, topology.ErrInvalid)
	_, err = Listen(filepath.Join(file, "agent.sock"))
	require.Error(t, err, "its directory is a file")
}

func TestOnlyOneOfManyListens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	leaveStale(t, path)
	const n = 20
	type result struct {
		l   net.Listener
		err error
	}
	results := make(chan result, n)
	for range n {
		go func() {
			l, err := Listen(path)
			results <- result{l, err}
		}()
	}
	won := 0
	for range n {
		r := <-results
		if r.err == nil {
			won++
			t.Cleanup(func() { assert.NoError(t, r.l.Close()) })
			continue
		}
		require.ErrorIs(t, r.err, topology.ErrConflict)
	}
	assert.Equal(t, 1, won)
}

func TestStopLetsRequestsFinish(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	f := &fake{hold: func(ctx context.Context) {
		close(entered)
		<-leave
		assert.NoError(t, ctx.Err(), "the agent's end does not cut a request off")
	}}
	c, stop := start(t, f)
	answer := make(chan error, 1)
	go func() {
		_, err := c.AddEndpoint(context.Background(), EndpointRequest{Name: "c1"})
		answer <- err
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	require.Eventually(t, func() bool {
		_, err := os.Lstat(c.socket)
		return errors.Is(err, os.ErrNotExist)
	}, 5*time.Second, time.Millisecond, "no new client comes in")
	close(leave)
	require.NoError(t, <-answer)
	require.NoError(t, <-stopped)
}

func TestServeEndsWithItsListener(t *testing.T) {
	l, err := Listen(filepath.Join(t.TempDir(), "agent.sock"))
	require.NoError(t, err)
	require.NoError(t, l.Close())
	require.ErrorIs(t, Serve(t.Context(), l, &fake{}), net.ErrClosed)
}

func TestEndpointOf(t *testing.T) {
	e := EndpointOf(
		ovs.Endpoint{
			Name:    "c1",
			Node:    "host1",
			Network: "blue",
			MAC:     topology.MACOf(netip.MustParseAddr("10.1.5.2")),
			Port:    "bz1",
		},
	)
	assert.Equal(
		t,
		Endpoint{Name: "c1", Node: "host1", Network: "blue", IPs: []netip.Addr{}, MAC: "02:42:0a:01:05:02", Port: "bz1"},
		e,
	)
}

func TestDuration(t *testing.T) {
	var d Duration
	require.NoError(t, d.UnmarshalText([]byte("1m30s")))
	assert.Equal(t, Duration(90*time.Second), d)
	require.Error(t, d.UnmarshalText([]byte("soon")))
}
