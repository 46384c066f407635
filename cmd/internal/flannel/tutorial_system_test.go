//go:build system

package flannel

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/cmd/internal/testkit"
)

// engine stands for dockerd in a host of the lab: what a person types is the
// same, the rest is how engines run side by side on one machine.
const engine = `#!/bin/sh
exec /usr/sbin/dockerd --host unix:///run/docker.sock --containerd /run/containerd/containerd.sock \
  --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent /%s "$@"
`

// docs/from-flannel.md, command by command, with real engines: two hosts follow
// the tutorial with Baize and one with flannel; that one changes over; the
// cluster migrates.
func TestTutorial(t *testing.T) {
	t.Parallel()
	c := boot(t, "", lab.Config{Docker: true})
	commands := testkit.Marked(t, "../../../docs/from-flannel.md")
	try := func(host, name string) string {
		t.Helper()
		require.NotEmpty(t, commands[name], name)
		return c.Must(host, "env", "ETCDCTL_ENDPOINTS=http://192.168.77.1:2379", "bash", "-ec", commands[name])
	}
	var logs testkit.Output
	// keep runs what stays in the foreground.
	keep := func(host, name string) {
		t.Helper()
		require.NotEmpty(t, commands[name], name)
		stop, err := c.Host(host).Start(context.Background(), &logs, "bash", "-ec", commands[name])
		require.NoError(t, err)
		t.Cleanup(stop)
	}
	hosts := []string{"host1", "host2", "host3"}
	for _, h := range hosts {
		for _, service := range []string{lab.ServiceDockerd, lab.ServiceAgent} {
			require.NoError(t, c.Host(h).StopService(t.Context(), service))
		}
		script := fmt.Sprintf(engine, "baize-lab-"+c.Name()+"-"+h)
		c.Must(
			h,
			"sh",
			"-ec",
			`cat >/run/baize-lab/bin/dockerd <<'EOF'`+"\n"+script+"EOF\nchmod 755 /run/baize-lab/bin/dockerd",
		)
	}
	// host3 is not known to Baize.
	c.Must("host3", "baize", "agent", "cleanup")
	c.Must("host3", "baize", "node", "remove", "host3", "--force", "--yes")

	try("host1", "config")
	for _, h := range hosts[:2] {
		keep(h, "agent")
	}
	stop := c.flannel("host3")
	addrs := map[string]string{}
	for _, h := range hosts {
		c.Await("subnet.env", func() (bool, string) {
			_, err := c.Run(h, "test", "-s", subnetenv.FlannelFile)
			return err == nil, logs.String()
		})
		require.False(t, c.env(h).L2, "the file is flannel's, line by line")
		keep(h, "docker")
	}
	for _, h := range hosts {
		c.Await("the engine", func() (bool, string) {
			_, err := c.Run(h, "docker", "info")
			return err == nil, logs.String()
		})
		lines := strings.Fields(try(h, "run"))
		addrs[h] = lines[len(lines)-1]
		require.True(
			t,
			strings.HasPrefix(addrs[h], strings.TrimSuffix(c.env(h).Subnet.Addr().String(), "0")),
			"%s has %s of %s",
			h,
			addrs[h],
			c.env(h).Subnet,
		)
		pid := strings.TrimSpace(c.Must(h, "docker", "inspect", "-f", "{{.State.Pid}}", "web"))
		c.Must(h, "ip", "netns", "attach", "web", pid)
		c.Serve(h + "/web")
	}
	all := func() {
		t.Helper()
		for _, from := range hosts {
			for _, to := range hosts {
				if from != to {
					c.exchange(from+"/web", to+"/web", addrs[to])
				}
			}
		}
	}
	// Flannel's daemon does this by rules of its own, which its packages leave out.
	c.Must("host3", "iptables", "-P", "FORWARD", "ACCEPT")
	all()
	// What Docker does when it is what turns forwarding on, and what a reload of
	// a firewall does.
	c.Must("host1", "iptables", "-P", "FORWARD", "DROP")
	c.Await("the agent to accept what the policy would drop", func() (bool, string) {
		rules, err := c.Run("host1", "iptables", "-S", "BAIZE-FORWARD")
		return err == nil, fmt.Sprint(rules, err)
	})
	c.Must("host1", "iptables", "-F", "BAIZE-FORWARD")
	c.exchange("host3/web", "host1/web", addrs["host1"])

	// The flannel host changes over; its container and docker0 stay.
	before := c.env("host3")
	stop()
	c.Must("host3", "iptables", "-P", "FORWARD", "DROP")
	keep("host3", "change")
	c.Await("host3 to be Baize's", func() (bool, string) {
		list := c.Must("host1", "baize", "node", "list")
		return !strings.Contains(list, "flannel-"), list
	})
	all()
	require.Equal(t, before, c.env("host3"))

	done := c.pinging("host3/web", addrs["host1"])
	require.Contains(t, try("host2", "migrate"), "nothing was changed")
	c.Await("the network to be in Baize's layout", func() (bool, string) {
		out := c.Must("host1", "baize", "network", "show", "flannel")
		return !strings.Contains(out, "Layout"), out
	})
	all()
	require.GreaterOrEqual(t, done(), 10)
	require.Equal(t, before, c.env("host3"))
}
