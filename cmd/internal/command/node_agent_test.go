package command

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// fakeAgent answers as an agent does, from memory.
type fakeAgent struct {
	api.Service            // what is not asked for
	mu          sync.Mutex // of endpoints
	status      api.Status
	config      api.Config
	endpoints   []api.Endpoint
	last        api.EndpointRequest
	routes      []api.Route
	ways        []api.Way
	ping        func(api.PingRequest) (api.Pong, error)
	events      []event.Event
	// follow has what comes while somebody follows; closed: the agent stops.
	follow chan event.Event
}

func (f *fakeAgent) AddEndpoint(_ context.Context, req api.EndpointRequest) (api.Endpoint, error) {
	f.last = req
	if req.Network != "blue" {
		return api.Endpoint{}, &topology.Error{
			Kind: topology.ErrNotFound, Item: "network " + req.Network, What: "there is none of that name",
			Remedy: "did you mean blue?",
		}
	}
	e := api.Endpoint{
		Name: req.Name, Node: "host1", Network: req.Network, IPs: append([]netip.Addr{}, req.IPs...),
		MAC: "02:42:0a:01:05:02", Netns: req.Netns, Ifname: "eth0", Port: "bz-c1",
	}
	if len(e.IPs) == 0 {
		e.IPs = []netip.Addr{netip.MustParseAddr("10.1.5.2")}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !req.DryRun {
		f.endpoints = append(f.endpoints, e)
	}
	return e, nil
}

func (f *fakeAgent) RemoveEndpoint(_ context.Context, name string) error {
	for i, e := range f.endpoints {
		if e.Name == name || e.Network+"/"+e.Name == name {
			f.endpoints = append(f.endpoints[:i], f.endpoints[i+1:]...)
			return nil
		}
	}
	return &topology.Error{Kind: topology.ErrNotFound, Item: "endpoint " + name, What: "there is none"}
}

func (f *fakeAgent) Endpoints(context.Context) ([]api.Endpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.endpoints), nil
}
func (f *fakeAgent) Status(context.Context) (api.Status, error)  { return f.status, nil }
func (f *fakeAgent) Config(context.Context) (api.Config, error)  { return f.config, nil }
func (f *fakeAgent) Routes(context.Context) ([]api.Route, error) { return f.routes, nil }
func (f *fakeAgent) Reconcile(_ context.Context, _ bool) error   { return nil }
func (f *fakeAgent) Mesh(context.Context) ([]api.Way, error)     { return f.ways, nil }
func (f *fakeAgent) Ping(_ context.Context, req api.PingRequest) (api.Pong, error) {
	return f.ping(req)
}

