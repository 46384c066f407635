//go:build system

package domaintest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/probe"
)

// Row B7: an endpoint on host2 is a router between two others, on host1 and host3.
// What it forwards is dropped until it is allowed; then packets of both families and
// bulk TCP arrive through it, both ways.
func testRouter(d *domain) {
	a, b := d.Endpoint("host1/c1"), d.Endpoint("host3/c1")
	d.Must("host2", "ip", "netns", "add", "gw")
	gw := addGateway(d)
	routes := func(verb string) {
		for _, x := range [][2]lab.EndpointStatus{{a, b}, {b, a}} {
			for i, to := range x[1].IPs {
				_, _ = d.Run(x[0].String(), "ip", "route", verb, to.String(), "via", gw.IPs[i].String())
			}
		}
	}
	routes("replace")
	d.T.Cleanup(func() { routes("del") })

	const spoofed = "spoofed address"
	before := d.AgentStatus("host2").Drops[spoofed]
	_, err := d.Run("host1/c1", "ping", "-c", "2", "-i", "0.2", "-W", "1", b.IPs[0].String())
	require.Error(d.T, err, "forwarded without being allowed to")
	d.Await("the drops are counted", func() (bool, string) {
		now := d.AgentStatus("host2").Drops[spoofed]
		return now > before, fmt.Sprint(now)
	})

	d.Must("host2", "baize", "endpoint", "remove", "gw")
	again := addGateway(d, "--allow", "0.0.0.0/0", "--allow", "::/0")
	require.Equal(d.T, gw.IPs, again.IPs)
	for _, to := range b.IPs {
		d.AwaitRun("the router forwards to "+to.String(), "host1/c1", "ping", "-c", "1", "-W", "1", to.String())
		out := d.Must("host1/c1", "ping", "-c", "3", "-i", "0.2", "-W", "5", to.String())
		require.Equal(d.T, 3, strings.Count(out, "ttl=63"), "one hop on the way: %s", out)
	}
	d.Serve("host3/c1")
	for _, to := range b.IPs {
		d.Await("bulk TCP through the router to "+to.String(), func() (bool, string) {
			_, err := d.Probe("host1/c1", to, probe.SendOptions{Bytes: 1 << 20})
			return err == nil, fmt.Sprint(err)
		})
	}
	floating(d, a)
}

// floating gives the address that two endpoints of host2 are allowed first to one,
// then to the other: who asks finds it.
func floating(d *domain, from lab.EndpointStatus) {
	float := last(d.Endpoint("host2/c1").IPs[0])
	for _, name := range []string{"f1", "f2"} {
		d.Must("host2", "ip", "netns", "add", name)
		d.Must("host2", "baize", "endpoint", "add", name, "--network", "blue", "--netns", name, "--allow", float.String())
		d.T.Cleanup(func() { _, _ = d.Run("host2", "baize", "endpoint", "remove", name) })
	}
	_, err := d.Run("host2", "baize", "endpoint", "add", "thief", "--network", "blue", "--netns", "gw", "--ifname", "eth1",
		"--ip", float.String())
	require.ErrorContains(d.T, err, "which is allowed it")
	for _, name := range []string{"f1", "f2"} {
		within := func(argv ...string) []string { return append([]string{"ip", "netns", "exec", name}, argv...) }
		d.Must("host2", within("ip", "addr", "add", float.String()+"/32", "dev", "eth0")...)
		_, _ = d.Run(from.String(), "ip", "neigh", "del", float.String(), "dev", "eth0")
		d.Must(from.String(), "ping", "-c", "3", "-i", "0.2", "-W", "5", float.String())
		d.Must("host2", within("ping", "-I", float.String(), "-c", "1", "-W", "5", from.IPs[0].String())...)
		d.Must("host2", within("ip", "addr", "del", float.String()+"/32", "dev", "eth0")...)
	}
}

// last is the last address but one of an IPv4 address's /24.
func last(a netip.Addr) netip.Addr {
	b := a.As4()
	b[3] = 254
	return netip.AddrFrom4(b)
}

// addGateway attaches the namespace gw of host2 and makes it a router.
func addGateway(d *domain, args ...string) api.Endpoint {
	d.T.Helper()
	out := d.Must("host2", append([]string{
		"baize", "endpoint", "add", "gw", "--network", "blue", "--netns", "gw", "-o", "json",
	}, args...)...)
	d.T.Cleanup(func() { _, _ = d.Run("host2", "baize", "endpoint", "remove", "gw") })
	var e api.Endpoint
	require.NoError(d.T, json.Unmarshal([]byte(out), &e))
	d.Must("host2", "ip", "netns", "exec", "gw", "sysctl", "-qw", "net.ipv4.ip_forward=1",
		"net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.eth0.send_redirects=0")
	return e
}
