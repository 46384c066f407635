//go:build system

package cnitest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// runtime is a container runtime of host1's, as far as networks are its business: the
// reference library, whose plugins run in the host.
type runtime struct {
	hosts
	*libcni.CNIConfig
	list *libcni.NetworkConfigList
}

// inHost starts plugins in host1 (invoke.Exec).
type inHost struct {
	*version.PluginDecoder
	hosts
}

var _ invoke.Exec = inHost{}

// ExecPlugin implements invoke.Exec.
func (e inHost) ExecPlugin(ctx context.Context, plugin string, stdin []byte, environ []string) ([]byte, error) {
	argv := []string{"env"}
	for _, v := range environ {
		if strings.HasPrefix(v, "CNI_") {
			argv = append(argv, v)
		}
	}
	argv, env, err := e.ExecCommand("host1", append(argv, plugin))
	if err != nil {
		return nil, err
	}
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, bytes.NewReader(stdin), &out, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s%s", plugin, err, out.Bytes(), stderr.Bytes())
	}
	return out.Bytes(), nil
}

// FindInPath implements invoke.Exec.
func (e inHost) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// runtime makes a runtime with a network of the plugins given. All of them have to
// support the newest version.
func (h hosts) runtime(newest, name string, plugins ...map[string]any) runtime {
	h.T.Helper()
	cni := libcni.NewCNIConfigWithCacheDir(h.path(), h.T.TempDir(), inHost{&version.PluginDecoder{}, h})
	return runtime{h, cni, h.list(newest, name, plugins...)}
}

func (h hosts) list(newest, name string, plugins ...map[string]any) *libcni.NetworkConfigList {
	h.T.Helper()
	b, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "cniVersions": []string{"0.4.0", newest}, "name": name, "plugins": plugins,
	})
	require.NoError(h.T, err)
	list, err := libcni.ConfListFromBytes(b)
	require.NoError(h.T, err)
	return list
}

// container makes a namespace in host1.
func (h hosts) container(name string) *libcni.RuntimeConf {
	h.T.Helper()
	h.Must("host1", "ip", "netns", "add", name)
	h.Must("host1", "ip", "-n", name, "link", "set", "dev", "lo", "up") // as runtimes do
	h.T.Cleanup(func() { _, _ = h.Host("host1").Exec(context.Background(), "ip", "netns", "delete", name) })
	return &libcni.RuntimeConf{ContainerID: name, NetNS: "/run/netns/" + name, IfName: "eth0"}
}

// add adds a container, and returns the address that it has.
func (r runtime) add(c *libcni.RuntimeConf) netip.Addr {
	r.T.Helper()
	out, err := r.AddNetworkList(r.T.Context(), r.list, c)
	require.NoError(r.T, err)
	result, err := current.NewResultFromResult(out)
	require.NoError(r.T, err)
	a, ok := netip.AddrFromSlice(result.IPs[0].Address.IP)
	require.True(r.T, ok)
	return a.Unmap()
}

func (r runtime) del(c *libcni.RuntimeConf) {
	r.T.Helper()
	require.NoError(r.T, r.DelNetworkList(r.T.Context(), r.list, c))
}

// baize is the plugin with the capabilities that it has.
func baize(network string) map[string]any {
	return map[string]any{"type": "baize-cni", "network": network, "capabilities": map[string]bool{
		"ips": true, "mac": true, "aliases": true, "dns": true,
	}}
}

