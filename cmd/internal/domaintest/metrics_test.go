//go:build system

package domaintest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
)

// metricsAt is where agents that are asked for it serve metrics.
const metricsAt = "127.0.0.1:9799"

// metrics is what a host's agent exports.
func (d *domain) metrics(host string) string {
	d.T.Helper()
	return d.Must(host, "busybox", "wget", "-q", "-O", "-", "http://"+metricsAt+"/metrics")
}

// value is that of a metric with its labels; -1 where there is none.
func value(text, series string) float64 {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, series+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			if err == nil {
				return f
			}
		}
	}
	return -1
}

// used are the metrics of the alert rules and of the dashboard.
func (d *domain) used() map[string]bool {
	d.T.Helper()
	out := map[string]bool{}
	for _, file := range []string{"alerts.yml", "dashboard.json"} {
		b, err := os.ReadFile(filepath.Join("..", "..", "..", "scripts", "prometheus", file))
		require.NoError(d.T, err)
		for _, name := range regexp.MustCompile(`\b(?:baize|process)_[a-z_]+`).FindAllString(string(b), -1) {
			out[name] = true
		}
	}
	return out
}

// What a real agent exports is right, is what Prometheus takes, and has all that the
// alert rules and the dashboard ask for.
func testMetrics(d *domain) {
	d.Reaches("host1/c1", d.Endpoint("host2/c1"))
	var text string
	d.Await("the tunnels' counters count", func() (bool, string) { // Open vSwitch refreshes them every five seconds
		text = d.metrics("host1")
		return value(text, `baize_tunnel_packets_total{direction="transmit",encapsulation="vxlan",peer="host2"}`) > 0, text
	})
	_, _ = d.Run("host1", "baize", "ping", "--mesh") // it makes probes go faster
	d.Await("probes have told of the ways", func() (bool, string) {
		text = d.metrics("host1")
		return value(text, `baize_mesh_ways{state="ok"}`) == 2 &&
			value(text, `baize_mesh_mtu_bytes{encapsulation="vxlan",peer="host2"}`) > 0 &&
			value(text, `baize_mesh_rtt_seconds{encapsulation="vxlan",peer="host2"}`) > 0 &&
			value(text, `baize_mesh_rtt_max_seconds{encapsulation="vxlan",peer="host2"}`) > 0, text
	})
	for series, want := range map[string]float64{
		`baize_mesh_way_ok{encapsulation="vxlan",peer="host2"}`:                          1,
		`baize_mesh_loss_ratio{direction="transmit",encapsulation="vxlan",peer="host2"}`: 0,
		`baize_mesh_mtu_wanted_bytes{encapsulation="vxlan",peer="host2"}`:                1450,
		`baize_mesh_ways{state="no answer"}`:                                             0,
		`baize_agent_ready`:                                                              1, `baize_etcd_connected`: 1, `baize_nodes{state="alive"}`: 3, `baize_networks`: 2,
		`baize_tunnel_up{encapsulation="vxlan",peer="host3"}`:  1,
		`baize_network_peers{network="blue"}`:                  2,
		`baize_scrape_source_up{source="flows"}`:               1,
		`baize_scrape_source_up{source="counters"}`:            1,
		`baize_subnet_addresses{family="IPv4",network="blue"}`: 254,
		`baize_flows_present`:                                  value(text, "baize_flows_wanted"),
		`baize_ports_present`:                                  value(text, "baize_ports_wanted"),
	} {
		require.InDelta(d.T, want, value(text, series), 0, "%s in\n%s", series, text)
	}
	show := d.Must("host1", "ovs-appctl", "dpctl/show")
	m := regexp.MustCompile(`lost:(\d+)`).FindStringSubmatch(show)
	require.NotNil(d.T, m, show)
	lostLater, err := strconv.ParseFloat(m[1], 64)
	require.NoError(d.T, err)
	lost := value(text, `baize_datapath_lookups_total{datapath="netdev@ovs-netdev",result="lost"}`)
	require.GreaterOrEqual(d.T, lost, 0.0)
	require.LessOrEqual(d.T, lost, lostLater, "a busy machine loses some")
	require.Positive(d.T, value(text, `baize_endpoints{network="blue"}`))
	require.Positive(d.T, value(text, `baize_datapath_lookups_total{datapath="netdev@ovs-netdev",result="missed"}`))
	require.Positive(d.T, value(text, `baize_reconcile_passes_total{part="switch",result="ok"}`))

	before := value(text, `baize_switch_repairs_total{object="port"}`)
	d.Must("host1", "ovs-vsctl", "del-port", "vx-host2")
	d.Await("the repair is counted", func() (bool, string) {
		text = d.metrics("host1")
		return value(text, `baize_switch_repairs_total{object="port"}`) == before+1, text
	})

	ctx := d.T.Context()
	require.NoError(d.T, d.Host("fabric").StopService(ctx, lab.ServiceEtcd))
	d.T.Cleanup(func() { _ = d.Host("fabric").StartService(context.Background(), lab.ServiceEtcd) })
	d.Await("the fault is counted", func() (bool, string) {
		text = d.metrics("host1")
		return value(text, "baize_etcd_connected") == 0 &&
			value(text, `baize_faults{code="BZ0101",severity="error"}`) > 0, text
	})
	check := exec.CommandContext(ctx, "promtool", "check", "metrics")
	check.Stdin = strings.NewReader(text)
	out, err := check.CombinedOutput()
	require.NoError(d.T, err, "scripts/install-deps.sh test installs promtool: %s", out)
	require.Empty(d.T, string(out))
	for name := range d.used() {
		if name == "baize_bgp_session_up" {
			continue // testFabricSessions
		}
		require.Regexp(d.T, `(?m)^`+name+`[{ ]`, text)
	}
	require.NoError(d.T, d.Host("fabric").StartService(ctx, lab.ServiceEtcd))
	d.Await("etcd answers", func() (bool, string) {
		text = d.metrics("host1")
		return value(text, "baize_etcd_connected") == 1, text
	})
}
