package lab

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/baize-net/baize/topology"
)

const initFile = "init.json"

// insideDir is where a member keeps, on its private /run, what concerns its
// life: the executable (bin/baize), services.json, ready.SERVICE once a service
// is ready, stopped.SERVICE for those that are not to run.
const insideDir = "/run/baize-lab"

// initConfig is what a member's pid 1 is told, in init.json.
type initConfig struct {
	Lab    string `json:"lab"`
	Member string `json:"member"`
	// Dir is the member's directory: logs, databases. Same path inside.
	Dir string `json:"dir"`
	// Binary is the baize executable.
	Binary string `json:"binary"`
	// Addrs are the underlay's, those of the fabric's bridge or of the host.
	Addrs []netip.Prefix `json:"addrs"`
	// MAC is that of eth0.
	MAC string `json:"mac,omitempty"`
	// Kernel says that Open vSwitch has its kernel datapath.
	Kernel bool `json:"kernel,omitempty"`
	// Docker says that a container engine runs here.
	Docker bool `json:"docker,omitempty"`
	// DockerBridge says that docker0 is a part of a network.
	DockerBridge bool `json:"dockerBridge,omitempty"`
	// Flannel says that the network is flannel's, Flanneld is the program where
	// this host runs flannel itself.
	Flannel  bool   `json:"flannel,omitempty"`
	Flanneld string `json:"flanneld,omitempty"`
	// Etcd is its address.
	Etcd string `json:"etcd,omitempty"`
	// Engine is the directory of the engine, where it is not the system's own.
	Engine string `json:"engine,omitempty"`
	// Env is the environment of what runs inside.
	Env []string `json:"env"`
	// Args are those of the agent, or of etcd in the fabric.
	Args []string `json:"args"`
	// Segments is how many the underlay has; 0 is 1.
	Segments int `json:"segments,omitempty"`
	// Ports are the addresses of a router's eth0, eth1, …
	Ports [][]netip.Prefix `json:"ports,omitempty"`
	// Gateways are the next hops of default routes, one a family.
	Gateways []netip.Addr `json:"gateways,omitempty"`
	// FRR is frr.conf where FRR runs here.
	FRR string `json:"frr,omitempty"`
	// HostsFile becomes /etc/hosts.
	HostsFile string `json:"hostsFile"`
	// Share is a directory that stays visible at its path; "" where Dir is all.
	Share string `json:"share,omitempty"`
}

func readInitConfig(dir string) (initConfig, error) {
	var c initConfig
	b, err := os.ReadFile(filepath.Join(dir, initFile))
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	return c, err
}

func (c initConfig) isFabric() bool { return c.Member == fabricName }
func (c initConfig) isRouter() bool { return c.Member == routerName }
func (c initConfig) logDir() string { return filepath.Join(c.Dir, "log") }

// log is the file with what a service printed; "init" is pid 1 itself.
func (c initConfig) log(service string) string {
	return filepath.Join(c.logDir(), service+".log")
}

// systemPath is looked through after the lab's own executable: sudo and
// ordinary users' PATH leave out where the daemons are.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// keptEnv are the variables that daemons inside get from ours.
var keptEnv = []string{"LANG", "LC_ALL", "TZ", "GORACE", "GOCOVERDIR", "GODEBUG", "GOTRACEBACK"}

// daemonEnv is the environment of pid 1 and of what it runs.
func daemonEnv(get func(string) (string, bool), own, extra []string) []string {
	env := []string{"PATH=" + insideDir + "/bin:" + systemPath, "HOME=/root"}
	for _, k := range keptEnv {
		if v, ok := get(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return append(append(env, own...), extra...)
}

// execEnv is the environment of a command that a person runs in a host: their
// own, except that settings of Baize, Open vSwitch and Docker are the host's.
func execEnv(environ, own, extra []string) []string {
	path := systemPath
	var env []string
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		switch {
		case k == "PATH" && v != "":
			path = v + ":" + systemPath
		case k == "PATH", k == "HOSTNAME", k == "PWD", k == "OLDPWD", k == "NOTIFY_SOCKET", strings.HasPrefix(k, "BAIZE_"), strings.HasPrefix(k, "OVS_"), strings.HasPrefix(k, "DOCKER_"):
		default:
			env = append(env, kv)
		}
	}
	env = append(env, "PATH="+insideDir+"/bin:"+path)
	return append(append(env, own...), extra...)
}

// memberEnv is what makes baize inside a member work without flags.
func (s state) memberEnv(name string) []string {
	if hostNumber(name) == 0 {
		return hostEnv(name, false, 1)[:1] // where etcd is
	}
	return hostEnv(name, s.IPv6Underlay, s.Segments)
}

// hostEnv is memberEnv of a host.
func hostEnv(host string, ipv6 bool, segments int) []string {
	env := []string{"BAIZE_ETCD_ENDPOINTS=" + etcdURL(ipv6), "BAIZE_NODE=" + host, "HOSTNAME=" + host}
	if ipv6 {
		env = append(env, "BAIZE_VTEP="+hostAddrs(hostNumber(host), segments)[1].Addr().String())
	}
	return env
}

// The command lines of Baize that the lab uses, after the executable.

func etcdArgs(dataDir, socket string) []string {
	return []string{"etcd", "--data-dir", dataDir, "--unsafe-no-fsync",
		"--listen-client-urls", etcdURL(false) + "," + etcdURL(true) + ",unix://" + socket}
}

func agentArgs(extra []string) []string { return append([]string{"agent"}, extra...) }

// networkCreateArgs leaves the MTU to Baize, which assumes tunnels over IPv4,
// where they are not over IPv6.
func networkCreateArgs(n NetworkSpec, t topology.Transport, vni string, ipv6Underlay bool) []string {
	args := []string{"network", "create", n.Name}
	for _, p := range n.Prefixes {
		args = append(args, "--subnet", p.String())
	}
	args = append(args, "--transport", string(t))
	if vni != "" {
		args = append(args, "--vni", vni)
	}
	if ipv6Underlay {
		args = append(args, "--mtu", strconv.Itoa(topology.MTU(t, topology.IPv6, underlayMTU)))
	}
	return args
}

func networkShowArgs(name string) []string { return []string{"network", "show", name, "-o", "json"} }

func networkUpdateArgs(name string, t topology.Transport) []string {
	return []string{"network", "update", name, "--transport", string(t)}
}

func endpointAddArgs(network, netns string) []string {
	return []string{"endpoint", "add", "--network", network, "--netns", netns}
}

func endpointRemoveArgs(network, name string) []string {
	return []string{"endpoint", "remove", network + "/" + name}
}

func agentCleanupArgs(bgp []string) []string { return append(agentArgs(bgp), "cleanup") }

func nodeRemoveArgs(node string) []string { return []string{"node", "remove", node, "--force"} }