// chain has the reference plugins change what baize-cni made: sysctls, a published port, a
// firewall, a limit of traffic.
func chain(h hosts) {
	plugins := []map[string]any{
		baize(network),
		{"type": "tuning", "sysctl": map[string]string{"net.ipv4.conf.eth0.log_martians": "1"}},
		{"type": "firewall", "backend": "iptables"},
		{"type": "bandwidth", "ingressRate": 80_000_000, "ingressBurst": 8_000_000},
	}
	portmap := map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}, "snat": true}
	r := h.runtime("1.0.0", "chained", append(slices.Clone(plugins), portmap)...)
	// Docker's policy for what is forwarded is DROP.
	h.Must("host1", "iptables", "-I", "DOCKER-USER", "-m", "conntrack", "--ctstate", "DNAT", "-j", "ACCEPT")
	rules := h.Must("host1", "iptables-save")
	c := h.container("chained")
	c.CapabilityArgs = map[string]any{
		"portMappings": []map[string]any{{"hostPort": 8088, "containerPort": 80, "protocol": "tcp"}},
		"mac":          "02:00:00:00:00:c1",
	}
	addr := r.add(c)
	// Debian's portmap 1.1.1 does not find its own rules at CHECK.
	require.NoError(h.T, r.CheckNetworkList(h.T.Context(), h.list("1.0.0", "chained", plugins...), c))
	assert.Equal(h.T, "1", strings.TrimSpace(h.Must("host1", "ip", "netns", "exec", "chained", "cat",
		"/proc/sys/net/ipv4/conf/eth0/log_martians")))
	assert.Contains(h.T, h.Must("host1", "ip", "-n", "chained", "link", "show", "dev", "eth0"), "02:00:00:00:00:c1")
	assert.Contains(h.T, h.Must("host1", "tc", "qdisc"), "tbf")
	h.Start("host1", "ip", "netns", "exec", "chained", "busybox", "nc", "-ll", "-p", "80", "-e", "echo", "hello")
	for _, at := range []string{addr.String() + " 80", "192.168.77.11 8088"} {
		h.Await("the container to answer at "+at, func() (bool, string) {
			out, err := h.Run("host2", append([]string{"timeout", "2", "busybox", "nc"}, strings.Fields(at)...)...)
			return strings.Contains(out, "hello"), fmt.Sprint(out, err)
		})
	}
	r.del(c)
	r.del(c)
	assert.Empty(h.T, left(h, "chained"))
	assert.Equal(h.T, rulesOf(rules, addr), rulesOf(h.Must("host1", "iptables-save"), addr))
}

// rulesOf are the rules of iptables-save that are about an address.
func rulesOf(saved string, addr netip.Addr) []string {
	return slices.DeleteFunc(strings.Split(saved, "\n"), func(line string) bool { return !strings.Contains(line, addr.String()) })
}

// withoutEtcd: an address of the node's own subnet needs nothing of etcd, and nothing is
// written there when it answers.
func withoutEtcd(h hosts) {
	r := h.runtime("1.1.0", "plain", baize(network))
	before := h.AgentStatus("host1").Etcd.Revision
	c := h.container("plain")
	for range 3 {
		r.add(c)
		r.del(c)
	}
	h.Await("etcd's revision to be told", func() (bool, string) { return h.AgentStatus("host1").Etcd.Connected, "" })
	assert.Equal(h.T, before, h.AgentStatus("host1").Etcd.Revision, "a container writes nothing to etcd")

	etcd := h.Host("fabric")
	require.NoError(h.T, etcd.StopService(h.T.Context(), lab.ServiceEtcd))
	defer func() { require.NoError(h.T, etcd.StartService(context.Background(), lab.ServiceEtcd)) }()
	h.Await("the agent to miss etcd", func() (bool, string) {
		st := h.AgentStatus("host1").Etcd
		return !st.Connected, st.Error
	})
	addr := r.add(c)
	require.NoError(h.T, r.CheckNetworkList(h.T.Context(), r.list, c))
	require.NoError(h.T, r.GetStatusNetworkList(h.T.Context(), r.list))
	h.AwaitRun("host2 to reach it", "host2/c1", "ping", "-c", "1", "-W", "1", addr.String())
	require.NoError(h.T, r.GCNetworkList(h.T.Context(), r.list, &libcni.GCArgs{}))
	assert.Empty(h.T, left(h, "plain"), "it was not among the valid attachments")
}

