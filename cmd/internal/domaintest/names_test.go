//go:build system

package domaintest

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
)

// A container finds those of other engines by the names that Docker gave them.
func TestNames(t *testing.T) {
	t.Parallel()
	d := up(t, topology.VXLAN, lab.Config{Docker: true, Hosts: 2})
	for _, host := range []string{"host1", "host2"} {
		for _, n := range []string{"blue", "green"} {
			prefix := map[string]string{"blue": "10.1.0.0/16", "green": "10.7.0.0/16"}[n]
			d.docker(
				host, "network", "create", "-d", "baize", "--ipam-driver", "baize", "--ipam-opt",
				"baize.network="+n,
				"-o",
				"baize.network="+n,
				"--subnet",
				prefix,
				n,
			)
		}
	}
	inBlue := func(host, name string) string {
		return d.docker(host, "inspect", "-f", `{{with index .NetworkSettings.Networks "blue"}}{{.IPAddress}}{{end}}`, name)
	}
	start := func(host, name string, args ...string) string {
		d.docker(
			host,
			append(append([]string{"run", "-d", "--init", "--name", name}, args...), lab.DockerImage, "sleep", "100000")...)
		return inBlue(host, name)
	}
	web := start("host1", "Web-1", "--network", "blue", "--network-alias", "shop",
		"--label", "com.docker.compose.project=market", "--label", "com.docker.compose.service=front")
	start("host2", "db", "--network", "blue")

	// finds waits until a name stands for an address in a container of host2.
	finds := func(name, addr string) {
		t.Helper()
		d.Await(name+" to be "+addr, func() (bool, string) {
			out, _ := d.Run("host2", dockerCLI, "exec", "db", "nslookup", name)
			_, answer, _ := strings.Cut(out, "\n\n")
			return strings.Contains(answer, "Address: "+addr+"\n"), out
		})
	}
	unknown := func(name string) {
		t.Helper()
		d.Await(name+" to be unknown", func() (bool, string) {
			out, err := d.Run("host2", dockerCLI, "exec", "db", "nslookup", name)
			return err != nil && strings.Contains(out+err.Error(), "can't find"), out
		})
	}
	for _, name := range []string{"Web-1", "web-1", "shop", "web-1.blue"} {
		finds(name, web)
	}
	d.AwaitRun("a ping by name", "host2", dockerCLI, "exec", "db", "ping", "-c", "1", "-W", "1", "shop")
	d.AwaitRun("a ping back by name", "host1", dockerCLI, "exec", "Web-1", "ping", "-c", "1", "-W", "1", "db")
	d.Await("the address's name", func() (bool, string) {
		out, _ := d.Run("host2", dockerCLI, "exec", "db", "nslookup", web)
		return strings.Contains(out, "shop.blue"), out
	})

	// U13: endpoints appeared as docker-<id>, and no command listed names.
	t.Run("people see the names, too", func(t *testing.T) {
		d := d.in(t)
		d.Await("what the engine says of the container", func() (bool, string) {
			out, _ := d.Run("host1", "baize", "endpoint", "list", "--filter", "container=Web-1",
				"-o", "custom-columns=C:container,S:service,I:image,IP:ips[0]", "--no-headers")
			return strings.Join(strings.Fields(out), " ") == "Web-1 market/front "+lab.DockerImage+" "+web, out
		})
		for _, name := range []string{"shop", "WEB-1.blue", web} {
			out := d.Must("host2", "baize", "name", "resolve", name, "-o", "jsonpath={[0].node} {[0].addresses[0]}")
			require.Equal(t, "host1 "+web, strings.TrimSpace(out), name)
		}
		_, err := d.Run("host2", "baize", "name", "resolve", "nobody")
		require.Error(t, err)
		for from, to := range map[string]string{"web-1": "db", "db": "shop"} {
			out := d.Must("host2", "baize", "trace", from, to)
			require.Contains(t, out, " from "+from+" (")
			require.NotContains(t, out, "docker-")
		}
	})

	// U12: an alias on two hosts was never balanced, because the engine answers first.
	t.Run("an alias is balanced, the dead left out", func(t *testing.T) {
		d := d.in(t)
		addrs := []string{
			start("host1", "pool-1", "--network", "blue", "--network-alias", "pool"),
			start("host2", "pool-2", "--network", "blue", "--network-alias", "pool"),
		}
		start("host2", "asks", "--network", "blue", "--dns-search", topology.NamesDomain, "--dns-option", "ndots:1")
		finds("all.pool."+topology.NamesDomain, addrs[0])
		for _, name := range []string{"pool", "pool." + topology.NamesDomain, "pool.blue." + topology.NamesDomain} {
			d.balanced("host2", "asks", name, addrs)
		}
		d.docker("host2", "exec", "asks", "ping", "-c", "1", "-W", "5", "db")
		_, err := d.Run("host2", dockerCLI, "exec", "asks", "nslookup", "nobody")
		require.Error(t, err)

		// host1 dies, as far as others can tell.
		require.NoError(t, d.Host("host1").Kill(t.Context(), lab.ServiceAgent, unix.SIGSTOP))
		d.Await("only the living one to be answered", func() (bool, string) {
			out, _ := d.Run("host2", dockerCLI, "exec", "asks", "nslookup", "all.pool."+topology.NamesDomain)
			return strings.Contains(out, addrs[1]) && !strings.Contains(out, addrs[0]), out
		})
		require.Equal(t, 60, d.answers("host2", "asks", "pool", 60)[addrs[1]])
		require.NoError(t, d.Host("host1").Kill(t.Context(), lab.ServiceAgent, unix.SIGCONT))
		finds("all.pool."+topology.NamesDomain, addrs[0])
		d.docker("host1", "rm", "-f", "pool-1")
		d.docker("host2", "rm", "-f", "pool-2", "asks")
	})

	t.Run("only names of networks it is in", func(t *testing.T) {
		start("host1", "secret", "--network", "green")
		start("host2", "friend", "--network", "green")
		d.AwaitRun(
			"its name in its own network", "host2", dockerCLI, "exec", "friend", "ping", "-c", "1", "-W", "1", "secret",
		)
		unknown("secret")
		d.docker("host2", "network", "connect", "green", "db")
		d.AwaitRun("a name of the second network", "host2", dockerCLI, "exec", "db", "ping", "-c", "1", "-W", "1", "secret")
		d.docker("host2", "network", "disconnect", "green", "db")
		unknown("secret")
	})

	t.Run("a name follows its container", func(t *testing.T) {
		d.docker("host1", "rename", "Web-1", "site")
		finds("site", web)
		unknown("web-1")
		d.docker("host1", "stop", "-t", "0", "site")
		unknown("site")
		d.docker("host1", "start", "site")
		finds("site", inBlue("host1", "site"))
	})

	t.Run("a start does not wait for etcd, names follow", func(t *testing.T) {
		require.NoError(t, d.Host("fabric").StopService(t.Context(), lab.ServiceEtcd))
		late := start("host1", "late", "--network", "blue")
		finds("shop", web)
		require.NoError(t, d.Host("fabric").StartService(t.Context(), lab.ServiceEtcd))
		finds("late", late)
	})

	t.Run("agent and engine are killed", func(t *testing.T) {
		for _, host := range []string{"host1", "host2"} {
			require.NoError(t, d.Host(host).Kill(t.Context(), lab.ServiceAgent, unix.SIGKILL))
			require.NoError(t, d.Host(host).AwaitService(t.Context(), lab.ServiceAgent))
		}
		finds("late", inBlue("host1", "late"))
		require.NoError(t, d.Host("host1").StopService(t.Context(), lab.ServiceDockerd))
		require.NoError(t, d.Host("host1").StartService(t.Context(), lab.ServiceDockerd))
		d.docker("host1", "start", "site")
		finds("site", inBlue("host1", "site"))
	})
}

// answers counts what a name stands for in a container, by the resolver of the C library,
// which sorts.
func (d *domain) answers(host, container, name string, n int) map[string]int {
	d.T.Helper()
	seen := map[string]int{}
	const ask = "for i in $(seq $1); do ping -c 1 -w 5 -q $0 | head -n 1; done"
	for line := range strings.Lines(d.docker(host, "exec", container, "sh", "-c", ask, name, strconv.Itoa(n))) {
		_, addr, _ := strings.Cut(line, "(")
		addr, _, _ = strings.Cut(addr, ")")
		seen[addr]++
	}
	d.T.Log(name, seen)
	return seen
}

// balanced requires that a name stands for each of two addresses about half of the time.
func (d *domain) balanced(host, container, name string, addrs []string) {
	d.T.Helper()
	seen := d.answers(host, container, name, 60)
	require.Equal(d.T, 60, seen[addrs[0]]+seen[addrs[1]], "%v", seen)
	require.Greater(d.T, seen[addrs[0]], 10, "%v", seen) // five standard deviations
	require.Greater(d.T, seen[addrs[1]], 10, "%v", seen)
}
