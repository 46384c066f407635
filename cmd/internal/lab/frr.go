package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// Services of the router, and of hosts with Config.FRR.
const (
	ServiceZebra = "zebra"
	ServiceBGPD  = "bgpd"
)

// AS numbers of the lab, of those for private use (RFC 6996).
const (
	RouterAS = 65000
	HostAS   = 65001
)

const (
	frrRun  = "/run/frr"
	frrEtc  = "/etc/frr" // private to the member
	frrConf = frrEtc + "/frr.conf"
	// bgpPasswordName is below a member's directory. The sessions have a password
	// (TCP MD5, RFC 2385) to show that it works; it protects nothing here.
	bgpPasswordName = "bgp-password"
	bgpPassword     = "baize-lab"
)

// frrDir is where Debian and others put FRR's daemons.
const frrDir = "/usr/lib/frr"

var frrTools = []tool{{"vtysh", "frr"}}

// checkFRR refuses a lab that needs FRR where it is not installed.
func checkFRR() error {
	if err := checkTools(frrTools); err != nil {
		return err
	}
	for _, d := range []string{ServiceZebra, ServiceBGPD} {
		if _, err := os.Stat(filepath.Join(frrDir, d)); err != nil {
			return checkTools([]tool{{filepath.Join(frrDir, d), "frr"}})
		}
	}
	return nil
}

// frrServices are FRR's daemons in the foreground, in the member's namespaces:
// sockets, pid files and configuration are the member's own. As FRR's own start
// script does, vtysh(1) gives each what frr.conf has for it, again after a
// restart. needs are what zebra waits for.
func frrServices(c initConfig, run runner, needs ...string) []*service {
	daemon := func(name string, needs []string, args ...string) *service {
		return &service{
			name: name, needs: needs, env: c.Env,
			argv: append([]string{
				filepath.Join(frrDir, name), "-A", "127.0.0.1", "-P", "0",
				"-f", frrEtc + "/empty.conf", "-i", frrRun + "/" + name + ".pid", "-z", frrRun + "/zserv.api", "--vty_socket", frrRun,
				"--log", "stdout", "--log-level", "informational",
			}, args...),
			prepare: func(context.Context) error {
				removeAll(frrRun+"/"+name+".pid", frrRun+"/"+name+".vty")
				return writeFRRConf(c)
			},
			ready: func(ctx context.Context) error {
				if err := poll(ctx, func() (bool, error) {
					_, err := os.Stat(frrRun + "/" + name + ".vty")
					return err == nil, nil
				}); err != nil {
					return err
				}
				_, err := run(ctx, "vtysh", "-d", name, "-b")
				return err
			},
		}
	}
	return []*service{
		daemon(ServiceZebra, needs),
		daemon(ServiceBGPD, []string{ServiceZebra}, "-p", "179"),
	}
}

// writeFRRConf makes FRR's directories, for the user of its own that the
// package made.
func writeFRRConf(c initConfig) error {
	if err := os.MkdirAll(frrRun, 0o755); err != nil {
		return err
	}
	u, err := user.Lookup("frr")
	if err != nil {
		return err
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2, os.Chown(frrRun, uid, gid), os.Chown(frrEtc, uid, gid)); err != nil {
		return err
	}
	for name, text := range map[string]string{"frr.conf": c.FRR, "vtysh.conf": "service integrated-vtysh-config\n", "empty.conf": ""} {
		file := filepath.Join(frrEtc, name)
		if _, err := os.Stat(file); err == nil {
			continue // a person may have changed it
		}
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.Chown(file, uid, gid)); err != nil {
			return err
		}
	}
	return nil
}

// routerFRR is the router's frr.conf: whoever is in a segment and knows the
// password is a neighbour. Nothing in it is peculiar to Baize but the ranges.
func routerFRR(segments int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `frr defaults datacenter
hostname %s
!
router bgp %d
 bgp router-id %s
 no bgp ebgp-requires-policy
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 bgp graceful-restart restart-time 30
 neighbor hosts peer-group
 neighbor hosts remote-as external
 neighbor hosts password %s
`, routerName, RouterAS, routerAddrs(0)[0].Addr(), bgpPassword)
	for i := range segments {
		for _, p := range underlays[i] {
			fmt.Fprintf(&b, " bgp listen range %s peer-group hosts\n", p)
		}
	}
	b.WriteString(` !
 address-family ipv4 unicast
  neighbor hosts activate
 exit-address-family
 !
 address-family ipv6 unicast
  neighbor hosts activate
 exit-address-family
exit
!
`)
	return b.String()
}

// agentArgs are the arguments of the agent of host n, whose directory is dir.
func (s state) agentArgs(n int, dir string) []string {
	return append(s.bgpArgs(n, dir), s.AgentArgs...)
}

// bgpArgs are those of BGP: where there is a router, and no FRR beside the
// agent, it speaks to the router itself.
func (s state) bgpArgs(n int, dir string) []string {
	if s.Segments < 2 || s.FRR {
		return nil
	}
	return []string{
		"--bgp", fmt.Sprint(HostAS), "--bgp-neighbor", fmt.Sprintf("%d@%s", RouterAS, routerAddrs(segmentOf(n, s.Segments))[0].Addr()),
		"--bgp-password-file", filepath.Join(dir, bgpPasswordName),
	}
}

// hostFRR is frr.conf of host n: what 'baize route frr-conf' prints.
func (s state) hostFRR(n int) string {
	var networks []topology.Network
	for _, x := range s.Networks {
		t := topology.Network{Name: x.Name, Transport: s.transport(x)}
		for _, p := range x.Prefixes {
			if p.Addr().Is4() {
				t.IPv4 = p
			} else {
				t.IPv6 = p
			}
		}
		networks = append(networks, t)
	}
	router := route.FRRNeighbor{Addr: routerAddrs(segmentOf(n, s.Segments))[0].Addr(), AS: RouterAS}
	return route.FRRConf(networks, HostAS, []route.FRRNeighbor{router}, bgpPassword, pipeline.HostPortName)
}

// makeRouter sets up the devices that have come, and makes the member forward.
// ok is false while one is missing.
func makeRouter(c initConfig) (ok bool, err error) {
	for i, addrs := range c.Ports {
		dev := fmt.Sprintf("eth%d", i)
		if _, err := netlink.LinkByName(dev); err != nil {
			if errors.As(err, new(netlink.LinkNotFoundError)) {
				err = nil
			}
			return false, err
		}
		// See makeFabric.
		if err := errors.Join(checksumsOff(dev), setAddrs(dev, addrs)); err != nil {
			return false, err
		}
	}
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
			return false, err
		}
	}
	return true, nil
}

// setGateways makes default routes through a device.
func setGateways(device string, gateways []netip.Addr) error {
	if len(gateways) == 0 {
		return nil
	}
	l, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("device %s: %w", device, err)
	}
	for _, g := range gateways {
		unspecified := netip.IPv4Unspecified()
		if g.Is6() {
			unspecified = netip.IPv6Unspecified()
		}
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: g.AsSlice(), Dst: ipNet(netip.PrefixFrom(unspecified, 0)), Protocol: unix.RTPROT_STATIC}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("default route through %s: %w", g, err)
		}
	}
	return nil
}