// withoutAgent: DEL works without an agent, and ADD waits for one that is being restarted.
func withoutAgent(h hosts) {
	r := h.runtime("1.1.0", "restarted", baize(network))
	c := h.container("restarted")
	c.Args = [][2]string{{"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", "pod"}} // as Kubernetes says
	addr := r.add(c)
	require.True(h.T, hasPort(h, "bz-pod"), "ports are named after pods (U13)")
	agent := h.Host("host1")
	require.NoError(h.T, agent.StopService(h.T.Context(), lab.ServiceAgent))
	h.Must("host2/c1", "ping", "-c", "1", "-W", "5", addr.String())
	r.del(c)
	assert.NotContains(h.T, h.Must("host1", "ip", "-n", "restarted", "-br", "link"), "eth0")
	assert.NotContains(h.T, h.Must("host1", "ip", "-br", "link"), "bz-pod")

	added := make(chan error, 1)
	go func() {
		_, err := r.AddNetworkList(context.Background(), r.list, c)
		added <- err
	}()
	require.NoError(h.T, agent.StartService(h.T.Context(), lab.ServiceAgent))
	require.NoError(h.T, <-added)
	require.NoError(h.T, r.CheckNetworkList(h.T.Context(), r.list, c))

	// Another agent finds it by what the one before has recorded.
	require.NoError(h.T, agent.StopService(h.T.Context(), lab.ServiceAgent))
	require.NoError(h.T, agent.StartService(h.T.Context(), lab.ServiceAgent))
	require.NoError(h.T, r.CheckNetworkList(h.T.Context(), r.list, c))
	require.True(h.T, hasPort(h, "bz-pod"))
	r.del(c)
	assert.Empty(h.T, left(h, "restarted"))
}

// hasPort reports whether the switch of host1 shows a port.
func hasPort(h hosts, name string) bool {
	h.T.Helper()
	return slices.Contains(strings.Fields(h.Must("host1", "ovs-vsctl", "list-ports", "br-baize")), name)
}

// names: the aliases that a runtime gives are names in the whole network.
func names(h hosts) {
	r := h.runtime("1.1.0", "named", baize(network))
	c, other := h.container("named"), h.container("asking")
	c.CapabilityArgs = map[string]any{"aliases": []string{"front", "Web"}}
	other.CapabilityArgs = map[string]any{"aliases": []string{"asking"}}
	addr := r.add(c)
	r.add(other)
	resolves := func(want bool) {
		h.T.Helper()
		h.Await("names to be published, or taken back", func() (bool, string) {
			out, err := h.Run("host2", "baize", "name", "resolve", "web")
			return strings.Contains(out, addr.String()) == want, fmt.Sprint(out, err)
		})
	}
	resolves(true)
	h.AwaitRun("a container to ask the name server in it", "host1", "ip", "netns", "exec", "asking", "busybox", "nslookup",
		"front", "127.0.0.12")
	r.del(c)
	r.del(other)
	resolves(false)
	assert.Empty(h.T, left(h, "named"))
}

// conf writes the configuration of Baize's network as runtimes read it, and returns its
// folder.
func conf(h hosts) string {
	h.T.Helper()
	dir := h.T.TempDir()
	text, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "cniVersions": []string{"0.4.0", "1.0.0", "1.1.0"}, "name": network,
		"plugins": []any{baize(network)},
	})
	require.NoError(h.T, err)
	write(h.T, filepath.Join(dir, "10-blue.conflist"), string(text))
	return dir
}

// image saves the engine's image for other engines.
func image(h hosts) string {
	h.T.Helper()
	file := filepath.Join(h.T.TempDir(), "image.tar")
	h.Must("host1", "docker", "save", "-o", file, lab.DockerImage)
	return file
}

// docker starts a container of Docker's in the network, on host2, and returns its address.
func docker(h hosts) netip.Addr {
	h.T.Helper()
	h.Must("host2", "docker", "network", "create", "-d", "baize", "--subnet", "10.1.0.0/16", "--ipam-driver", "baize", "-o",
		"baize.network="+network, "--ipam-opt", "baize.network="+network, network)
	h.Must("host2", "docker", "run", "-d", "--init", "--name", "far", "--network", network, lab.DockerImage, "sleep", "100000")
	h.T.Cleanup(func() {
		_, _ = h.Host("host2").Exec(context.Background(), "docker", "rm", "-f", "far")
		_, _ = h.Host("host2").Exec(context.Background(), "docker", "network", "rm", network)
	})
	out := h.Must("host2", "docker", "inspect", "-f", "{{(index .NetworkSettings.Networks \""+network+"\").IPAddress}}", "far")
	a, err := netip.ParseAddr(strings.TrimSpace(out))
	require.NoError(h.T, err)
	return a
}

