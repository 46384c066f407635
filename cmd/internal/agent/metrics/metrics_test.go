package metrics

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

var update = flag.Bool("update", false, "write golden files anew")

// fakeSwitch is an Open vSwitch in memory.
type fakeSwitch struct {
	status openvswitch.Status
	err    error
}

func (f fakeSwitch) Status(context.Context) (openvswitch.Status, error) { return f.status, f.err }
func (f fakeSwitch) Counters(context.Context) (openvswitch.Counters, error) {
	if f.err != nil {
		return openvswitch.Counters{}, f.err
	}
	tunnel := ovs.ObservedPort{OFPort: 3, Statistics: map[string]int64{
		"rx_bytes": 1000, "tx_bytes": 2000, "rx_packets": 10, "tx_packets": 20,
	}}
	return openvswitch.Counters{
		Tunnels:   map[string]ovs.ObservedPort{"vx-host2": tunnel},
		Datapaths: []openflow.Datapath{{Name: "system@ovs-system", Hit: 9, Missed: 5, Lost: 1, Flows: 4, FlowLimit: 200000}},
	}, nil
}
func (f fakeSwitch) Totals() openvswitch.Totals {
	return openvswitch.Totals{Changes: 40, RepairedFlows: 2, RepairedPorts: 1, Lost: 1}
}

// sources are those of a node with two peers, of which one is down.
func sources(t *testing.T, err error) Sources {
	t.Helper()
	blue := topology.Network{
		Name: "blue", VNI: 100, IPv4: netip.MustParsePrefix("10.1.0.0/16"), IPv6: netip.MustParsePrefix("fd00:1::/48"),
	}.Defaults()
	records := []topology.Record{
		blue, topology.Pin{Network: "blue", Addr: netip.MustParseAddr("10.1.9.9"), Node: "host2", MAC: "02:42:0a:01:09:09"},
	}
	for i, name := range []string{"host1", "host2", "host3"} {
		records = append(records, topology.Node{
			Name: name, ID: name, VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})},
			Encapsulations: topology.Encapsulations(),
		}, topology.Subnet{Network: "blue", Prefix: topology.SubnetAt(blue, topology.IPv4, uint64(i+1)), Node: name})
		if name != "host3" {
			records = append(records, topology.Liveness{Node: name, ID: name})
		}
	}
	var kvs []topology.KV
	for i, r := range records {
		kvs = append(kvs, topology.KV{
			Key: r.Key(), Value: topology.Encode(r), Meta: topology.Meta{CreateRevision: int64(i + 1), ModRevision: int64(i + 1)},
		})
	}
	h := hub.New(hub.Identity{Node: "host1", ID: "host1"})
	h.SetInUse(map[string]bool{"blue": true})
	h.SetOwn(topology.NewSnapshot(42, kvs), false)
	view := h.Topology().Get().View()
	known := part.NewCell[attach.Known](nil)
	c1 := ovs.Endpoint{Name: "c1", Network: "blue", Port: "bzc1", IPs: []netip.Addr{netip.MustParseAddr("10.1.1.2")}}
	known.Set(attach.Known{Endpoints: []ovs.Endpoint{c1}, Complete: true})
	return Sources{
		Version: "v1", Started: time.Unix(1_700_000_000, 500_000_000), Ready: func() bool { return true },
		Topology: h.Topology(), Known: known,
		Faults: func() []fault.Fault {
			return []fault.Fault{
				{Code: fault.PortDead, Item: "port a"}, {Code: fault.PortDead, Item: "port b"}, {Code: fault.NodeDown, Item: "node host3"},
			}
		},
		Failures: func() map[string]uint64 { return map[string]uint64{"switch": 0, "bgp": 3} },
		Passes: func() map[string]part.Passes {
			return map[string]part.Passes{
				"switch": {Done: 7, Failed: 2, Took: 1500 * time.Millisecond, LastSuccess: time.Unix(1_700_000_100, 0)},
			}
		},
		Switch: fakeSwitch{err: err, status: openvswitch.Status{
			Outcome: openvswitch.Outcome{View: view, Want: pipeline.Build(view, []ovs.Endpoint{c1}, pipeline.Options{})},
			Flows:   60, Ports: 3, Foreign: []string{"port eth9"},
			Drops: map[string]uint64{pipeline.DropMAC: 5, "port bzc1 is down": 2, "port vx-host3 is down": 1},
		}},
		Sessions: func() map[string]bool { return map[string]bool{"192.0.2.254": false} },
		Ways: func() []api.Way {
			some, none := 7, 0
			return []api.Way{
				{From: "host1", To: "host2", Encap: "vxlan", Probed: api.Probed{
					State: api.StateLossy, LossOut: &some, LossIn: &none, RTT: api.Duration(1500 * time.Microsecond),
					RTTMax: api.Duration(9 * time.Millisecond), Passes: 1400, Needed: 1450,
				}},
				{From: "host1", To: "host3", Encap: "vxlan", Probed: api.Probed{State: api.StateDown, Needed: 1450}},
				{From: "host1", To: "host2", Encap: "route", Probed: api.Probed{State: api.StateOK, RTT: api.Duration(time.Millisecond)}},
			}
		},
		Events: func() (map[event.Kind]uint64, uint64) { return map[event.Kind]uint64{event.NodeLost: 4}, 0 },
	}
}

