package netavark

import (
	"bytes"
	"context"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
)

// agent knows network blue.
type agent struct{ api.Service }

func (agent) Availability(_ context.Context, network string) (api.Availability, error) {
	if network != "blue" {
		return api.Availability{Why: "network " + network + ": does not exist"}, nil
	}
	return api.Availability{
		Attach: true, Forward: true, Gateways: []netip.Addr{netip.MustParseAddr("10.1.0.1")},
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:10:1::/48")},
	}, nil
}

// serve returns the socket of an agent.
func serve(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent.sock")
	l, err := api.Listen(socket)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- api.Serve(ctx, l, agent{}) }()
	t.Cleanup(func() { cancel(); assert.NoError(t, <-ended) })
	return socket
}

// call runs a subcommand, and returns what it prints.
func call(t *testing.T, stdin string, args ...string) (out string, code int) {
	t.Helper()
	var b bytes.Buffer
	code = Run(t.Context(), args, strings.NewReader(stdin), &b, "1.2.3")
	return b.String(), code
}

func TestInfo(t *testing.T) {
	out, code := call(t, "", "info")
	assert.Zero(t, code)
	assert.JSONEq(t, `{"version":"1.2.3","api_version":"1.0.0"}`, out)
}

// A network has the prefixes and gateways of Baize's; what the plugin does not know stays.
func TestCreate(t *testing.T) {
	socket := serve(t)
	out, code := call(t, `{"name":"n","id":"2f25","driver":"baize","internal":false,"ipv6_enabled":false,"dns_enabled":true,
		"created":"2026-01-02T03:04:05Z","network_interface":"x","ipam_options":{"driver":"host-local"},
		"options":{"baize.network":"blue","baize.socket":"`+socket+`"}}`, "create")
	assert.Zero(t, code, out)
	assert.JSONEq(t, `{"name":"n","id":"2f25","driver":"baize","internal":false,"ipv6_enabled":true,"dns_enabled":false,
		"created":"2026-01-02T03:04:05Z","network_interface":"x","ipam_options":{"driver":"none"},
		"options":{"baize.network":"blue","baize.socket":"`+socket+`"},
		"subnets":[{"subnet":"10.1.0.0/16","gateway":"10.1.0.1"},{"subnet":"fd00:10:1::/48"}]}`, out)
}

func TestRefused(t *testing.T) {
	socket := serve(t)
	for name, c := range map[string]struct{ keys, want string }{
		"no such network": {`"options":{"baize.socket":"` + socket + `"}`, "network n: does not exist"},
		"a prefix":        {`"options":{"baize.network":"blue","baize.socket":"` + socket + `"},"subnets":[{"subnet":"10.2.0.0/16"}]`, "10.2.0.0/16"},
		"an option":       {`"options":{"mtu":"1400"}`, "option mtu"},
		"allow":           {`"options":{"baize.allow":"10.1"}`, "baize.allow"},
		"a range":         {`"subnets":[{"subnet":"10.1.0.0/16","lease_range":{"start_ip":"10.1.5.2"}}]`, "--ip-range"},
		"internal":        {`"internal":true`, "--internal"},
		"a route":         {`"routes":[{"destination":"10.9.0.0/16","gateway":"10.1.0.1"}]`, "--route"},
		"no agent":        {`"options":{"baize.socket":"/nowhere/agent.sock"}`, "nothing listens there"},
		"no JSON":         {`,`, "the request"},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := call(t, `{"name":"n",`+c.keys+`}`, "create")
			assert.Equal(t, 1, code)
			assert.Regexp(t, `^\{"error":".*"\}`, out)
			assert.Contains(t, out, c.want)
		})
	}
	out, code := call(t, `{"container_id":"c","network":{"name":"blue"},"network_options":{"interface_name":"eth0"},
		"port_mappings":[{"host_port":80}]}`, "setup", "/run/netns/c")
	assert.Equal(t, 1, code)
	assert.Contains(t, out, "cannot be published")
	for _, args := range [][]string{nil, {"setup"}, {"fetch"}, {"info", "x"}} {
		out, code := call(t, "", args...)
		assert.Equal(t, 1, code)
		assert.Contains(t, out, "unknown call")
	}
}