// podman runs containers of Podman 4, with CNI, in one network with Docker's.
func podman(h hosts) {
	far := docker(h)
	dir := h.T.TempDir()
	write(h.T, filepath.Join(dir, "containers.conf"), `[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "cni"
cni_plugin_dirs = ["`+strings.Join(h.path(), `", "`)+`"]
network_config_dir = "`+conf(h)+`"
`)
	write(h.T, filepath.Join(dir, "storage.conf"), `[storage]
driver = "vfs"
graphroot = "`+dir+`/graph"
runroot = "`+dir+`/run"
`)
	podman := func(args ...string) string {
		h.T.Helper()
		return strings.TrimSpace(h.Must("host1", append([]string{
			"env", "CONTAINERS_CONF=" + dir + "/containers.conf", "CONTAINERS_STORAGE_CONF=" + dir + "/storage.conf", "podman",
		}, args...)...))
	}
	run := func(args ...string) string {
		h.T.Helper()
		return podman(append([]string{"run", "--cgroup-parent", "/baize-" + h.Name() + "-host1"}, args...)...)
	}
	podman("load", "-i", image(h))
	h.T.Cleanup(func() { podman("rm", "-af", "-t", "0") })

	run("-d", "--name", "web", "--network", network, lab.DockerImage, "sleep", "100000")
	h.AwaitRun("Docker's container to reach Podman's", "host2", "docker", "exec", "far", "ping", "-c", "1", "-W", "1",
		podmanAddr(podman, "web").String())
	podman("exec", "web", "ping", "-c", "1", "-W", "5", far.String())
	assert.Contains(h.T, h.Must("host1", "baize", "endpoint", "list"), "web", "people see what it is called")
	assert.True(h.T, hasPort(h, "bz-web"))

	// A static address, and its link address follows.
	own := podmanAddr(podman, "web").As4()
	own[3] = 200
	static := netip.AddrFrom4(own)
	out := run("--rm", "--network", network, "--ip", static.String(), lab.DockerImage, "ip", "addr", "show", "dev", "eth0")
	assert.Contains(h.T, out, static.String())
	assert.Contains(h.T, out, topology.MACOf(static).String())

	// The same container again has its network again.
	podman("restart", "-t", "0", "web")
	assert.True(h.T, hasPort(h, "bz-web"))
	podman("exec", "web", "ping", "-c", "1", "-W", "5", far.String())
	podman("network", "disconnect", network, "web")
	podman("network", "connect", network, "web")
	podman("exec", "web", "ping", "-c", "1", "-W", "5", far.String())
	podman("pod", "create", "--cgroup-parent", "/baize-"+h.Name()+"-host1", "--name", "pod", "--network", network,
		"--infra-image", lab.DockerImage, "--infra-command", "/bin/sleep 100000")
	podman("run", "-d", "--pod", "pod", "--name", "inside", lab.DockerImage, "sleep", "100000")
	podman("exec", "inside", "ping", "-c", "1", "-W", "5", far.String())
	podman("pod", "rm", "-f", "-t", "0", "pod")
	podman("rm", "-f", "-t", "0", "web")
	assert.Empty(h.T, left(h, network))

	podmanPage(h, dir, podman)
}