func (f *fakeAgent) Events(ctx context.Context, q event.Query, follow bool, show func(event.Event) error) error {
	for _, e := range q.Choose(f.events) {
		if err := show(e); err != nil {
			return err
		}
	}
	for choose := q.Chooser(); follow; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-f.follow:
			if !ok {
				return &topology.Error{Kind: topology.ErrUnavailable, Item: "agent", What: "it stops"}
			}
			if !choose.Chooses(e) {
				continue
			}
			if err := show(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// serve makes the command line talk to f.
func (f *fakeAgent) serve(t *testing.T) {
	t.Helper()
	sock := filepath.Join(t.TempDir(), "agent.sock")
	f.serveAt(t, sock)
	t.Setenv("BAIZE_SOCKET", sock)
}

// serveAt serves f at a socket until stop is called, or the test ends.
func (f *fakeAgent) serveAt(t *testing.T, sock string) (stop func()) {
	t.Helper()
	l, err := api.Listen(sock)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.Serve(ctx, l, f) }()
	stop = sync.OnceFunc(func() { cancel(); assert.NoError(t, <-done) })
	t.Cleanup(stop)
	return stop
}

func healthy() api.Status {
	return api.Status{
		Node: "host1", Version: "v0.1.0", Bridge: "br-baize", Datapath: "netdev",
		DatapathReason: "the kernel has no openvswitch module",
		OVSVersion:     "3.1.0", Ready: true,
		Etcd: api.Etcd{Connected: true, Endpoints: []string{"http://127.0.0.1:2379"}, Revision: 42},
		Networks: []api.Network{
			{
				Name: "blue", VNI: 100, Transport: topology.VXLAN, MTU: 1450,
				Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.5.0/24")}, Peers: 1, Endpoints: 1,
			},
		},
		Peers: []api.Peer{
			{
				Node: "host2", VTEPs: []netip.Addr{netip.MustParseAddr("192.168.77.12")}, Port: "vx-host2", OFPort: 3,
				Encap: topology.VXLAN, Alive: true,
				Probed: &api.Probed{State: api.StateOK, RTT: api.Duration(420 * time.Microsecond), Passes: 1450, Needed: 1450},
			},
		},
		Endpoints: []api.Endpoint{
			{
				Name: "c1", Node: "host1", Network: "blue", IPs: []netip.Addr{netip.MustParseAddr("10.1.5.2")},
				MAC: "02:42:0a:01:05:02",
			},
		},
		Flows: 57, Ports: 2, Drops: map[string]uint64{"spoofed": 3}, Foreign: []string{"port eth9"},
		Problems: []fault.Fault{},
		Uptime:   api.Duration(3*time.Minute + 2*time.Second),
	}
}

func TestEndpointCommands(t *testing.T) {
	f := &fakeAgent{}
	f.serve(t)
	res := baize(t, "endpoint", "list")
	assert.Equal(t, cli.ExitOK, res.code)
	assert.Empty(t, res.out)
	assert.Contains(t, res.err, "baize endpoint add")

	res = baize(t, "endpoint", "add", "c1", "--network", "blue", "--netns", "c1")
	assert.Equal(t, result{0, "endpoint c1 added to network blue: 10.1.5.2, MAC 02:42:0a:01:05:02\n", ""}, res)
	assert.Equal(t, "c1", f.last.Netns, "a name stays a name")

	res = baize(t, "endpoint", "add", "c2", "--network", "blue", "--netns", "./ns", "--ip", "10.1.5.9", "--ip",
		"fd00::9", "--mac", "02-42-0A-01-05-09", "--ifname", "net0", "-o", "json")
	require.Equal(t, 0, res.code, res.err)
	assert.True(t, filepath.IsAbs(f.last.Netns), "the agent has another working directory")
	assert.Equal(t, "02:42:0a:01:05:09", f.last.MAC)
	assert.Equal(t, "net0", f.last.Ifname)
	assert.Len(t, f.last.IPs, 2)

	for name, line := range map[string][]string{
		"endpoint-list":      {"endpoint", "list"},
		"endpoint-list-json": {"ep", "ls", "-o", "json", "--network", "blue"},
	} {
		f.endpoints[1].Netns = "/run/ns"
		golden(t, name, baize(t, line...).out)
	}
	f.endpoints[1].Container, f.endpoints[1].Service, f.endpoints[1].Image = "web", "shop/front", "nginx:1.29"
	golden(t, "endpoint-list-docker", baize(t, "endpoint", "list").out)
	var list []struct {
		Name, Node, Network, MAC string
		IPs                      []netip.Addr
	}
	require.NoError(t, json.Unmarshal([]byte(baize(t, "endpoint", "list", "-o", "json").out), &list))
	require.Len(t, list, 2)
	assert.NotEmpty(t, list[0].Name+list[0].Node+list[0].Network+list[0].MAC)
	assert.NotEmpty(t, list[0].IPs)

	res = baize(t, "endpoint", "add", "c3", "--network", "bleu", "--netns", "c3")
	assert.Equal(t, cli.ExitNotFound, res.code, "the kind survives the socket")
	assert.Contains(t, res.err, "did you mean blue?")
	res = baize(t, "endpoint", "add", "c3", "--network", "blue", "--netns", "c3", "--ip", "10.1.5.1", "--ip", "10.1.5.2")
	assert.Equal(t, cli.ExitUsage, res.code)

	res = baize(t, "endpoint", "remove", "c9")
	assert.Equal(t, cli.ExitNotFound, res.code)
	assert.Contains(t, res.err, "did you mean c1?")
	assert.Equal(t, result{0, "endpoint c1 removed\n", ""}, baize(t, "endpoint", "rm", "c1"))
}

// A dry run shows endpoint and pins, and the agent is asked for nothing else.
func TestEndpointDryRun(t *testing.T) {
	s := cluster(t)
	f := &fakeAgent{}
	f.serve(t)
	before, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	away := before.NodeSubnets("blue", "host2")[0].Prefix.Addr().Next().Next()
	add := []string{"endpoint", "add", "c1", "--network", "blue", "--netns", "c1", "--ip", away.String()}
	res := baize(t, append(add, "--dry-run")...)
	require.Equal(t, 0, res.code, res.err)
	pin := "pins/blue/" + away.String() + "\n"
	record := `{"node":"host1","mac":"02:42:0a:01:05:02","endpoint":"c1"}` + "\n"
	for _, want := range []string{
		"endpoint blue/c1 of node host1\n  before  none\n  after   {\"name\":\"c1\",", pin + "  before  none\n  after   " + record,
		"nothing was changed (--dry-run)\n",
	} {
		assert.Contains(t, res.out, want)
	}
	assert.Contains(t, res.err, "node host2 leases ")
	assert.Contains(t, res.err, "node host1 leases a subnet of network blue first")
	assert.True(t, f.last.DryRun)
	assert.Empty(t, f.endpoints)

	require.Equal(t, 0, baize(t, add...).code)
	assert.False(t, f.last.DryRun)
	_, err = s.PutPin(t.Context(), topology.Pin{
		Network: "blue", Addr: netip.MustParseAddr("10.1.0.98"), Node: "host1", MAC: f.endpoints[0].MAC, Endpoint: "c1",
	})
	require.NoError(t, err)
	f.endpoints[0].IPs = []netip.Addr{netip.MustParseAddr("10.1.0.98")}
	res = baize(t, "endpoint", "remove", "c1", "--dry-run")
	require.Equal(t, 0, res.code, res.err)
	assert.Contains(t, res.out, "endpoint blue/c1 of node host1\n  before  {\"name\":\"c1\",")
	assert.Contains(t, res.out, "pins/blue/10.1.0.98\n  before  "+record+"  after   none\n")
	assert.Len(t, f.endpoints, 1)
	res = baize(t, "endpoint", "remove", "c2", "--dry-run")
	assert.Equal(t, cli.ExitNotFound, res.code)
	assert.Contains(t, res.err, "did you mean c1?")
}

// Row U8: a container is cut off only by who says so.
func TestEndpointRemoveOfAContainer(t *testing.T) {
	f := &fakeAgent{endpoints: []api.Endpoint{{
		Name: "docker-0123456789ab", Network: "blue", IPs: []netip.Addr{netip.MustParseAddr("10.1.5.2")}, Engine: api.EngineDocker,
		Container: "web",
	}}}
	f.serve(t)
	for _, name := range []string{"docker-0123456789ab", "blue/docker-0123456789ab", "web"} {
		res := baize(t, "endpoint", "remove", name)
		assert.Equal(t, cli.ExitOK, res.code, res.err)
		assert.Contains(t, res.out, "that of container web, which loses 10.1.5.2 in network blue")
		assert.Contains(t, res.out, "nothing was changed")
		assert.Len(t, f.endpoints, 1)
	}
	var out, errOut bytes.Buffer
	code := Run(t.Context(), []string{"endpoint", "remove", "docker-0123456789ab"}, Streams{strings.NewReader("yes\n"), &out, &errOut})
	assert.Equal(t, cli.ExitOK, code, errOut.String())
	assert.Empty(t, f.endpoints)
	f.endpoints = []api.Endpoint{{Name: "docker-1", Network: "blue", Container: "container web"}}
	assert.Equal(t, result{0, "endpoint docker-1 removed\n", ""}, baize(t, "endpoint", "remove", "docker-1", "--yes"))

	// By the container's name, as long as that says which (U13).
	f.endpoints = []api.Endpoint{
		{Name: "docker-1", Network: "blue", Container: "web"}, {Name: "docker-2", Network: "red", Container: "web"},
		{Name: "docker-3", Network: "red", Container: "db"}, {Name: "db", Network: "blue"},
	}
	res := baize(t, "endpoint", "remove", "web", "--yes")
	assert.Equal(t, cli.ExitConflict, res.code, res.err)
	assert.Contains(t, res.err, "name it blue/docker-1")
	assert.Equal(t, result{0, "endpoint db removed\n", ""}, baize(t, "endpoint", "remove", "db"))
	assert.Equal(t, result{0, "endpoint docker-3 removed\n", ""}, baize(t, "endpoint", "remove", "db", "--yes"))
}

// Row B7: what is allowed gets to the agent, and is shown.
func TestEndpointAddAllow(t *testing.T) {
	f := &fakeAgent{}
	f.serve(t)
	add := []string{"endpoint", "add", "gw", "--network", "blue", "--netns", "gw"}
	res := baize(t, append(add, "--allow", "::/0", "--allow", "0.0.0.0/0,10.1.5.9")...)
	require.Equal(t, 0, res.code, res.err)
	var want []netip.Prefix
	for _, s := range []string{"0.0.0.0/0", "10.1.5.9/32", "::/0"} {
		want = append(want, netip.MustParsePrefix(s))
	}
	assert.Equal(t, want, f.last.Allow)
	f.endpoints = []api.Endpoint{{Name: "gw", Network: "blue", Allow: want}}
	assert.Contains(t, baize(t, "endpoint", "list", "-o", "wide").out, "0.0.0.0/0,10.1.5.9/32,::/0")
	res = baize(t, append(add, "--allow", "10.2.0.1/16")...)
	assert.Equal(t, cli.ExitUsage, res.code)
	assert.Contains(t, res.err, "--allow: 10.2.0.1/16 has bits set beyond its length (write 10.2.0.0/16)")
}

func TestStatusOfANode(t *testing.T) {
	etcd(t)
	f := &fakeAgent{status: healthy()}
	f.serve(t)
	res := baize(t, "status")
	assert.Equal(t, cli.ExitOK, res.code, res.err)
	golden(t, "status-node", res.out)
	f.status.BGP = []api.BGPSession{{Neighbor: netip.MustParseAddr("192.0.2.1"), AS: 65000, State: "idle", Last: "x"}}
	f.status.Segments = []api.Segment{{Name: "docker0", Network: "blue", Port: "bz-docker0", Subnets: []netip.Prefix{}}}
	f.status.LastReconcile = api.Reconcile{At: time.Unix(0, 0), Took: api.Duration(time.Second), Error: "x"}
	conforms(t, "status", baize(t, "status", "-o", "json").out)
	f.status.BGP, f.status.Segments = nil, nil

	f.status.Ready = false
	f.status.Etcd = api.Etcd{Revision: 42, Error: "connection refused"}
	f.status.Problems = []fault.Fault{
		{Item: "port vx-host2", What: "could not add network device vx-host2", Remedy: "'ovs-vsctl list interface vx-host2'"},
	}
	f.status.Peers[0].OFPort, f.status.Peers[0].Error = 0, "File exists"
	t.Setenv("BAIZE_ETCD_ENDPOINTS", "http://127.0.0.1:1")
	t.Setenv("BAIZE_ETCD_TIMEOUT", "300ms")
	res = baize(t, "status")
	assert.Equal(t, exitProblems, res.code)
	golden(t, "status-node-problems", res.out)

	f.status.Problems[0].Since = time.Now().Add(-200 * time.Second)
	res = baize(t, "status", "--color", "always")
	assert.Contains(t, res.out, "could not add network device vx-host2, first seen 3m ago\n")
	assert.Contains(t, res.out, "Node host1: \x1b[31mnot ready\x1b[0m\n")
	f.status.Problems[0].Since = time.Time{}

	res = baize(t, "status", "--socket", "/nonexistent/agent.sock")
	assert.Equal(t, cli.ExitUnavailable, res.code, "neither answers")
}

// An agent without etcd is all there is to ask.
func TestStatusWithoutEtcd(t *testing.T) {
	t.Setenv("BAIZE_ETCD_ENDPOINTS", "http://127.0.0.1:1")
	t.Setenv("BAIZE_ETCD_TIMEOUT", "300ms")
	f := &fakeAgent{status: healthy()}
	f.status.Etcd = api.Etcd{Unused: true, Endpoints: []string{}}
	f.status.Peers[0].Alive, f.status.Peers[0].Layout = false, "kubernetes"
	f.serve(t)
	res := baize(t, "status")
	assert.Equal(t, cli.ExitOK, res.code, res.err)
	assert.Contains(t, res.out, "none, the topology is from elsewhere")
	assert.Regexp(t, f.status.Peers[0].Node+` .* kubernetes `, res.out)
	assert.Contains(t, res.out, "Cluster: unknown here, because the agent has no etcd")
	conforms(t, "status", baize(t, "status", "-o", "json").out)
}

func TestTopologyShowsEndpointsOfThisNode(t *testing.T) {
	cluster(t)
	f := &fakeAgent{
		endpoints: []api.Endpoint{
			{
				Name: "c1", Node: "host1", Network: "blue", IPs: []netip.Addr{netip.MustParseAddr("10.1.153.2")},
				MAC: "02:42:0a:01:99:02",
			},
		},
	}
	f.serve(t)
	assert.Contains(t, baize(t, "topology").out, "│  │  └─ c1  10.1.153.2  02:42:0a:01:99:02\n")
}
