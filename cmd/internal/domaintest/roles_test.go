//go:build system

package domaintest

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Whole agents live with a user of their own in etcd: what a node does works, and what it
// does not have to do is refused.
func TestEtcdByRoles(t *testing.T) {
	t.Parallel()
	d := up(t, topology.VXLAN, lab.Config{})
	dir := filepath.Join(t.TempDir(), "passwords")
	file := func(user string) string { return filepath.Join(dir, user+".password") }
	d.Must("host1", "baize", "auth", "init", "--passwords", dir)
	hosts := []string{"host1", "host2", "host3"}
	for _, host := range hosts {
		// The lab's agent, with a user.
		argv := strings.Fields(d.Must(host, "sh", "-c",
			`for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline; echo; done 2>/dev/null | grep '^[^ ]*baize agent'`))
		require.NoError(t, d.Host(host).StopService(t.Context(), lab.ServiceAgent))
		d.Start(host, append(argv, "--etcd-username", host, "--etcd-password-file", file(host), "--etcd-plain-password")...)
	}
	as := func(user string, args ...string) []string {
		return append(append([]string{"baize"}, args...), "--etcd-username", user, "--etcd-password-file", file(user),
			"--etcd-plain-password")
	}
	ready := func() {
		t.Helper()
		d.Await("all agents are ready", func() (bool, string) {
			out, err := d.Run("host1", as("root", "node", "list")...)
			return err == nil && strings.Count(out, " ready ") == len(hosts), fmt.Sprint(out, err)
		})
	}
	ready()
	out := d.Must("host1", as("root", "auth", "enable", "--yes")...)
	assert.Contains(t, out, "authentication is on")
	ready()
	_, err := d.Run("host1", "env", "-u", "BAIZE_SETTINGS", "BAIZE_SOCKET=/none", "baize", "node", "list")
	require.ErrorContains(t, err, "etcd wants a user")

	// An address of another node's subnet, and a move.
	to := d.Endpoint("host2/c1")
	at := last(to.IPs[0])
	d.Must("host1", "ip", "netns", "add", "guest")
	d.Must("host1", "baize", "endpoint", "add", "guest", "--network", "blue", "--netns", "guest", "--ip", at.String())
	d.AwaitRun("the guest is reached", "host3/c1", "ping", "-c", "1", "-W", "1", at.String())
	d.Must("host3", "ip", "netns", "add", "guest")
	d.Must("host3", as("host3", "endpoint", "move", "guest", "host1", "--netns", "guest")...)
	d.AwaitRun("it is reached where it went", "host2/c1", "ping", "-c", "1", "-W", "1", at.String())

	_, err = d.Run("host2", as("host2", "network", "create", "pink", "--subnet", "10.50.0.0/16")...)
	require.ErrorContains(t, err, "user host2 may not write it")
	d.Must("host2", as("root", "network", "create", "pink", "--subnet", "10.50.0.0/16")...)
	d.Must("host2", "ip", "netns", "add", "p")
	d.Must("host2", "baize", "endpoint", "add", "p", "--network", "pink", "--netns", "p")
	d.Must("host2", "baize", "endpoint", "remove", "p")
	// Nodes give up their parts, the operator's command removes the record.
	d.Must("host1", as("root", "network", "delete", "pink")...)

	report, err := d.Run("host1", as("host1", "doctor", "--all", "--wait", "20s")...)
	assert.NotContains(t, report+fmt.Sprint(err), string(fault.StoreDenied))
	assert.NotContains(t, report+fmt.Sprint(err), "did not answer")
	for _, host := range hosts {
		for _, f := range d.AgentStatus(host).Problems {
			assert.NotEqual(t, fault.StoreDenied, f.Code, "%s: %s", host, f)
		}
	}
	d.Must("host1", as("root", "auth", "disable", "--yes")...)
}
