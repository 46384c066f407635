package engine

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

	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/cmd/internal/lab/supervisor"
	"github.com/baize-net/baize/cmd/internal/lab/wait"
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
	routerAS = 65000
	hostAS   = 65001
)

const (
	frrRun = "/run/frr"
	// FRRConfDir has FRR's configuration; it is private to the member.
	FRRConfDir = "/etc/frr"
	frrConf    = FRRConfDir + "/frr.conf"
	// bgpPasswordName is below a member's directory. The sessions have a password
	// (TCP MD5, RFC 2385) to show that it works; it protects nothing here.
	bgpPasswordName = "bgp-password"
	bgpPassword     = "baize-lab"
)

// frrDir is where Debian and others put FRR's daemons.
const frrDir = "/usr/lib/frr"

// frrServices are FRR's daemons in the foreground, in the member's namespaces:
// sockets, pid files and configuration are the member's own. As FRR's own start
// script does, vtysh(1) gives each what frr.conf has for it, again after a
// restart. needs are what zebra waits for.
func frrServices(c Config, run Runner, needs ...string) []*supervisor.Service {
	daemon := func(name string, needs []string, args ...string) *supervisor.Service {
		return &supervisor.Service{
			Name: name, Needs: needs, Env: c.Env,
			Argv: append([]string{
				filepath.Join(frrDir, name), "-A", "127.0.0.1", "-P", "0",
				"-f", FRRConfDir + "/empty.conf", "-i", frrRun + "/" + name + ".pid",
				"-z", frrRun + "/zserv.api", "--vty_socket", frrRun,
				"--log", "stdout", "--log-level", "informational",
			}, args...),
			Prepare: func(context.Context) error {
				removeAll(frrRun+"/"+name+".pid", frrRun+"/"+name+".vty")
				return writeFRRConf(c)
			},
			Ready: func(ctx context.Context) error {
				if err := wait.Poll(ctx, func() (bool, error) {
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
	return []*supervisor.Service{
		daemon(ServiceZebra, needs),
		daemon(ServiceBGPD, []string{ServiceZebra}, "-p", "179"),
	}
}

// routerServices are FRR's. Its devices come after its pid 1, and have their
// addresses when zebra has started: see Services.
func routerServices(c Config, run Runner) []*supervisor.Service {
	all := frrServices(c, run)
	ready := all[0].Ready
	all[0].Ready = func(ctx context.Context) error {
		if err := ready(ctx); err != nil {
			return err
		}
		if err := wait.Poll(ctx, func() (bool, error) { return fabric.MakeRouter(c.Place) }); err != nil {
			return fmt.Errorf("the router's devices: %w", err)
		}
		return nil
	}
	return all
}

// writeFRRConf makes FRR's directories, for the user of its own that the
// package made.
func writeFRRConf(c Config) error {
	if err := os.MkdirAll(frrRun, 0o755); err != nil {
		return err
	}
	u, err := user.Lookup("frr")
	if err != nil {
		return err
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2, os.Chown(frrRun, uid, gid), os.Chown(FRRConfDir, uid, gid)); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"frr.conf": c.FRR, "vtysh.conf": "service integrated-vtysh-config\n", "empty.conf": "",
	} {
		file := filepath.Join(FRRConfDir, name)
		if _, err := os.Stat(file); err == nil {
			continue // a person may have changed it
		}
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.Chown(file, uid, gid)); err != nil {
			return err
		}
	}
	return nil
}

// FRRRouterConf is the router's frr.conf: whoever is in a segment and knows the
// password is a neighbour. Nothing in it is peculiar to Baize but the ranges.
func FRRRouterConf(segments int) string {
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
`, member.Router, routerAS, fabric.RouterAddrs(0)[0].Addr(), bgpPassword)
	for i := range segments {
		for _, p := range fabric.Prefixes(i) {
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

// FRRHostConf is frr.conf of host n: what 'baize route frr-conf' prints.
func FRRHostConf(networks []topology.Network, n, segments int) string {
	router := route.FRRNeighbor{Addr: routerOf(n, segments), AS: routerAS}
	return route.FRRConf(networks, hostAS, []route.FRRNeighbor{router}, bgpPassword, pipeline.HostPortName)
}

// routerOf is the router's address in the segment of host n.
func routerOf(n, segments int) netip.Addr {
	return fabric.RouterAddrs(fabric.SegmentOf(n, segments))[0].Addr()
}

// BGPArgs are those that make the agent of host n, whose directory is dir, speak
// to the router.
func BGPArgs(n, segments int, dir string) []string {
	return []string{
		"--bgp", fmt.Sprint(hostAS), "--bgp-neighbor", fmt.Sprintf("%d@%s", routerAS, routerOf(n, segments)),
		"--bgp-password-file", filepath.Join(dir, bgpPasswordName),
	}
}

func writeBGPPassword(dir string) error {
	return os.WriteFile(filepath.Join(dir, bgpPasswordName), []byte(bgpPassword+"\n"), 0o600)
}