// podmanPage types what docs/podman.md has for Podman 4 with CNI. Its containers run one image
// under two names.
func podmanPage(h hosts, dir string, podman func(...string) string) {
	h.T.Helper()
	h.Must("host1", "sh", "-c", "mkdir -p /etc/cni && mount -t tmpfs cni /etc/cni") // of the host alone
	h.Must("host1", "sed", "-i", `s,^network_config_dir.*,network_config_dir = "/etc/cni/net.d",`, dir+"/containers.conf")
	podman("tag", lab.DockerImage, "docker.io/library/nginx", "docker.io/library/busybox")
	write(h.T, filepath.Join(dir, "podman"), `#!/bin/sh
[ "$1" != run ] || { shift; set -- run --cgroup-parent /baize-`+h.Name()+`-host1 "$@"; }
exec /usr/bin/podman "$@"
`)
	require.NoError(h.T, os.Chmod(filepath.Join(dir, "podman"), 0o755))
	typed := map[string]bool{}
	for _, c := range testkit.Commands(h.T, "../../../docs/podman.md") {
		if strings.HasPrefix(c, "podman network create -d baize") || typed[c] {
			continue // netavark: see below
		}
		typed[c] = true
		c = strings.Replace(c, "podman configure", "podman configure --yes", 1)
		out, err := h.Run("host1", "sh", "-c", "export CONTAINERS_CONF="+dir+"/containers.conf CONTAINERS_STORAGE_CONF="+dir+
			"/storage.conf PATH="+dir+":$PATH; "+c)
		require.NoError(h.T, err, "%s\n%s", c, out)
		if strings.Contains(c, ":ip=10.1.153.77") {
			assert.Contains(h.T, out, "inet 10.1.153.77/16")
		}
	}
	require.Len(h.T, typed, 9)
	podman("rm", "-af", "-t", "0")
	assert.Empty(h.T, left(h, network))
}

func podmanAddr(podman func(...string) string, name string) netip.Addr {
	out := podman("inspect", "-f", "{{(index .NetworkSettings.Networks \""+network+"\").IPAddress}}", name)
	a, _ := netip.ParseAddr(out)
	return a
}

// netavark does to the plugin what netavark does, which Podman 5 starts: Debian 12 has
// neither in a version that knows plugins.
func netavark(h hosts) {
	c := h.container("netavark")
	request := func(subcommand string, args ...string) (string, error) {
		return h.Run("host1", append([]string{"sh", "-c", `exec "$@" <<END
{"container_id":"` + c.ContainerID + `","container_name":"web","port_mappings":null,
"network":{"name":"podmans","id":"2f25","driver":"baize","internal":false,"dns_enabled":false,"ipv6_enabled":true,
"options":{"baize.network":"` + network + `"}},"network_options":{"aliases":["x"],"interface_name":"eth0","static_ips":null}}
END`, "sh", h.plugins + "/baize-cni", subcommand}, args...)...)
	}
	out, err := request("setup", c.NetNS)
	require.NoError(h.T, err, out)
	var status struct {
		Interfaces map[string]struct {
			MAC     string `json:"mac_address"`
			Subnets []struct {
				IPNet netip.Prefix `json:"ipnet"`
			} `json:"subnets"`
		} `json:"interfaces"`
	}
	require.NoError(h.T, json.Unmarshal([]byte(out), &status), out)
	eth0 := status.Interfaces["eth0"]
	have := h.Must("host1", "ip", "-n", "netavark", "addr", "show", "dev", "eth0")
	assert.Contains(h.T, have, eth0.MAC)
	require.Len(h.T, eth0.Subnets, 2, "of both families")
	for _, s := range eth0.Subnets {
		assert.Contains(h.T, have, s.IPNet.String())
	}
	h.AwaitRun("host2 to reach it", "host2/c1", "ping", "-c", "1", "-W", "1", eth0.Subnets[0].IPNet.Addr().String())
	assert.Contains(h.T, h.Must("host1", "baize", "endpoint", "list"), "web")
	assert.True(h.T, hasPort(h, "bz-web"))
	out, err = request("setup", c.NetNS)
	require.Error(h.T, err)
	assert.Contains(h.T, out, `"error":"interface eth0`)
	for range 2 {
		out, err = request("teardown", c.NetNS)
		require.NoError(h.T, err, out)
		assert.Empty(h.T, out)
	}
	assert.NotContains(h.T, h.Must("host1", "ip", "-n", "netavark", "-br", "link"), "eth0")
	assert.NotContains(h.T, h.Must("host1", "baize", "endpoint", "list"), "netavark-")
}

