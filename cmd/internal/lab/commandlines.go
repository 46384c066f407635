package lab

import (
	"strconv"

	"github.com/baize-net/baize/cmd/internal/lab/engine"
	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/topology"
)

// The command lines of Baize that the lab uses, after the executable.

func etcdArgs(dataDir, socket string) []string {
	return []string{"etcd", "--data-dir", dataDir, "--unsafe-no-fsync",
		"--listen-client-urls", fabric.EtcdURL(false) + "," + fabric.EtcdURL(true) + ",unix://" + socket}
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
		args = append(args, "--mtu", strconv.Itoa(topology.MTU(t, topology.IPv6, fabric.MTU)))
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

func nodeRemoveArgs(node string) []string {
	return []string{"node", "remove", node, "--force", "--yes"}
}

// memberEnv is what makes baize inside a member work without flags.
func (s state) memberEnv(name string) []string {
	if member.HostNumber(name) == 0 {
		return hostEnv(name, false, 1)[:1] // where etcd is
	}
	return hostEnv(name, s.IPv6Underlay, s.Segments)
}

// hostEnv is memberEnv of a host.
func hostEnv(host string, ipv6 bool, segments int) []string {
	env := []string{
		"BAIZE_ETCD_ENDPOINTS=" + fabric.EtcdURL(ipv6), "BAIZE_NODE=" + host, "HOSTNAME=" + host,
		"BAIZE_SETTINGS=", // the machine's own are not the host's
	}
	if ipv6 {
		env = append(env, "BAIZE_VTEP="+fabric.HostAddrs(member.HostNumber(host), segments)[1].Addr().String())
	}
	return env
}

// agentArgs are the arguments of the agent of host n, whose directory is dir.
func (s *state) agentArgs(n int, dir string) []string {
	return append(s.agentBGPArgs(n, dir), s.AgentArgs...)
}

// agentBGPArgs are those of BGP: where there is a router, and no FRR beside the
// agent, it speaks to the router itself.
func (s *state) agentBGPArgs(n int, dir string) []string {
	if s.Segments < 2 || s.FRR {
		return nil
	}
	return engine.BGPArgs(n, s.Segments, dir)
}
