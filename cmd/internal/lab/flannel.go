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

	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/flannel"
)

// ServiceFlannel is flannel itself, on the last host of a lab with
// Config.Flannel, in place of the agent.
const ServiceFlannel = "flanneld"

// flannelSpec is the network of every flannel tutorial.
func flannelSpec() NetworkSpec {
	return NetworkSpec{Name: flannel.Network, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
}

// mergeFlannel is the part of merge that concerns flannel.
func (s state) mergeFlannel(c Config) (state, error) {
	if !c.Flannel && !s.Flannel {
		return s, nil
	}
	if !s.Flannel && len(s.Hosts) > 0 {
		return s, &topology.Error{Kind: topology.ErrConflict, Item: "lab " + c.Name, What: "it runs without flannel's network", Remedy: "remove the lab first with 'baize lab down'"}
	}
	if c.DockerBridge {
		return s, &topology.Error{Kind: topology.ErrInvalid, Item: "lab " + c.Name, What: "in flannel's network docker0 is behind its host, and no part of an Ethernet", Remedy: "ask for Docker alone"}
	}
	fresh := !s.Flannel
	s.Flannel = true
	switch {
	case len(c.Networks) == 0 && fresh:
		s.Networks = []NetworkSpec{flannelSpec()}
	case len(s.Networks) != 1 || len(s.Networks[0].Prefixes) == 0 || !s.Networks[0].Prefixes[0].Addr().Is4():
		return s, &topology.Error{Kind: topology.ErrInvalid, Item: "lab " + c.Name, What: "flannel has one network, with an IPv4 prefix", Remedy: "give one, such as 10.1.0.0/16"}
	default:
		s.Networks[0].Name = flannel.Network
	}
	if _, err := s.flannelConfig(); err != nil {
		return s, err
	}
	if s.Docker || c.Docker {
		s.Endpoints = 0 // docker0 has the hosts' subnets
	}
	return s, nil
}

// flannelHost chooses the host that runs flannel, once: the last, where there
// is a program and a host is left for Baize.
func (s state) flannelHost(c Config) state {
	if s.Flannel && s.Flanneld == "" && c.Flanneld != "" && len(s.Hosts) > 1 {
		s.Flanneld, s.FlannelHost = c.Flanneld, s.Hosts[len(s.Hosts)-1]
	}
	return s
}

// FindFlannel returns flannel's program: flanneld beside Baize's own, where
// 'make lab-flannel' puts it, or in PATH; "" where there is none.
func FindFlannel(binary string) string {
	if binary == "" {
		binary, _ = os.Executable()
	}
	beside, err := filepath.Abs(filepath.Join(filepath.Dir(binary), ServiceFlannel))
	if info, serr := os.Stat(beside); err == nil && serr == nil && !info.IsDir() {
		return beside
	}
	found, err := exec.LookPath(ServiceFlannel)
	if err != nil {
		return ""
	}
	return found
}

// flannelConfig is what a person would put into etcd.
func (s state) flannelConfig() (string, error) {
	backends := map[topology.Transport]string{
		topology.VXLAN: `{ "Type": "vxlan" }`, topology.Route: `{ "Type": "host-gw" }`, topology.Auto: `{ "Type": "vxlan", "DirectRouting": true }`,
	}
	backend, ok := backends[s.transport(s.Networks[0])]
	if !ok {
		return "", &topology.Error{Kind: topology.ErrInvalid, Item: "transport " + string(s.Transport), What: "flannel has no such backend that Baize can do", Remedy: "use vxlan, route (host-gw) or auto (vxlan with DirectRouting)"}
	}
	var v6 string
	for _, p := range s.Networks[0].Prefixes {
		if p.Addr().Is6() {
			v6 = fmt.Sprintf(`, "EnableIPv6": true, "IPv6Network": %q`, p)
		}
	}
	return fmt.Sprintf(`{ "Network": %q%s, "Backend": %s }`, s.Networks[0].Prefixes[0], v6, backend), nil
}

// upFlannel puts flannel's configuration into etcd.
func (l *Lab) upFlannel(ctx context.Context) error {
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

// FlannelLayout reads flannel's keys; nil without Config.Flannel.
func (l *Lab) FlannelLayout(ctx context.Context) (*topology.Snapshot, error) {
	if !l.state.Flannel {
		return nil, nil
	}
	store, err := l.flannelStore(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = store.Close() }()
	return store.Snapshot(ctx)
}

func (l *Lab) flannelStore(ctx context.Context) (*etcdstore.Keys, error) {
	return etcdstore.OpenKeys(ctx, etcdstore.Config{Endpoints: []string{l.EtcdEndpoint()}, Prefix: flannel.DefaultPrefix})
}

// FlannelHost returns the name of the host that runs flannel; "" where none
// does.
func (l *Lab) FlannelHost() string { return l.state.FlannelHost }

// flannelService runs flannel as its own documentation does.
func flannelService(c initConfig, run runner) *service {
	return &service{
		name: ServiceFlannel,
		argv: []string{c.Flanneld, "-etcd-endpoints", c.Etcd, "-iface", c.underlayDevice()},
		env:  c.Env, needs: []string{ServiceVswitchd},
		prepare: func(ctx context.Context) error {
			removeAll(subnetenv.FlannelFile)
			// As Docker does; flannel does not.
			_, err := run(ctx, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
			return err
		},
		ready: func(ctx context.Context) error {
			err := poll(ctx, func() (bool, error) {
				_, err := subnetenv.Read(subnetenv.FlannelFile)
				return err == nil, nil
			})
			if err != nil {
				return fmt.Errorf("%s: %w", subnetenv.FlannelFile, err)
			}
			return nil
		},
	}
}

// addBehindDocker0 makes on the flannel host what Docker would: docker0 and a
// container behind it.
func (h *Host) addBehindDocker0(ctx context.Context, m member, n int, name string) error {
	e, err := subnetenv.Read(m.inside(subnetenv.FlannelFile))
	if err != nil {
		return err
	}
	if _, err := os.Lstat(m.inside(filepath.Join(netnsDir, name))); err == nil || !errors.Is(err, fs.ErrNotExist) {
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
		fmt.Fprintf(&b, "ip addr replace %s/%d dev docker0 %s\nip -n %s addr add %s/%d dev eth0 %s\nip -n %s route add default via %s\n",
			gateway, p.Bits(), flags, name, addr, p.Bits(), flags, name, gateway)
	}
	if _, err := h.Exec(ctx, "sh", "-ec", b.String()); err != nil {
		return err
	}
	return h.recordEndpoint(m, flannel.Network, name)
}