// containerd starts a container with 'ctr --cni', which reads /etc/cni/net.d and
// /opt/cni/bin.
func containerd(h hosts) {
	for _, dir := range []string{"/etc", "/opt"} {
		// Of the host alone, and only until it ends.
		h.Must("host1", "sh", "-c", "mkdir -p "+dir+"/cni && mount -t tmpfs cni "+dir+"/cni")
	}
	h.Must("host1", "sh", "-c", "mkdir -p /opt/cni/bin && ln -s "+h.plugins+"/baize-cni "+debianPlugins+"/* /opt/cni/bin/")
	page(h)
	h.Must("host1", "baize", "podman", "configure", "--network", network, "--yes")
	h.Must("host1", "baize", "kubernetes", "configure", "--network", network, "--yes") // the same file
	ctr := func(args ...string) string {
		h.T.Helper()
		return h.Must("host1", append([]string{"ctr", "-n", "cnitest"}, args...)...)
	}
	ctr("images", "import", image(h))
	ref := strings.TrimSpace(strings.Split(ctr("images", "list", "-q"), "\n")[0])
	out := ctr("run", "--rm", "--cni", "--cgroup", "/baize-"+h.Name()+"-host1/ctr", ref, "one", "sh", "-c",
		"ip addr show dev eth0; ping -c 1 -W 5 "+h.Endpoint("host2/c1").IPs[0].String())
	assert.Contains(h.T, out, "10.1.")
	assert.Contains(h.T, out, "1 packets received")
	assert.Empty(h.T, left(h, network), "ctr calls DEL, without a namespace")
	h.Must("host1", "baize", "podman", "configure", "--network", network, "--undo", "--yes")
	assert.Empty(h.T, strings.TrimSpace(h.Must("host1", "ls", "/etc/cni/net.d")))
}

// page types what docs/cni.md has, with the file that it has.
func page(h hosts) {
	const page = "../../../docs/cni.md"
	cnitool(h)
	h.Must("host1", "ctr", "images", "import", image(h))
	blocks := testkit.Blocks(h.T, page)
	h.Must("host1", "sh", "-ec", "mkdir -p /etc/cni/net.d; cat >/etc/cni/net.d/10-blue.conflist <<'E'\n"+blocks[0].Text()+"\nE")
	ran := 0
	for _, c := range testkit.Commands(h.T, page) {
		if strings.HasPrefix(c, "iptables") || strings.HasPrefix(c, "baize network") {
			continue // the lab has it
		}
		out, err := h.Run("host1", "sh", "-c", "PATH=/opt/cni/bin:$PATH; "+c)
		require.NoError(h.T, err, "%s\n%s", c, out)
		if strings.HasPrefix(c, "ctr") {
			assert.Contains(h.T, out, "inet 10.1.")
		}
		ran++
	}
	require.Equal(h.T, 6, ran)
	h.Must("host1", "ip", "netns", "delete", "web")
	h.Must("host1", "rm", "/etc/cni/net.d/10-blue.conflist")
	assert.Empty(h.T, left(h, network))

	// The chain of the page, by the reference library.
	list, err := libcni.ConfListFromBytes([]byte(blocks[len(blocks)-1].Text()))
	require.NoError(h.T, err)
	r := h.runtime("1.0.0", list.Name, baize(network))
	r.list = list
	c := h.container("chain-of-page")
	r.add(c)
	assert.Equal(h.T, "500", strings.TrimSpace(h.Must("host1", "ip", "netns", "exec", "chain-of-page", "cat",
		"/proc/sys/net/core/somaxconn")))
	r.del(c)
	assert.Empty(h.T, left(h, list.Name))
}

// cnitool puts CNI's own tool where the plugins are, in the version of the library.
func cnitool(h hosts) {
	h.T.Helper()
	const module = "github.com/containernetworking/cni"
	version, err := testkit.Try(time.Minute, nil, "go", "list", "-m", "-f", "{{.Version}}", module)
	require.NoError(h.T, err, version)
	dir := h.T.TempDir()
	out, err := testkit.Try(10*time.Minute, []string{"GOBIN=" + dir, "CGO_ENABLED=0"},
		"go", "install", module+"/cnitool@"+strings.TrimSpace(version))
	require.NoError(h.T, err, out)
	h.Must("host1", "ln", "-s", dir+"/cnitool", "/opt/cni/bin/")
}

func write(t *testing.T, file, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
}
