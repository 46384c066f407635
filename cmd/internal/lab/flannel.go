package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/baize-net/baize/cmd/internal/lab/engine"
	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/flannel"
)

// Foreign is the part of Config that makes the network another program's,
// flannel's: all that the lab knows of flannel is in this file, and in the
// engine's of that name.
type Foreign struct {
	// Flannel makes the network flannel's, in flannel's own keys, and the agents
	// part of it. Flanneld, where it is not empty, is flannel's program (or one
	// that takes -etcd-endpoints and -iface), which the last host runs in place of
	// the agent.
	Flannel  bool
	Flanneld string
}

// foreignState is the part of state that Foreign becomes.
type foreignState struct {
	Flannel     bool   `json:"flannel,omitempty"`
	Flanneld    string `json:"flanneld,omitempty"`
	FlannelHost string `json:"flannelHost,omitempty"`
}

// wanted reports whether the configuration asks for a network of another
// program's.
func (f Foreign) wanted() bool { return f.Flannel }

// isForeign reports whether the network is another program's.
func (f foreignState) isForeign() bool { return f.Flannel }

// foreignName is that of what runs in place of an agent, for people.
func (f foreignState) foreignName() string { return "flannel" }

// flannelSpec is the network of every flannel tutorial.
func flannelSpec() NetworkSpec {
	return NetworkSpec{Name: flannel.Network, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
}

func (s *state) mergeForeign(c Config) error {
	if !c.Flannel && !s.Flannel {
		return nil
	}
	if !s.Flannel && s.runs() {
		return c.conflict("", "it runs without flannel's network")
	}
	if c.DockerBridge {
		return &topology.Error{
			Kind: topology.ErrInvalid, Item: "lab " + c.Name,
			What: "in flannel's network docker0 is behind its host, and no part of an Ethernet", Remedy: "ask for Docker alone",
		}
	}
	fresh := !s.Flannel
	s.Flannel = true
	switch {
	case len(c.Networks) == 0 && fresh:
		s.Networks = []NetworkSpec{flannelSpec()}
	case len(s.Networks) != 1 || len(s.Networks[0].Prefixes) == 0 || !s.Networks[0].Prefixes[0].Addr().Is4():
		return &topology.Error{
			Kind: topology.ErrInvalid, Item: "lab " + c.Name, What: "flannel has one network, with an IPv4 prefix",
			Remedy: "give one, such as 10.1.0.0/16",
		}
	default:
		s.Networks[0].Name = flannel.Network
	}
	if s.Docker || c.Docker {
		s.Endpoints = 0 // docker0 has the hosts' subnets
	}
	_, err := s.flannelConfig()
	return err
}

// chooseForeignHost chooses the host that runs flannel, once: the last, where
// there is a program and a host is left for Baize.
func (s *state) chooseForeignHost(c Config) {
	if s.Flannel && s.Flanneld == "" && c.Flanneld != "" && len(s.Hosts) > 1 {
		s.Flanneld, s.FlannelHost = c.Flanneld, s.Hosts[len(s.Hosts)-1]
	}
}

// addForeignConfig adds to what a host reads.
func (s *state) addForeignConfig(c *engine.Config) {
	if s.Flannel {
		c.Flannel, c.Etcd = true, fabric.EtcdURL(s.IPv6Underlay)
		c.Args = append(c.Args, "--flannel")
	}
	if c.Member == s.FlannelHost {
		c.Flanneld = s.Flanneld
	}
}

// FindFlannel returns flannel's program: flanneld beside Baize's own, where
// 'make lab-flannel' puts it, or in PATH; "" where there is none.
func FindFlannel(binary string) string {
	if binary == "" {
		binary, _ = os.Executable()
	}
	beside, err := filepath.Abs(filepath.Join(filepath.Dir(binary), engine.ServiceFlannel))
	if info, serr := os.Stat(beside); err == nil && serr == nil && !info.IsDir() {
		return beside
	}
	found, err := exec.LookPath(engine.ServiceFlannel)
	if err != nil {
		return ""
	}
	return found
}

// flannelConfig is what a person would put into etcd.
func (s state) flannelConfig() (string, error) {
	backends := map[topology.Transport]string{
		topology.VXLAN: `{ "Type": "vxlan" }`,
		topology.Route: `{ "Type": "host-gw" }`,
		topology.Auto:  `{ "Type": "vxlan", "DirectRouting": true }`,
	}
	backend, ok := backends[s.transport(s.Networks[0])]
	if !ok {
		return "", &topology.Error{
			Kind: topology.ErrInvalid, Item: "transport " + string(s.Transport),
			What:   "flannel has no such backend that Baize can do",
			Remedy: "use vxlan, route (host-gw) or auto (vxlan with DirectRouting)",
		}
	}
	var v6 string
	for _, p := range s.Networks[0].Prefixes {
		if p.Addr().Is6() {
			v6 = fmt.Sprintf(`, "EnableIPv6": true, "IPv6Network": %q`, p)
		}
	}
	return fmt.Sprintf(`{ "Network": %q%s, "Backend": %s }`, s.Networks[0].Prefixes[0], v6, backend), nil
}

// upForeign puts flannel's configuration into etcd.
func (l *Lab) upForeign(ctx context.Context) error {
	config, err := l.state.flannelConfig()
	if err != nil {
		return err
	}
	end := l.begin("put %s/%s: %s", flannel.DefaultPrefix, flannel.ConfigKey, config)
	store, err := l.flannelStore(ctx)
	if err != nil {
		return end(err)
	}
	defer func() { _ = store.Close() }()
	return end(flannel.PutConfig(ctx, store, []byte(config)))
}

// WithForeign adds the networks that other programs rule to a snapshot of
// Baize's own keys.
func (l *Lab) WithForeign(ctx context.Context, snap *topology.Snapshot) (*topology.Snapshot, error) {
	if !l.state.Flannel {
		return snap, nil
	}
	store, err := l.flannelStore(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = store.Close() }()
	layout, err := store.Snapshot(ctx)
	if err != nil || layout == nil {
		return snap, err
	}
	return flannel.Merge(snap, layout, ""), nil
}

// NodeName returns what the topology calls a host: its own name, or its address
// where it runs flannel.
func (l *Lab) NodeName(s *Status, host string) string {
	if host != l.state.FlannelHost {
		return host
	}
	for _, m := range s.Hosts {
		if m.Name == host {
			return flannel.NodeName(m.Addrs[0])
		}
	}
	return host
}

func (l *Lab) flannelStore(ctx context.Context) (*etcdstore.Keys, error) {
	return etcdstore.OpenKeys(ctx, etcdstore.Config{Endpoints: []string{l.EtcdEndpoint()}, Prefix: flannel.DefaultPrefix})
}

// FlannelHost returns the name of the host that runs flannel; "" where none
// does.
func (l *Lab) FlannelHost() string { return l.state.FlannelHost }

// addBehindDocker0 makes on the flannel host what Docker would: docker0 and a
// container behind it.
func (h *Host) addBehindDocker0(ctx context.Context, m member.Member, n int, name string) error {
	e, err := subnetenv.Read(m.Inside(subnetenv.FlannelFile))
	if err != nil {
		return err
	}
	if _, err := os.Lstat(m.Inside(filepath.Join(member.NetnsDir, name))); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, `ip link show docker0 >/dev/null 2>&1 || ip link add docker0 type bridge
ip link set docker0 up
ip netns add %[1]s
ip link add v-%[1]s type veth peer name eth0 netns %[1]s
ip link set v-%[1]s master docker0 up
ip -n %[1]s link set lo up
ip -n %[1]s link set eth0 mtu %[2]d up
`, name, e.MTU)
	for _, p := range []netip.Prefix{e.Subnet, e.IPv6Subnet} {
		if !p.IsValid() {
			continue
		}
		gateway := topology.NodeAddr(p)
		addr := gateway
		for range n {
			addr = addr.Next()
		}
		flags := ""
		if p.Addr().Is6() {
			flags = "nodad"
		}
		fmt.Fprintf(&b, "ip addr replace %s/%d dev docker0 %s\n", gateway, p.Bits(), flags)
		fmt.Fprintf(&b, "ip -n %s addr add %s/%d dev eth0 %s\n", name, addr, p.Bits(), flags)
		fmt.Fprintf(&b, "ip -n %s route add default via %s\n", name, gateway)
	}
	if _, err := h.Exec(ctx, "sh", "-ec", b.String()); err != nil {
		return err
	}
	return recordEndpoint(m, flannel.Network, name)
}