// export is what an agent answers.
func export(t *testing.T, s Sources) string {
	t.Helper()
	r := prometheus.NewPedanticRegistry() // it compares with what is described
	require.NoError(t, r.Register(collector{s}))
	_, err := r.Gather()
	require.NoError(t, err)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
	require.NoError(t, err)
	w := &recorder{header: http.Header{}}
	handler(s).ServeHTTP(w, request)
	require.Zero(t, w.status, w.body.String())
	return w.body.String()
}

type recorder struct {
	header http.Header
	status int
	body   strings.Builder
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
func (r *recorder) WriteHeader(status int) {
	if status != http.StatusOK {
		r.status = status
	}
}

// own leaves out the metrics of the process and of Go.
func own(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE "), "baize_") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestExport(t *testing.T) {
	text := export(t, sources(t, nil))
	golden := filepath.Join("testdata", "export.golden")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(golden, []byte(own(text)), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	assert.Equal(t, string(want), own(text), "if that is meant, run 'go test ./cmd/internal/agent/metrics -update'")
	assert.Contains(t, text, "process_cpu_seconds_total")
	assert.False(t, strings.Contains(text, "c1"), "no label names an endpoint or its port")

	check := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
	check.Stdin = strings.NewReader(text)
	out, err := check.CombinedOutput()
	require.NoError(t, err, "apt-get install prometheus: %s", out)
	assert.Empty(t, string(out))
	for _, m := range Metrics() {
		assert.Contains(t, text, "# TYPE "+m.Name+" "+m.Type+"\n")
	}
}

// Where Open vSwitch does not answer, the other metrics are there all the same, and
// nothing is said to be 0 that is not known.
func TestExportWithoutOpenVSwitch(t *testing.T) {
	text := export(t, sources(t, errors.New("no answer")))
	assert.Contains(t, text, `baize_scrape_source_up{source="flows"} 0`)
	assert.Contains(t, text, `baize_etcd_connected 1`)
	assert.Contains(t, text, `baize_reconcile_passes_total{part="switch",result="failed"} 2`)
	assert.Regexp(t, `baize_flows_wanted [1-9]`, text)
	for _, name := range []string{"baize_flows_present", "baize_dropped_packets_total", "baize_datapath_flows", "baize_tunnel_up"} {
		assert.False(t, strings.Contains(text, name), name)
	}
}

// docs/metrics.md has the table of all metrics.
func TestTable(t *testing.T) {
	page := filepath.Join("..", "..", "..", "..", "docs", "metrics.md")
	b, err := os.ReadFile(page)
	require.NoError(t, err)
	const head = "| metric | type | labels | meaning |\n|---|---|---|---|\n"
	before, _, found := strings.Cut(string(b), head)
	require.True(t, found)
	var table strings.Builder
	for _, m := range Metrics() {
		labels := "`" + strings.Join(m.Labels, "`, `") + "`"
		if len(m.Labels) == 0 {
			labels = ""
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", m.Name, m.Type, labels, strings.TrimSuffix(m.Help, "."))
	}
	want := before + head + table.String() + after
	if *update {
		require.NoError(t, os.WriteFile(page, []byte(want), 0o644))
		return
	}
	assert.Equal(t, want, string(b), "if that is meant, run 'go test ./cmd/internal/agent/metrics -update'")
}

// after stands below the table.
const after = `
Those that begin with ` + "`process_` and `go_`" + ` are of the agent's process, as every program of Prometheus' Go library has
them.

The userspace datapath (seen with Open vSwitch 3.1) counts what it sends into a tunnel twice, and what it receives once:
for rates take ` + "`direction=\"receive\"`" + ` of the other node.

The ` + "`baize_mesh_`" + ` ones are what [probes](mesh.md) tell of the ways from this node to the others, by tunnel
(` + "`encapsulation`" + `) or by route. They are those of the last minutes; what nobody knows, such as the loss to a node whose
agent does not run, is not there. With ` + "`--probe-interval 0`" + ` there are none.
`

func TestLabelsAreBounded(t *testing.T) {
	for _, m := range Metrics() {
		for _, l := range m.Labels {
			assert.NotRegexp(t, regexp.MustCompile("endpoint|container|port|address|mac"), l, m.Name)
		}
	}
}

func TestCheckAddress(t *testing.T) {
	for _, s := range []string{"127.0.0.1:9799", "[::1]:9799", "0.0.0.0:9799", "192.0.2.1:80", "unix:/run/baize/metrics.sock"} {
		assert.NoError(t, CheckAddress(s), s)
	}
	for _, s := range []string{":9799", "9799", "localhost:9799", "127.0.0.1", "127.0.0.1:0", "unix:", "unix:metrics.sock", "http://127.0.0.1:1"} {
		require.ErrorIs(t, CheckAddress(s), topology.ErrInvalid, s)
	}
}

func TestServe(t *testing.T) {
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := free.Addr().String()
	require.NoError(t, free.Close())
	socket := filepath.Join(t.TempDir(), "metrics.sock")
	for address, dial := range map[string]func(context.Context) (net.Conn, error){
		port:             func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", port) },
		"unix:" + socket: func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", socket) },
	} {
		t.Run(address, func(t *testing.T) {
			p := New(address, sources(t, nil), logrus.NewEntry(quiet))
			l, err := p.listen(t.Context())
			require.NoError(t, err)
			_, err = New(address, sources(t, nil), logrus.NewEntry(quiet)).listen(t.Context())
			require.Error(t, err, "somebody listens there")
			require.NoError(t, l.Close())
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- p.Run(ctx) }()
			client := http.Client{Transport: &http.Transport{
				DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
				DisableKeepAlives: true,
			}}
			get := func(path string) (int, string) {
				t.Helper()
				var status int
				var text string
				testkit.Await(t, "an answer", func() (bool, string) {
					req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://agent"+path, nil)
					require.NoError(t, err)
					resp, err := client.Do(req)
					if err != nil {
						return false, err.Error()
					}
					defer resp.Body.Close()
					b, err := io.ReadAll(resp.Body)
					require.NoError(t, err)
					status, text = resp.StatusCode, string(b)
					return true, ""
				})
				return status, text
			}
			status, text := get("/metrics")
			assert.Equal(t, http.StatusOK, status)
			assert.Contains(t, text, "baize_agent_ready 1")
			status, _ = get("/debug/pprof/")
			assert.Equal(t, http.StatusNotFound, status)
			cancel()
			require.NoError(t, <-ended)
		})
	}
}
